"""Who has what to do in a run: nodes, their examples, and the steps of every round."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from fedpeft_app.assembly import fit_settings
from fedpeft_app.config import RunConfig
from fedpeft_app.config.readings import planned_ranks
from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.run_data import NodeData, node_data
from fedpeft_app.strategies.strategy import Member
from fedpeft_app.training.fit import FitSettings, Positions, step_groups
from fedpeft_app.training.private import schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Forward and backward passes, over batches as they are padded.

    Attributes:
        batches: Forward passes.
        tokens: Of all of them, what is padded included; pixels of images do not count.
        examples: Processed, repeats counted.
        steps: Of the optimizer; 0 in evaluation.
        passes: Over the examples.
    """

    batches: int
    tokens: int
    examples: int
    steps: int = 0
    passes: float = 1.0


@dataclass(frozen=True)
class Crew:
    """The nodes of a simulated run.

    Attributes:
        config: The run's configuration.
        nodes: How many there are.
    """

    config: RunConfig
    nodes: int
    _trained: dict[tuple[int, int, int], Work] = field(default_factory=dict)

    @cached_property
    def data(self) -> tuple[NodeData, ...]:
        """What each node has, by partition."""
        count = 1 if self.config.mode == "central" else self.nodes
        places = ({"partition-id": node, "num-partitions": count} for node in range(count))
        return tuple(node_data(self.config, place) for place in places)

    @cached_property
    def settings(self) -> FitSettings:
        """How every node trains."""
        return fit_settings(self.config)

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The nodes as the server knows them."""
        rank = self.config.method.rank
        ranks = planned_ranks(self.config.method.node_ranks, rank)
        told = self.config.privacy.counts_told
        return tuple(
            Member(
                node_id=own.partition + 1,
                partition=own.partition,
                examples=len(own.train) if told else min(len(own.train), 1),
                rank=ranks[own.partition % len(ranks)] % rank,
            )
            for own in self.data
        )

    @property
    def sizes(self) -> list[int]:
        """Training examples of each node."""
        return [len(own.train) for own in self.data]

    def trains(self, node: int, round_number: int, epochs: int = 0) -> Work:
        """Say what a node does in a round.

        Args:
            node: Its partition.
            round_number: Round, from 1.
            epochs: Passes over its examples; 0 = as the run's settings say.

        Returns:
            The work, exactly; of a round that is not cut short by `train.max-steps`, the tokens
            are those of the first round asked for, from which others differ in little.
        """
        settings = replace(self.settings, epochs=epochs) if epochs else self.settings
        key = (node, settings.epochs, round_number if settings.max_steps else 0)
        if key not in self._trained:
            self._trained[key] = trained(
                self.data[node].train.lengths,
                settings,
                round_number=round_number,
                partition=node,
                private=self.config.privacy.mode == "sample",
            )
        return self._trained[key]


def trained(
    lengths: Positions, settings: FitSettings, *, round_number: int, partition: int, private: bool
) -> Work:
    """Say what it takes to train on examples, as training cuts them into batches.

    Args:
        lengths: Tokens of each example, at least one.
        settings: How they are trained on.
        round_number: Round, from 1.
        partition: The node's partition.
        private: Whether each example is drawn by itself; then the work is the expected one.
    """
    if private:
        sampling, steps = schedule(len(lengths), settings)
        drawn = sampling * len(lengths)
        return Work(
            batches=steps * math.ceil(drawn / settings.batch_size),
            tokens=round(steps * drawn * lengths.mean()),
            examples=round(steps * drawn),
            steps=steps,
            passes=settings.epochs,
        )
    groups = step_groups(lengths, settings, round_number, partition)
    batches = [batch for group in groups for batch in group]
    examples = sum(len(batch) for batch in batches)
    return Work(
        batches=len(batches),
        tokens=sum(len(batch) * int(lengths[batch].max()) for batch in batches),
        examples=examples,
        steps=len(groups),
        passes=examples / len(lengths),
    )


def judged(examples: ExampleSet, batch_size: int) -> Work:
    """Say what it takes to judge a state on examples, as evaluation cuts them.

    Args:
        examples: The examples; may be empty.
        batch_size: Examples per forward pass.
    """
    lengths = sorted(map(int, examples.lengths), reverse=True)
    starts = range(0, len(lengths), batch_size)
    tokens = sum(lengths[at] * len(lengths[at : at + batch_size]) for at in starts)
    return Work(batches=len(starts), tokens=tokens, examples=len(lengths))


def told_of(work: Work, examples: int) -> Mapping[str, float]:
    """Give the numbers of a reply as long as they will be.

    Args:
        work: What the node did.
        examples: What it holds.
    """
    return {
        "num-examples": examples,
        "examples-trained": work.examples,
        "steps": work.steps,
        "loss": 1.5,
        "seconds": 1.5,
    }
