"""The protocol of a strategy: who gets what, and how replies become the next state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedpeft_app.adapters import AdapterState
from fedpeft_app.wire.record import Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A node that passed the roll call.

    Attributes:
        node_id: Flower's id, random for every run.
        partition: The node's own number, from 0; stable, so it seeds and orders things.
        examples: Training examples it holds.
    """

    node_id: int
    partition: int
    examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A good update, decoded and guarded.

    Attributes:
        member: Who sent it.
        delta: local − global.
        weight: Aggregation weight, > 0: examples trained on.
        metrics: The node's numbers.
        facts: Short texts about the process that trained.
    """

    member: Member
    delta: AdapterState
    weight: float
    metrics: Mapping[str, float]
    facts: Mapping[str, Scalar] = field(default_factory=dict)


class Strategy(Protocol):
    """One federated algorithm, without any transport."""

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Mapping[str, Scalar]]:
        """Choose who of the cohort trains, and with which extra options.

        Args:
            round_number: Round, from 1.
            state: The global state.
            cohort: The sampled nodes, by partition.

        Returns:
            Node id → options for its order.
        """
        ...

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Fold replies into the next global state.

        Args:
            round_number: Round, from 1.
            state: The state the deltas are relative to.
            replies: Good replies, at least one, by partition.
        """
        ...


def name_of(strategy: Strategy) -> str:
    """Name a strategy for messages: its own name if it has one, else its class's."""
    return str(getattr(strategy, "name", "") or type(strategy).__name__)
