"""Send messages, hand over replies as they come, measure both."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import Error, Message
from flwr.serverapp import Grid

from fedpeft_app.strategies.strategy import Member
from fedpeft_app.wire.ledger import Entry, Ledger
from fedpeft_app.wire.record import message_bytes

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.01, 0.2  # Flower's own loop sleeps 3 s between polls
_TIMED_OUT = 0  # Flower's error codes start at 0 = unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A reply, or the error that stands for a missing one.

    Attributes:
        member: Who was asked.
        message: What came back; carries an error if nothing did.
        uplink_bytes: Size of the reply, 0 if there is none.
        seconds: From the first message sent to this arrival.
    """

    member: Member
    message: Message
    uplink_bytes: int
    seconds: float


def exchange(
    grid: Grid,
    messages: Mapping[Member, Message],
    *,
    ledger: Ledger,
    round_number: int,
    kind: str,
    timeout_s: float,
    arrived: Callable[[Arrival], None] = lambda arrival: None,
) -> list[Arrival]:
    """Send one message to each node and collect the replies.

    Args:
        grid: Flower's connection.
        messages: Whom to send what.
        ledger: Told the size of every message, both ways.
        round_number: Round for the ledger.
        kind: "roll-call", "train" or "evaluate", for the ledger.
        timeout_s: Seconds to wait; nodes that are silent until then count as failed.
        arrived: Called with each reply as it comes.

    Returns:
        One arrival per message, by partition.
    """
    for member, message in messages.items():
        size = message_bytes(message)
        _note(ledger, member, round_number, "down", kind, size)
    started = time.perf_counter()
    ids = list(grid.push_messages(list(messages.values())))
    waiting = {message_id: member for message_id, member in zip(ids, messages, strict=True)}
    arrivals: list[Arrival] = []
    wait_s = _FIRST_WAIT_S
    while waiting and time.perf_counter() - started < timeout_s:
        replies = list(grid.pull_messages(list(waiting)))
        for reply in replies:
            member = waiting.pop(reply.metadata.reply_to_message_id)
            seconds = time.perf_counter() - started
            size = message_bytes(reply) if reply.has_content() else 0
            _note(ledger, member, round_number, "up", kind, size)
            arrivals.append(
                Arrival(member=member, message=reply, uplink_bytes=size, seconds=seconds)
            )
            arrived(arrivals[-1])
        wait_s = _FIRST_WAIT_S if replies else min(1.5 * wait_s, _LONGEST_WAIT_S)
        if waiting:
            time.sleep(wait_s)
    for member in waiting.values():
        arrivals.append(_silent(member, messages[member], timeout_s))
        arrived(arrivals[-1])
    return sorted(arrivals, key=lambda arrival: arrival.member.partition)


def _note(
    ledger: Ledger, member: Member, round_number: int, direction: str, kind: str, size: int
) -> None:
    """Enter one message into the ledger."""
    ledger.note(
        Entry(
            round_number=round_number,
            node=member.partition,
            direction="up" if direction == "up" else "down",
            kind=kind,
            size=size,
        )
    )


def _silent(member: Member, message: Message, timeout_s: float) -> Arrival:
    """Make the error that stands for a reply that did not come in time."""
    error = Error(code=_TIMED_OUT, reason=f"no reply within {timeout_s:g} s")
    return Arrival(
        member=member,
        message=Message(error, reply_to=message),
        uplink_bytes=0,
        seconds=timeout_s,
    )
