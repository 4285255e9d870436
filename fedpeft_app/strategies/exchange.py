"""Send messages, hand over replies as they come, measure both."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Error, Message
from flwr.serverapp import Grid

from fedpeft_app.strategies.strategy import Member
from fedpeft_app.wire.ledger import Entry, Ledger
from fedpeft_app.wire.record import message_bytes

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.01, 0.2  # Flower's own loop sleeps 3 s between polls
_SWEEP_S = 0.12  # Flower's simulation collects messages every 0.1 s, in an order of its own
_AHEAD = 4  # so many are sent one by one; the others at once behind them
_NO_REPLY = 0  # Flower's error codes start at 0 = unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A reply, or the error that stands for a missing one.

    Attributes:
        member: Who was asked.
        message: What came back; carries an error if nothing did.
        uplink_bytes: Size of the reply, 0 if there is none.
        seconds: From the first message sent to this arrival, or to giving up.
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
        timeout_s: Seconds to wait; nodes that are silent until then count as failed, as do
            those to which Flower could not send.
        arrived: Called with each reply as it comes.

    Returns:
        One arrival per message, by partition.
    """
    started = time.perf_counter()
    waiting = _push(grid, messages)
    sent = set(waiting.values())
    arrivals: list[Arrival] = []

    def arrive(member: Member, message: Message, size: int = 0) -> None:
        seconds = time.perf_counter() - started
        arrivals.append(Arrival(member=member, message=message, uplink_bytes=size, seconds=seconds))
        arrived(arrivals[-1])

    for member, message in messages.items():
        if member not in sent:
            arrive(member, _failure(message, "the message could not be sent"))
    for member, reply in _replies(grid, waiting, started + timeout_s):
        arrive(member, reply, message_bytes(reply) if reply.has_content() else 0)
    silent = set(waiting.values())
    for member in silent:
        arrive(member, _failure(messages[member], f"no reply within {timeout_s:g} s"))
    # Weighed only now: Flower's simulation hands these very objects to other threads, which
    # pickle them, and weighing leaves notes in them.
    for member in messages:
        if member in sent:
            _note(ledger, member, round_number, "down", kind, message_bytes(messages[member]))
    answered = sent - silent
    for arrival in arrivals:
        if arrival.member in answered:
            _note(ledger, arrival.member, round_number, "up", kind, arrival.uplink_bytes)
    return sorted(arrivals, key=lambda arrival: arrival.member.partition)


def _replies(
    grid: Grid, waiting: dict[str, Member], deadline: float
) -> Iterator[tuple[Member, Message]]:
    """Hand out replies as they come, taking who answered off the list of `waiting`."""
    wait_s = _FIRST_WAIT_S
    while waiting and time.perf_counter() < deadline:
        replies = list(grid.pull_messages(list(waiting)))
        for reply in replies:
            member = waiting.pop(reply.metadata.reply_to_message_id, None)
            if member is not None:  # else a second reply, or one to a message that is not ours
                yield member, reply
        wait_s = _FIRST_WAIT_S if replies else min(1.5 * wait_s, _LONGEST_WAIT_S)
        if waiting:
            time.sleep(wait_s)


def _push(grid: Grid, messages: Mapping[Member, Message]) -> dict[str, Member]:
    """Send messages, longest work first; give message id → member for those Flower took.

    Where nodes share processors, as in simulation, starting with those that hold most makes
    the round shorter (Graham 1969, longest processing time first).
    """
    order = sorted(messages, key=lambda member: (-member.examples, member.partition))
    uneven = len({member.examples for member in order}) > 1
    ahead = order[:_AHEAD] if uneven else []
    waiting: dict[str, Member] = {}
    for member in ahead:
        waiting |= _push_together(grid, {member: messages[member]})
        time.sleep(_SWEEP_S)
    rest = {member: messages[member] for member in order[len(ahead) :]}
    return waiting | _push_together(grid, rest) if rest else waiting


def _push_together(grid: Grid, messages: Mapping[Member, Message]) -> dict[str, Member]:
    """Send messages at once.

    In place of a message that it could not push, Flower returns None, or nothing.
    """
    ids = list(grid.push_messages(list(messages.values())))
    if len(ids) == len(messages):
        pairs = zip(ids, messages, strict=True)
        return {message_id: member for message_id, member in pairs if message_id}
    by_id = {message.metadata.message_id: member for member, message in messages.items()}
    return {message_id: by_id[message_id] for message_id in ids if message_id in by_id}


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


def _failure(message: Message, reason: str) -> Message:
    """Make the error that stands for a reply that did not come."""
    return Message(Error(code=_NO_REPLY, reason=reason), reply_to=message)
