"""What came of a round, and who may look on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedpeft_app.adapters import AdapterState
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.strategy import Member, Reply, train_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """What came of one round.

    Attributes:
        round_number: Round, from 1.
        state: The new global state.
        good: Replies that were folded.
        rejected: Partition → reason, for the other members of the cohort.
        seconds: From the first train message sent to the last reply received.
        client_metrics: Partition → metrics of the nodes that evaluated the new state.
        untrained: Those of them whose own parameters are still as they were drawn.
        final: Whether no further round follows.
        spent: The budget that is spent with it, by its key; empty = none is.
        notes: What the strategy notes of its aggregation, by name.
        snapshot: What the next round depends on, but for the state.
    """

    round_number: int
    state: AdapterState
    good: Sequence[Reply]
    rejected: Mapping[int, str]
    seconds: float
    client_metrics: Mapping[int, Mapping[str, float]]
    untrained: tuple[int, ...] = ()
    final: bool = False
    spent: str = ""
    notes: Mapping[str, float] = field(default_factory=dict)
    snapshot: Snapshot = field(default_factory=Snapshot)

    @property
    def train_loss(self) -> float:
        """Mean training loss over the cohort, weighted by examples; NaN where nobody tells."""
        return train_loss(self.good)


class Watcher(Protocol):
    """What may look on while rounds go by."""

    def round_started(self, round_number: int, cohort: Sequence[Member]) -> None:
        """Told before the first message of a round."""
        ...

    def reply_arrived(self, round_number: int, member: Member, problem: str) -> None:
        """Told with every train reply; `problem` says why it does not count, if so."""
        ...

    def asked_again(self, round_number: int, cohort: Sequence[Member]) -> None:
        """Told before the first message of a further attempt: too few replies were good."""
        ...

    def came_late(self, round_number: int, member: Member, asked_in: int) -> None:
        """Told of a reply that nobody waited for any more, and that is dropped."""
        ...

    def left_alone(self, node: int, until: int) -> None:
        """Told of a partition that failed too often to be asked before a round has ended."""
        ...

    def evaluation_failed(self, round_number: int, member: Member, problem: str) -> None:
        """Told of a node that was asked to evaluate, and why what it says does not count."""
        ...

    def nobody_judged(self, round_number: int, failed: Mapping[int, str]) -> None:
        """Told of a round that no node evaluated, though some should; it goes on all the same.

        Args:
            round_number: Round, from 1.
            failed: Partition → reason, for everyone who was asked.
        """
        ...

    def round_answered(self, good: Sequence[Reply], rejected: Mapping[int, str]) -> None:
        """Told what came of all orders, before anything is made of it, and be it too little.

        Args:
            good: Replies that count.
            rejected: Partition → reason, for everyone else who was asked, or drawn to be.
        """
        ...

    def round_finished(self, result: RoundResult) -> bool:
        """Told when the new state stands: evaluate, checkpoint, journal.

        Returns:
            Whether the run should end here.
        """
        ...
