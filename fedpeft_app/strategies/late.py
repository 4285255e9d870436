"""Replies that came too late: pulled so that they do not pile up, and handed out once."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from fedpeft_app.strategies.strategy import Member
from fedpeft_app.wire.ledger import Entry, Ledger
from fedpeft_app.wire.record import message_bytes, payload_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Latecomer:
    """A reply for which nobody waited any more.

    Attributes:
        member: Who sent it.
        asked_in: The round that it is for.
        message: What came; never an error.
    """

    member: Member
    asked_in: int
    message: Message


@dataclass(slots=True, kw_only=True)
class _Open:
    """A message that is not answered; `due`: when silence is a failure, None = it was one."""

    member: Member
    round_number: int
    due: float | None


@dataclass(slots=True, kw_only=True)
class Late:
    """The messages to which no answer had come when their round went on without it.

    What comes of them has cost a node its work, and the network its bytes; a SuperLink keeps it
    until it is pulled.
    """

    _open: dict[str, _Open] = field(default_factory=dict)

    def expect(self, waiting: Mapping[str, Member], round_number: int, patience_s: float) -> None:
        """Take over messages.

        Args:
            waiting: Message id → who was sent it.
            round_number: The round it was sent in.
            patience_s: Seconds after which silence is a failure; 0 = it has been counted as one.
        """
        due = time.monotonic() + patience_s if patience_s > 0 else None
        for message_id, member in waiting.items():
            self._open[message_id] = _Open(member=member, round_number=round_number, due=due)

    def pull(self, grid: Grid, ledger: Ledger, round_number: int) -> Iterator[Latecomer]:
        """Hand out what has come of them since; errors are dropped without a word.

        Args:
            grid: Flower's connection.
            ledger: Told the size of every reply, as "train" if it is for the round that goes on
                now, else as "late".
            round_number: The round that goes on now.
        """
        if not self._open:
            return
        for reply in grid.pull_messages(list(self._open)):
            asked = self._open.pop(reply.metadata.reply_to_message_id, None)
            if asked is None or reply.has_error() or not reply.has_content():
                continue
            ledger.note(
                Entry(
                    round_number=round_number,
                    node=asked.member.partition,
                    direction="up",
                    kind="train" if asked.round_number == round_number else "late",
                    size=message_bytes(reply),
                    payload=payload_bytes(reply),
                )
            )
            yield Latecomer(member=asked.member, asked_in=asked.round_number, message=reply)

    def overdue(self) -> set[int]:
        """Tell once who has been silent so long that it is a failure, be it not needed.

        All messages that a node has not answered by then are one silence.

        Returns:
            Partitions.
        """
        now = time.monotonic()
        silent = {
            one.member.partition
            for one in self._open.values()
            if one.due is not None and one.due <= now
        }
        for one in self._open.values():
            if one.member.partition in silent:
                one.due = None
        return silent
