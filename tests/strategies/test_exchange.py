"""The exchange: one arrival per message, whatever nodes and Flower do."""

import time
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from strategy_samples import Node, ScriptedGrid, failure, ledger, members

from fedpeft_app.strategies import exchange as exchange_module
from fedpeft_app.strategies.exchange import Arrival, exchange
from fedpeft_app.strategies.strategy import Member
from fedpeft_app.wire.ledger import Ledger
from fedpeft_app.wire.record import message_bytes, write_facts

THREE = members(3)


def echo(message: Message) -> Message:
    """Answer with the node's own id."""
    return Message(write_facts({"node": message.metadata.dst_node_id}), reply_to=message)


def silent(message: Message) -> None:
    """Answer nothing."""


def broken(message: Message) -> Message:
    """Answer with an error."""
    return failure(message, "disk on fire")


def grid_of(*nodes: Node) -> ScriptedGrid:
    """Make a grid of three nodes, by partition."""
    return ScriptedGrid({m.node_id: node for m, node in zip(THREE, nodes, strict=True)})


def messages() -> dict[Member, Message]:
    """Make one message for each node."""
    return {
        member: Message(content=RecordDict(), dst_node_id=member.node_id, message_type="train")
        for member in THREE
    }


def send(
    grid: ScriptedGrid,
    *,
    timeout_s: float = 5.0,
    book: Ledger | None = None,
    arrived: list[Arrival] | None = None,
    **over: Any,
) -> list[Arrival]:
    """Exchange one message with each node, in round 2."""
    return exchange(
        grid,
        messages(),
        ledger=book or ledger(),
        kind="train",
        timeout_s=timeout_s,
        arrived=(arrived if arrived is not None else []).append,
        **{"round_number": 2, **over},
    )


def reasons(arrivals: list[Arrival]) -> list[str | None]:
    """List errors by partition; None where there is content."""
    return [
        arrival.message.error.reason if arrival.message.has_error() else None
        for arrival in arrivals
    ]


def test_replies_are_handed_over_as_they_come_and_returned_by_partition() -> None:
    # Node ids fall while partitions rise, so by id the last partition answers first.
    grid, told = grid_of(echo, echo, echo), []
    arrivals = send(grid, arrived=told)
    assert [arrival.member.partition for arrival in told] == [2, 1, 0]
    assert [arrival.member.partition for arrival in arrivals] == [0, 1, 2]
    assert [arrival.message.content["config"]["node"] for arrival in arrivals] == [
        member.node_id for member in THREE
    ]
    assert grid.pulls == 3
    times = [arrival.seconds for arrival in told]
    assert times == sorted(times)


def test_the_ledger_has_every_message_both_ways() -> None:
    book, sent = ledger(), messages()
    arrivals = send(grid_of(echo, broken, echo), book=book)
    down = [entry for entry in book.entries if entry.direction == "down"]
    up = {entry.node: entry.size for entry in book.entries if entry.direction == "up"}
    assert [(entry.node, entry.round_number, entry.kind) for entry in down] == [
        (0, 2, "train"),
        (1, 2, "train"),
        (2, 2, "train"),
    ]
    assert up == {0: arrivals[0].uplink_bytes, 1: 0, 2: arrivals[2].uplink_bytes}
    assert up[0] == message_bytes(arrivals[0].message) > 0
    assert down[0].size == pytest.approx(message_bytes(sent[THREE[0]]), abs=16)  # times differ


def test_a_silent_node_fails_after_the_timeout() -> None:
    told: list[Arrival] = []
    started = time.perf_counter()
    arrivals = send(grid_of(echo, silent, echo), timeout_s=0.3, arrived=told)
    assert 0.3 <= time.perf_counter() - started < 3.0
    assert reasons(arrivals) == [None, "no reply within 0.3 s", None]
    assert told[-1].member.partition == 1
    assert (arrivals[1].uplink_bytes, arrivals[1].seconds >= 0.3) == (0, True)


def test_an_error_is_an_arrival_like_any_other() -> None:
    assert reasons(send(grid_of(broken, echo, echo))) == ["disk on fire", None, None]


def test_a_second_reply_is_ignored() -> None:
    grid = grid_of(echo, echo, echo)

    def twice(message: Message) -> Message:
        grid.also.append(echo(message))  # handed out at every pull from now on
        return echo(message)

    grid.nodes[THREE[0].node_id] = twice
    book = ledger()
    arrivals = send(grid, book=book)
    assert reasons(arrivals) == [None, None, None]
    assert sum(entry.direction == "up" for entry in book.entries) == 3


def test_a_reply_to_an_unknown_message_is_ignored() -> None:
    grid = grid_of(echo, echo, echo)
    stray = Message(content=RecordDict(), dst_node_id=1, message_type="train")
    stray.metadata.__dict__["_message_id"] = "never sent"
    grid.also = [echo(stray)]
    assert reasons(send(grid)) == [None, None, None]


REFUSED = "the message could not be sent"


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (lambda ids: [ids[0], None, ids[2]], [None, REFUSED, None]),  # Flower's HttpGrid
        (lambda ids: [ids[0], ids[2]], [None, REFUSED, None]),  # its InMemoryGrid
        (lambda ids: [], [REFUSED] * 3),  # its HttpGrid, if the request is too large
        (lambda ids: [None] * 3, [REFUSED] * 3),
    ],
)
def test_a_message_that_could_not_be_pushed_is_a_failed_node(
    returned: object, expected: list[str | None]
) -> None:
    grid, book, told = grid_of(echo, echo, echo), ledger(), []
    grid.pushed_ids = returned
    assert reasons(send(grid, book=book, arrived=told)) == expected
    assert len(told) == 3
    sent = [entry.node for entry in book.entries if entry.direction == "down"]
    assert sent == [node for node, reason in enumerate(expected) if reason is None]


def test_nobody_to_ask_is_no_arrival() -> None:
    found = exchange(
        ScriptedGrid({}), {}, ledger=ledger(), round_number=1, kind="train", timeout_s=1.0
    )
    assert found == []


def test_an_order_is_weighed_once_nobody_reads_it_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's simulation pickles the very same objects in other threads; weighing changes them."""
    seen: list[str] = []

    def weigh(message: Message) -> int:
        seen.append("reply" if message.metadata.reply_to_message_id else "order")
        return 1

    exchanging = "fedpeft_app.strategies.exchange"
    monkeypatch.setattr(f"{exchanging}.message_bytes", weigh)
    monkeypatch.setattr(f"{exchanging}.messages_bytes", lambda found: [*map(weigh, found)])
    book = ledger()
    send(grid_of(echo, echo, echo), book=book)
    assert seen == ["reply"] * 3 + ["order"] * 3
    assert (book.total("down"), book.total("up")) == (3, 3)


# ------------------------------------------------------------------ enough replies


def unneeded(enough: int) -> str:
    """Say what stands for a reply that came too late."""
    return f"not needed: {enough} others were faster (strategy.over-selection)"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no time between those who are sent first and the reserve."""
    monkeypatch.setattr("fedpeft_app.strategies.exchange._SWEEP_S", 0.0)


def test_the_slowest_are_not_waited_for() -> None:
    told: list[Arrival] = []
    started = time.perf_counter()
    arrivals = send(grid_of(echo, silent, echo), timeout_s=60.0, arrived=told, enough=2)
    assert time.perf_counter() - started < 5.0
    assert reasons(arrivals) == [None, unneeded(2), None]
    assert told[-1].member.partition == 1


def test_a_failed_node_does_not_count() -> None:
    arrivals = send(grid_of(echo, broken, echo), enough=2)
    assert reasons(arrivals) == [None, "disk on fire", None]


def test_a_reply_that_is_no_good_does_not_count() -> None:
    asked: list[int] = []

    def good(arrival: Arrival) -> bool:
        asked.append(arrival.member.partition)
        return arrival.member.partition != 2

    arrivals = send(grid_of(echo, broken, echo), enough=1, counts=good)
    assert arrivals[2].message.has_content()  # came, and was judged by whoever counts
    assert arrivals[0].message.has_content()
    assert sorted(asked) == [0, 2]  # nobody is asked about an error


def test_with_too_few_good_replies_everyone_is_waited_for() -> None:
    arrivals = send(grid_of(echo, silent, echo), timeout_s=0.3, enough=3)
    assert reasons(arrivals) == [None, "no reply within 0.3 s", None]


def test_no_more_than_enough_are_used_even_if_they_come_together() -> None:
    grid, book = grid_of(echo, echo, echo), ledger()
    grid.per_pull = 3
    arrivals = send(grid, book=book, enough=1)
    assert sorted(reasons(arrivals), key=str) == [None, unneeded(1), unneeded(1)]
    up = [entry.size for entry in book.entries if entry.direction == "up"]
    assert len(up) == 3  # what was pulled was paid for
    assert min(up) > 0


def test_what_nobody_pulls_is_not_in_the_ledger() -> None:
    book = ledger()
    send(grid_of(echo, echo, echo), book=book, enough=1)  # the grid hands out one a pull
    assert [sum(entry.direction == way for entry in book.entries) for way in ("down", "up")] == [
        3,
        1,
    ]


def test_late_replies_do_not_disturb_the_next_round() -> None:
    late: list[Message] = []

    def slow(message: Message) -> None:
        late.append(echo(message))

    grid = grid_of(echo, slow, echo)
    assert reasons(send(grid, enough=2)) == [None, unneeded(2), None]
    grid.also = [*late, *late]  # handed out at every pull from now on, and first
    grid.nodes[THREE[1].node_id] = broken
    arrivals = send(grid, round_number=3, enough=3)
    assert reasons(arrivals) == [None, "disk on fire", None]


def test_late_replies_stay_behind_when_flower_is_not_asked_for_them() -> None:
    grid = grid_of(echo, echo, echo)
    send(grid, enough=1)
    book = ledger()
    arrivals = send(grid, book=book, round_number=3)
    ids = [arrival.message.metadata.reply_to_message_id for arrival in arrivals]
    assert ids == [f"message-{number}" for number in (3, 4, 5)]  # the second three
    assert {entry.round_number for entry in book.entries} == {3}


def pushed(grid: ScriptedGrid) -> list[list[str]]:
    """Watch which messages are pushed together."""
    waves: list[list[str]] = []

    def watch(ids: list[str]) -> list[str]:
        waves.append(ids)
        return ids

    grid.pushed_ids = watch
    return waves


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("longest_first", "waves"), [(True, [1, 1, 1]), (False, [3])])
def test_the_longest_work_begins_unless_it_is_short(
    waves: list[int], *, longest_first: bool
) -> None:
    grid, pushed = grid_of(echo, echo, echo), []
    push = grid.push_messages

    def noted(sent: Any) -> Any:
        ids = push(sent := list(sent))
        pushed.append([message.metadata.dst_node_id for message in sent])
        return ids

    grid.push_messages = noted  # type: ignore[method-assign]
    uneven = [replace(one, examples=10 + one.partition) for one in THREE]
    orders = dict(zip(uneven, messages().values(), strict=True))
    found = exchange(
        grid,
        orders,
        ledger=ledger(),
        kind="train",
        timeout_s=5.0,
        round_number=2,
        longest_first=longest_first,
    )
    assert [len(wave) for wave in pushed] == waves
    assert [node for wave in pushed for node in wave] == [one.node_id for one in reversed(uneven)]
    assert reasons(found) == [None] * 3


def test_as_many_as_are_needed_are_sent_first() -> None:
    grid = grid_of(echo, echo, echo)
    waves = pushed(grid)
    send(grid, enough=2)
    assert [len(wave) for wave in waves] == [2, 1]


@pytest.mark.usefixtures("at_once")
def test_everyone_is_in_the_reserve_in_some_round() -> None:
    """Flower's simulation works by partition: the same nodes would be late in every round."""

    def reserve(round_number: int, seed: int) -> int:
        asked: list[int] = []

        def note(message: Message) -> Message:
            asked.append(message.metadata.dst_node_id)
            return echo(message)

        send(grid_of(note, note, note), enough=2, round_number=round_number, seed=seed)
        return asked[-1]

    drawn = [[reserve(number, seed) for number in range(1, 17)] for seed in (0, 0, 1)]
    assert set(drawn[0]) == {member.node_id for member in THREE}
    assert drawn[0] == drawn[1] != drawn[2]


def test_an_order_still_out_is_left_as_it_is() -> None:
    """A silent node's thread may be pickling it; Flower notes ids in what it weighs."""
    sent = messages()
    book = ledger()
    exchange(
        grid_of(echo, silent, echo),
        sent,
        ledger=book,
        round_number=1,
        kind="train",
        timeout_s=5.0,
        enough=2,
    )
    still_out = sent[THREE[1]]
    assert "_object_id" not in vars(still_out)
    assert "_object_id" not in vars(still_out.content)
    size = next(e.size for e in book.entries if (e.direction, e.node) == ("down", 1))
    assert size == message_bytes(still_out)
    assert "_object_id" in vars(still_out.content)  # weighing does leave a note


def test_the_more_are_waited_for_the_less_often_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    # To ask for a thousand costs a thousand times as much: it must not fill the time.
    many = members(500)
    grid = ScriptedGrid({member.node_id: echo for member in many})
    waits: list[float] = []
    monkeypatch.setattr(exchange_module.time, "sleep", waits.append)
    orders = {
        member: Message(content=RecordDict(), dst_node_id=member.node_id, message_type="train")
        for member in many
    }
    exchange(grid, orders, ledger=ledger(), round_number=1, kind="train", timeout_s=60.0)
    assert len(waits) == 499  # one reply comes with each pull
    assert waits[0] == pytest.approx(0.0499)  # seconds
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] == pytest.approx(0.01)
