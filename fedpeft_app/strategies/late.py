"""Replies that nobody waits for any more: pulled so that they do not pile up, and dropped."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from fedpeft_app.strategies.strategy import Member
from fedpeft_app.wire.ledger import Entry, Ledger
from fedpeft_app.wire.record import message_bytes, payload_bytes


@dataclass(slots=True, kw_only=True)
class Late:
    """The messages to which no answer had come when their round went on without it.

    What comes of them has cost a node its work, and the network its bytes; a SuperLink keeps it
    until it is pulled.
    """

    _open: dict[str, tuple[Member, int]] = field(default_factory=dict)

    def expect(self, waiting: Mapping[str, Member], round_number: int) -> None:
        """Take over messages.

        Args:
            waiting: Message id → who was sent it.
            round_number: The round it was sent in.
        """
        self._open |= {message_id: (member, round_number) for message_id, member in waiting.items()}

    def drop(self, grid: Grid, ledger: Ledger, round_number: int) -> list[tuple[Member, int]]:
        """Pull what has come of them since, enter it into the ledger as "late", and drop it.

        Args:
            grid: Flower's connection.
            ledger: Told the size of every reply.
            round_number: The round that goes on now.

        Returns:
            Who sent something, and the round that it was for; errors are dropped without a word.
        """
        if not self._open:
            return []
        found = []
        for reply in grid.pull_messages(list(self._open)):
            member, asked_in = self._open.pop(reply.metadata.reply_to_message_id, (None, 0))
            if member is None or reply.has_error() or not reply.has_content():
                continue
            found.append((member, asked_in))
            ledger.note(
                Entry(
                    round_number=round_number,
                    node=member.partition,
                    direction="up",
                    kind="late",
                    size=message_bytes(reply),
                    payload=payload_bytes(reply),
                )
            )
        return found
