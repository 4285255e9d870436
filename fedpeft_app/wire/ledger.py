"""The byte ledger: what messages cost, measured, and what full fine-tuning would have.

Sums, not a list: a run of any length needs as much memory, and as little to go on after a crash.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Direction = Literal["up", "down"]
_FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One message.

    Attributes:
        round_number: Round, from 1; 0 for the roll call.
        node: The node's partition.
        direction: "down" (server → node) or "up".
        kind: "roll-call", "train" or "evaluate".
        size: Bytes as Flower serialises the message; 0 for a reply without content.
        payload: Those of them that are encoded states; the others are overhead.
    """

    round_number: int
    node: int
    direction: Direction
    kind: str
    size: int
    payload: int = 0


@dataclass(slots=True, kw_only=True)
class Sum:
    """Messages that were added up.

    Attributes:
        carrying: How many of them carried something.
        size: Their bytes.
        payload: Those of them that are encoded states.
    """

    carrying: int = 0
    size: int = 0
    payload: int = 0

    def add(self, entry: Entry) -> None:
        """Add a message."""
        self.carrying += entry.size > 0
        self.size += entry.size
        self.payload += entry.payload


@dataclass(slots=True)
class Ledger:
    """Every message of a run, added up by kind and direction, those of its last round by node too.

    Attributes:
        backbone_bytes: One-off size of the frozen model's files, which each node needs.
        full_parameters: Parameters that full fine-tuning would send, head included.
    """

    backbone_bytes: int
    full_parameters: int
    _run: dict[tuple[str, str], Sum] = field(default_factory=dict)  # by kind and direction
    _round: dict[tuple[str, str, int], Sum] = field(default_factory=dict)  # and by node
    _round_number: int = 0

    def note(self, entry: Entry) -> None:
        """Add a message.

        Args:
            entry: What it was and what it cost; the first one of a round ends the one before. One
                of an earlier round, as of a roll call for those who join, counts for the run.
        """
        if entry.round_number > self._round_number:
            self._round_number = entry.round_number
            self._round.clear()
        self._run.setdefault((entry.kind, entry.direction), Sum()).add(entry)
        if entry.round_number < self._round_number:
            return
        key = (entry.kind, entry.direction, entry.node)
        self._round.setdefault(key, Sum()).add(entry)

    def total(
        self, direction: Direction | None = None, *, kind: str = "", round_number: int | None = None
    ) -> int:
        """Add up bytes.

        Args:
            direction: Only "up" or "down"; None = both.
            kind: Only this kind; empty = all.
            round_number: Only this round, the last one; None = all.

        Returns:
            Bytes; 0 if no message matches.

        Raises:
            ValueError: If the round is over, and its messages are no longer told apart.
        """
        return sum(
            one.size
            for (of_kind, of_direction, *_), one in self._sums(round_number).items()
            if direction in (None, of_direction) and kind in ("", of_kind)
        )

    def payload(self) -> int:
        """Add up the bytes of encoded states alone."""
        return sum(one.payload for one in self._run.values())

    def by_node(self, round_number: int) -> dict[str, dict[str, int]]:
        """Add up a round's bytes per node.

        Args:
            round_number: The last round, from 1.

        Returns:
            Partition → direction → bytes; and "payload" → those of encoded states, both ways.

        Raises:
            ValueError: As `total`.
        """
        sums: dict[str, dict[str, int]] = {}
        for (_, direction, node), one in self._nodes(round_number).items():
            row = sums.setdefault(str(node), {"down": 0, "up": 0, "payload": 0})
            row[direction] += one.size
            row["payload"] += one.payload
        return sums

    def mean_message_bytes(self) -> int:
        """Average the size of the train messages that carried something; 0 if none did."""
        carrying = self._carrying()
        return round(self.total(kind="train") / carrying) if carrying else 0

    @property
    def full_message_bytes(self) -> int:
        """Payload of one full fine-tuning message: float32, without any overhead."""
        return _FLOAT32_BYTES * self.full_parameters

    def ratio_to_full(self) -> float:
        """How many times fewer bytes than full fine-tuning, over the same train messages.

        Overhead counts on our side only, so the ratio is a lower bound. Messages that carried
        nothing count on neither side.

        Returns:
            The ratio, or NaN if no train message carried anything.
        """
        spent = self.total(kind="train")
        return self._carrying() * self.full_message_bytes / spent if spent else float("nan")

    def to_values(self) -> list[dict[str, Any]]:
        """Write the sums of the run as JSON values."""
        return [
            {"kind": kind, "direction": direction, **asdict(one)}
            for (kind, direction), one in self._run.items()
        ]

    def go_on(self, values: list[Mapping[str, Any]]) -> None:
        """Add what an earlier part of the run has cost.

        Args:
            values: What `to_values` gave.
        """
        for row in values:
            one = self._run.setdefault((row["kind"], row["direction"]), Sum())
            one.carrying += row["carrying"]
            one.size += row["size"]
            one.payload += row["payload"]

    def _carrying(self) -> int:
        """Count the train messages that carried something."""
        return sum(one.carrying for (kind, _), one in self._run.items() if kind == "train")

    def _sums(self, round_number: int | None) -> Mapping[tuple[Any, ...], Sum]:
        """Give the sums of a round, or of the run."""
        return self._run if round_number is None else self._nodes(round_number)

    def _nodes(self, round_number: int) -> Mapping[tuple[str, str, int], Sum]:
        """Give the sums of a round; a round without messages has none."""
        if round_number < self._round_number:
            raise ValueError(f"Expected a round from {self._round_number}, got {round_number}.")
        return self._round if round_number == self._round_number else {}
