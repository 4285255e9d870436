"""Send messages, hand over replies as they come, measure both."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Error, Message
from flwr.serverapp import Grid

from fedpeft_app.seeds import derive_seed
from fedpeft_app.strategies.strategy import Member
from fedpeft_app.wire.ledger import Direction, Entry, Ledger
from fedpeft_app.wire.record import message_bytes, messages_bytes, payload_bytes, renewed

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.01, 0.2  # Flower's own loop sleeps 3 s between polls
_WAIT_EACH_S = 1e-4  # to ask for a message costs Flower's simulation 7 µs: 7 % of the time at most
_SWEEP_S = 0.12  # Flower's simulation collects messages every 0.1 s, in an order of its own
_AHEAD = 4  # so many are sent one by one if the longest work goes first
NOT_SENT = "the message could not be sent"  # so the node knows of nothing
_NO_REPLY = 0  # Flower's error codes start at 0 = unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A reply, or the error that stands for a missing one.

    Attributes:
        member: Who was asked.
        message: What came back; carries an error if nothing did.
        uplink_bytes: Size of the reply, 0 if there is none.
        payload_bytes: What of it are encoded states.
        seconds: From the first message sent to this arrival, or to giving up.
        unneeded: Whether enough others were faster.
    """

    member: Member
    message: Message
    uplink_bytes: int
    payload_bytes: int
    seconds: float
    unneeded: bool = False


def exchange(
    grid: Grid,
    messages: Mapping[Member, Message],
    *,
    ledger: Ledger,
    round_number: int,
    kind: str,
    timeout_s: float,
    arrived: Callable[[Arrival], None] = lambda arrival: None,
    enough: int | None = None,
    counts: Callable[[Arrival], bool] = lambda arrival: True,
    seed: int = 0,
    longest_first: bool = True,
    abandoned: Callable[[Mapping[str, Member], float], None] = lambda waiting, left_s: None,
) -> list[Arrival]:
    """Send one message to each node and collect the replies.

    With `enough`, those who are slower than that many good replies stand as failed. Who they
    are depends on timing, so the same bits are then not promised. They are not told to stop:
    they train on, in simulation on processors that the next round needs. What they send is not
    pulled here, so the ledger does not have it (`late`).

    Args:
        grid: Flower's connection.
        messages: Whom to send what.
        ledger: Told the size of every message sent, and of every reply pulled.
        round_number: Round for the ledger.
        kind: "roll-call", "train" or "evaluate", for the ledger.
        timeout_s: Seconds to wait; nodes that are silent until then count as failed, as do
            those to which Flower could not send.
        arrived: Called with each reply as it comes.
        enough: Good replies to wait for, from 1; None = wait for everyone.
        counts: Whether a reply, which carries no error, is a good one. Asked once for each,
            before `arrived`, and only if `enough` is given.
        seed: The run's seed; with `enough`, draws who is sent first.
        longest_first: Whether those who hold most are sent first, where nodes differ and all are
            waited for. It takes half a second, which short work does not earn.
        abandoned: Told at the end which messages were not answered, message id → member; and
            how many of the seconds to wait are left, 0 = they stand as failed.

    Returns:
        One arrival per message, by partition.
    """
    inbox = _Inbox(messages=messages, enough=enough, counts=counts, arrived=arrived)
    in_order = _longest_first(messages, ahead=_AHEAD if longest_first else 0)
    waves = _drawn(messages, enough, seed, round_number) if enough else in_order
    waiting = _push(grid, messages, waves)
    sent = set(waiting.values())
    inbox.give_up(messages.keys() - sent, NOT_SENT)
    for member, reply in _replies(grid, waiting, inbox, timeout_s):
        inbox.take(member, reply)
    silent = set(waiting.values())
    abandoned(waiting, timeout_s - inbox.seconds if inbox.full else 0.0)
    inbox.give_up(silent, inbox.unneeded if inbox.full else f"no reply within {timeout_s:g} s")
    down = {member: sizes for member, sizes in _weights(messages).items() if member in sent}
    came = [arrival for arrival in inbox.arrivals if arrival.member in sent - silent]
    up = {arrival.member: (arrival.uplink_bytes, arrival.payload_bytes) for arrival in came}
    _note(ledger, round_number, kind, "down", down)
    _note(ledger, round_number, kind, "up", up)
    return sorted(inbox.arrivals, key=lambda arrival: arrival.member.partition)


@dataclass(slots=True, kw_only=True)
class _Inbox:
    """What has come since it was opened, and whether that is enough."""

    messages: Mapping[Member, Message]
    enough: int | None
    counts: Callable[[Arrival], bool]
    arrived: Callable[[Arrival], None]
    started: float = field(default_factory=time.perf_counter)
    arrivals: list[Arrival] = field(default_factory=list)
    good: int = 0

    @property
    def full(self) -> bool:
        """Whether nothing more is needed."""
        return self.enough is not None and self.good >= self.enough

    @property
    def unneeded(self) -> str:
        """Why a node's work is not used once it is full."""
        return f"not needed: {self.enough} others were faster (strategy.over-selection)"

    @property
    def seconds(self) -> float:
        """Seconds since it was opened."""
        return time.perf_counter() - self.started

    def take(self, member: Member, reply: Message) -> None:
        """Take a reply; one that comes with the same pull as the last one needed is surplus."""
        sizes = _weighed(reply)
        if self.full:
            surplus = _failure(self.messages[member], self.unneeded)
            self._add(member, surplus, sizes, unneeded=True)
        else:
            self._add(member, reply, sizes)

    def give_up(self, members: Iterable[Member], reason: str) -> None:
        """Take errors in place of replies that will not come."""
        for member in sorted(members, key=lambda member: member.partition):
            failed = _failure(self.messages[member], reason)
            self._add(member, failed, (0, 0), unneeded=self.full)

    def _add(
        self, member: Member, message: Message, sizes: tuple[int, int], *, unneeded: bool = False
    ) -> None:
        """Count it and tell of it."""
        arrival = Arrival(
            member=member,
            message=message,
            uplink_bytes=sizes[0],
            payload_bytes=sizes[1],
            seconds=self.seconds,
            unneeded=unneeded,
        )
        self.arrivals.append(arrival)
        if self.enough is not None and not message.has_error():
            self.good += self.counts(arrival)
        self.arrived(arrival)


def _replies(
    grid: Grid, waiting: dict[str, Member], inbox: _Inbox, timeout_s: float
) -> Iterator[tuple[Member, Message]]:
    """Hand out replies as they come, taking who answered off the list of `waiting`."""
    wait_s = _FIRST_WAIT_S
    while waiting and not inbox.full and inbox.seconds < timeout_s:
        replies = list(grid.pull_messages(list(waiting)))
        for reply in replies:
            member = waiting.pop(reply.metadata.reply_to_message_id, None)
            if member is not None:  # else a second reply, or one to a message that is not ours
                yield member, reply
        least_s = max(_FIRST_WAIT_S, _WAIT_EACH_S * len(waiting))
        wait_s = least_s if replies else max(least_s, min(1.5 * wait_s, _LONGEST_WAIT_S))
        if waiting and not inbox.full:
            time.sleep(wait_s)


def _longest_first(members: Iterable[Member], ahead: int) -> list[list[Member]]:
    """Send first to those who hold most, so many one by one; to the others at once behind them.

    Where nodes share processors, as in simulation, starting with the longest work makes the
    round shorter (Graham 1969, longest processing time first).
    """
    order = sorted(members, key=lambda member: (-member.examples, member.partition))
    if len({member.examples for member in order}) == 1:
        ahead = 0
    return [[member] for member in order[:ahead]] + [order[ahead:]]


def _drawn(
    members: Iterable[Member], enough: int, seed: int, round_number: int
) -> list[list[Member]]:
    """Send first to as many as are needed, drawn anew every round; then to the reserve.

    Where nodes share processors, who is sent first is done first. Were it those who hold
    most, or the simulation's own order, which is by partition, the same nodes would come too
    late in every round.
    """
    order = sorted(
        members,
        key=lambda member: derive_seed(
            seed, "sending", round_number=round_number, partition=member.partition
        ),
    )
    return [order[:enough], order[enough:]]


def _push(
    grid: Grid, messages: Mapping[Member, Message], waves: Iterable[Sequence[Member]]
) -> dict[str, Member]:
    """Send messages, wave after wave; give message id → member for those Flower took."""
    waiting: dict[str, Member] = {}
    for place, wave in enumerate(wave for wave in waves if wave):
        if place:
            time.sleep(_SWEEP_S)
        waiting |= _push_together(grid, {member: messages[member] for member in wave})
    return waiting


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
    ledger: Ledger,
    round_number: int,
    kind: str,
    direction: Direction,
    sizes: Mapping[Member, tuple[int, int]],
) -> None:
    """Enter messages of one direction into the ledger."""
    for member, (size, payload) in sizes.items():
        ledger.note(
            Entry(
                round_number=round_number,
                node=member.partition,
                direction=direction,
                kind=kind,
                size=size,
                payload=payload,
            )
        )


def _weighed(message: Message) -> tuple[int, int]:
    """Give the size of a message, and what of it are encoded states."""
    return (message_bytes(message), payload_bytes(message)) if message.has_content() else (0, 0)


def _weights(messages: Mapping[Member, Message]) -> dict[Member, tuple[int, int]]:
    """Weigh orders likewise: once they are answered, and anew, for others may still read them."""
    copies = renewed(messages.values())
    sizes = zip(messages_bytes(copies), map(payload_bytes, copies), strict=True)
    return dict(zip(messages, sizes, strict=True))


def _failure(message: Message, reason: str) -> Message:
    """Make the error that stands for a reply that did not come."""
    return Message(Error(code=_NO_REPLY, reason=reason), reply_to=message)
