"""The protocol of a strategy: who gets what, and how replies become the next state."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.parts import spread
from fedpeft_app.wire.record import Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node that passed the roll call.

    Attributes:
        node_id: Flower's id, random for every run.
        partition: The node's own number, from 0; stable, so it seeds and orders things.
        examples: Training examples it holds.
        rank: The rank of its adapter; 0 = the run's.
    """

    node_id: int
    partition: int
    examples: int
    rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What one node is to do in a round.

    Attributes:
        state: What it sets out from: the global state itself, or one of the node's own rank.
        part: What it trains: "" for everything, "a" or "b" for that factor of low-rank modules
            and whatever belongs to none.
        options: Scalars for it: "epochs" and "proximal-mu" (FedProx's μ) are what nodes know.
        extras: Further states for it, by name: nodes know "control" (SCAFFOLD's c).
    """

    state: AdapterState
    part: str = ""
    options: Mapping[str, Scalar] = field(default_factory=dict)
    extras: Mapping[str, AdapterState] = field(default_factory=dict)


class Encoded(Protocol):
    """A state as it came over the wire; decoding it costs time and memory, so only now."""

    def decode(self) -> AdapterState:
        """Give the state."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A good update: guarded, but not decoded before it is its turn.

    Attributes:
        member: Who sent it.
        start: What the node set out from.
        update: local − start, of what it trained.
        weight: Aggregation weight, > 0: examples trained on.
        metrics: The node's numbers.
        facts: Short texts about the process that trained.
        extras: What else the strategy had asked for, by name.
    """

    member: Member
    start: AdapterState
    update: Encoded
    weight: float
    metrics: Mapping[str, float]
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    extras: Mapping[str, Encoded] = field(default_factory=dict)

    @property
    def delta(self) -> AdapterState:
        """Decode local − start, with zeros for what did not train; often a read-only view."""
        return spread(self.update.decode(), self.start.spec)


class Strategy(Protocol):
    """One federated algorithm, without any transport."""

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Look at the adapter and at who takes part, and refuse what it cannot serve.

        Called before round 1; and without members before a run starts.

        Args:
            spec: The adapter.
            members: Nodes that passed the roll call, by partition.

        Raises:
            AdapterMismatchError: If it has no use for such an adapter.
            RollCallError: If it cannot serve some node; with the node's number.
        """
        ...

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Choose who of the cohort trains what.

        Args:
            round_number: Round, from 1.
            state: The global state.
            cohort: The sampled nodes, by partition.

        Returns:
            Node id → what that node is to do.
        """
        ...

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Fold replies into the next global state.

        Args:
            round_number: Round, from 1.
            state: The state that `configure` was given.
            replies: Good replies, by partition; at least one, unless a strategy that draws its
                cohort by chance may have asked nobody.
        """
        ...


def everyone(cohort: Sequence[Member], task: Assignment) -> dict[int, Assignment]:
    """Ask the whole cohort to do the same, as `Strategy.configure` says it."""
    return {member.node_id: task for member in cohort}


def in_own_ranks(
    cohort: Sequence[Member], state_of: Callable[[int], AdapterState]
) -> dict[int, Assignment]:
    """Ask the whole cohort, each in its own rank; what is equal is made, and encoded, once.

    Args:
        cohort: Who is asked.
        state_of: Makes the state of a rank; 0 = the run's.
    """
    tasks = {rank: Assignment(state=state_of(rank)) for rank in {one.rank for one in cohort}}
    return {member.node_id: tasks[member.rank] for member in cohort}


def in_part(part: str, tasks: Mapping[int, Assignment]) -> dict[int, Assignment]:
    """Let everyone do the same, but train a part only.

    Args:
        part: As in `Assignment`.
        tasks: Node id → what that node is to do.
    """
    return {node_id: replace(task, part=part) for node_id, task in tasks.items()}


def name_of(strategy: Strategy) -> str:
    """Name a strategy for messages: its own name if it has one, else its class's."""
    return str(getattr(strategy, "name", "") or type(strategy).__name__)


def needs_each(strategy: Strategy) -> bool:
    """Say whether a strategy looks at what each node sent, and a mean of that would not do.

    It says so itself, in its `needs_each`; of a strategy that says nothing it is not known.
    """
    return bool(getattr(strategy, "needs_each", False))


def notes_of(strategy: Strategy) -> dict[str, float]:
    """Read what a strategy notes of its last `aggregate` in its `notes`, if it has any."""
    return dict(getattr(strategy, "notes", {}))


def train_loss(good: Sequence[Reply]) -> float:
    """Average the training losses of replies, weighted by examples; NaN where nobody tells."""
    told = [(reply.weight, reply.metrics["loss"]) for reply in good if "loss" in reply.metrics]
    weights = sum(weight for weight, _ in told)
    return sum(weight * loss for weight, loss in told) / weights if told else math.nan
