"""The byte ledger: what every message cost, measured, and what full fine-tuning would have."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

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


@dataclass(slots=True)
class Ledger:
    """Every message of a run, in the order of sending.

    Attributes:
        backbone_bytes: One-off size of the frozen model's files, which each node needs.
        full_parameters: Parameters that full fine-tuning would send, head included.
        entries: One per message.
    """

    backbone_bytes: int
    full_parameters: int
    entries: list[Entry] = field(default_factory=list)

    def note(self, entry: Entry) -> None:
        """Add a message.

        Args:
            entry: What it was and what it cost.
        """
        self.entries.append(entry)

    def total(
        self, direction: Direction | None = None, *, kind: str = "", round_number: int | None = None
    ) -> int:
        """Add up bytes.

        Args:
            direction: Only "up" or "down"; None = both.
            kind: Only this kind; empty = all.
            round_number: Only this round; None = all.

        Returns:
            Bytes; 0 if no message matches.
        """
        return sum(entry.size for entry in self._matching(direction, kind, round_number))

    def payload(self, direction: Direction | None = None, *, kind: str = "") -> int:
        """Add up the bytes of encoded states alone; as for `total`."""
        return sum(entry.payload for entry in self._matching(direction, kind, None))

    def _matching(
        self, direction: Direction | None, kind: str, round_number: int | None
    ) -> Iterator[Entry]:
        """Walk over the messages of one direction, kind and round."""
        for entry in self.entries:
            if direction is not None and entry.direction != direction:
                continue
            if kind and entry.kind != kind:
                continue
            if round_number is not None and entry.round_number != round_number:
                continue
            yield entry

    def by_node(self, round_number: int) -> dict[str, dict[str, int]]:
        """Add up a round's bytes per node.

        Args:
            round_number: Round, from 1.

        Returns:
            Partition → direction → bytes; and "payload" → those of encoded states, both ways.
        """
        sums: dict[str, dict[str, int]] = {}
        for entry in self._matching(None, "", round_number):
            row = sums.setdefault(str(entry.node), {"down": 0, "up": 0, "payload": 0})
            row[entry.direction] += entry.size
            row["payload"] += entry.payload
        return sums

    def mean_message_bytes(self) -> int:
        """Average the size of the train messages that carried something; 0 if none did."""
        sizes = [entry.size for entry in self._matching(None, "train", None) if entry.size > 0]
        return round(sum(sizes) / len(sizes)) if sizes else 0

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
        count = sum(1 for entry in self._matching(None, "train", None) if entry.size > 0)
        spent = self.total(kind="train")
        return count * self.full_message_bytes / spent if spent else float("nan")
