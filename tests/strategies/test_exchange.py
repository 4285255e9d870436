"""The exchange: one arrival per message, whatever nodes and Flower do."""

import time

import pytest
from flwr.app import Message, RecordDict
from strategy_samples import Node, ScriptedGrid, failure, ledger, members

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
) -> list[Arrival]:
    """Exchange one message with each node."""
    return exchange(
        grid,
        messages(),
        ledger=book or ledger(),
        round_number=2,
        kind="train",
        timeout_s=timeout_s,
        arrived=(arrived if arrived is not None else []).append,
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

    monkeypatch.setattr("fedpeft_app.strategies.exchange.message_bytes", weigh)
    book = ledger()
    send(grid_of(echo, echo, echo), book=book)
    assert seen == ["reply"] * 3 + ["order"] * 3
    assert (book.total("down"), book.total("up")) == (3, 3)
