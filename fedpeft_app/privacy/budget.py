"""What may be spent of privacy in a run, and what has been: written down before it is spent."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from fedpeft_app.errors import BudgetSpentError, NodeStateError, PrivacyError
from fedpeft_app.privacy.accountant import epsilon, noise_multiplier
from fedpeft_app.privacy.events import Event

_ROUND = "round"


class RowStore(Protocol):
    """Where rows are kept; only ever added, and on disk when `append` returns."""

    @property
    def path(self) -> Path:
        """Where that is, for those who have to restore it."""
        ...

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """Read every row."""
        ...

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        ...

    def held(self, wait_s: float = ...) -> AbstractContextManager[None]:
        """Keep everyone else from adding rows meanwhile; who holds it may do so once more."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The privacy of one data set in one run: of a node's examples, or of all nodes.

    There is no way to count less than the whole book: not a round, not a process.

    Attributes:
        book: What was spent.
        delta: δ of the guarantee, in (0, 1).
        target: ε that is never exceeded; 0 = none is set.
    """

    book: RowStore
    delta: float
    target: float = 0.0

    def spend(self, event: Event, round_number: int) -> None:
        """Write a mechanism down; only then may it run. Every attempt at a round counts.

        Args:
            event: The mechanism.
            round_number: The round that it is for, from 1.

        Raises:
            BudgetSpentError: If it would exceed the target; it is not written then.
            NodeStateError: If it cannot be written.
        """
        with self.book.held():  # what is counted is all there is when the row is written
            if self.target:
                self._require_left(event, round_number)
            self.book.append({_ROUND: round_number, **event.to_row()})

    def spent(self, *, amplified: bool = True) -> float:
        """Give ε of everything in the book.

        Args:
            amplified: Whether to count that nobody knows who was sampled; without, every
                mechanism counts as if it had seen all.
        """
        return epsilon(self.events(), self.delta, amplified=amplified)

    def events(self) -> tuple[Event, ...]:
        """Give everything in the book."""
        return tuple(Event.from_row(row) for row in self.book.rows())

    def require_round(self, round_number: int) -> None:
        """Refuse a book that lacks a round whose result has been released.

        Args:
            round_number: The last round of which someone holds a result; 0 = none.

        Raises:
            NodeStateError: If it is missing: the book is lost, and with it what was spent.
        """
        if round_number and round_number not in {row.get(_ROUND) for row in self.book.rows()}:
            raise NodeStateError(
                f"Expected a record of what was spent in round {round_number}, of which the server "
                f"holds a reply, in {self.book.path} on this node, found none. Without it, nobody "
                f"knows what is left; restore that file from a backup, or leave this node out of "
                f"the run."
            )

    def _require_left(self, event: Event, round_number: int) -> None:
        """Refuse an event that would exceed the target."""
        after = epsilon([*self.events(), event], self.delta)
        if after > self.target:
            raise BudgetSpentError(
                f"Round {round_number} would bring ε to {after:.3f} at δ = {self.delta:g}, "
                f"beyond privacy.target-epsilon = {self.target:g}."
            )


def require_small(delta: float, count: int, whom: str) -> None:
    """Refuse a δ that would allow to publish one of those whom it is to hide outright.

    Args:
        delta: δ, in (0, 1).
        count: How many they are.
        whom: Who they are, in words, with their number.

    Raises:
        PrivacyError: If δ is not below 1 / count.
    """
    if delta * count >= 1:
        raise PrivacyError(
            f"privacy.delta = {delta:g} is not below 1 over {whom}: publishing what one of them "
            f"holds, drawn at random, would satisfy it. Lower it."
        )


@lru_cache(maxsize=64)
def least_noise(target: float, delta: float, sampling: float, steps: int) -> float:
    """Solve for the noise multiplier of a whole run, once per process: it takes seconds.

    Args and errors are those of `noise_multiplier`, with nothing spent before.
    """
    return noise_multiplier(target, delta=delta, sampling=sampling, steps=steps)
