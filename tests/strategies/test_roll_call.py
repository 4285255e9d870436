"""The roll call: who may take part, and what a user reads if a node may not."""

import time
from dataclasses import replace
from typing import Any

import pytest
from conftest import LocalGrid
from flwr.app import Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from strategy_samples import ScriptedGrid, failure, ledger

from fedpeft_app.errors import RollCallError
from fedpeft_app.strategies.roll_call import (
    Presence,
    Roster,
    call_roll,
    make_roster,
    wait_for_nodes,
)
from fedpeft_app.strategies.strategy import Member
from fedpeft_app.wire.record import facts, write_facts

AGREED = {"fedpeft": "0.1.0", "torch": "2.13", "backbone": "b0", "adapter": "a0"}
LABELS = ("crude", "grain")


def present(partition: int, **changes: Any) -> Presence:
    """Make a node that agrees with the server."""
    fields = {"partition": partition, "examples": 10, "labels": LABELS, "agreed": AGREED}
    return Presence(**{**fields, **changes})


def roster(*answers: Presence | str, minimum: int = 1, **settings: Any) -> Roster:
    """Make a roster of nodes with ids 100, 101, …"""
    numbered = list(enumerate(answers, start=100))
    return make_roster(numbered, expected=AGREED, minimum=minimum, **settings)


@given(
    st.integers(0, 10**6),
    st.integers(1, 10**9),
    st.lists(st.text(min_size=1), min_size=2, max_size=5),
    st.dictionaries(st.text(min_size=1), st.text()),
    st.integers(0, 512),
)
def test_a_presence_survives_the_wire(
    partition: int, examples: int, labels: list[str], agreed: dict[str, str], rank: int
) -> None:
    presence = Presence(
        partition=partition, examples=examples, labels=tuple(labels), agreed=agreed, rank=rank
    )
    assert Presence.from_facts(facts(write_facts(presence.to_facts()))) == presence


@pytest.mark.parametrize("name", ["partition", "examples", "rank", "labels"])
def test_a_presence_without_a_field_is_refused(name: str) -> None:
    values = {key: value for key, value in present(0).to_facts().items() if key != name}
    with pytest.raises(RollCallError, match="Expected partition, examples, rank and labels"):
        Presence.from_facts(values)
    with pytest.raises(RollCallError, match="Expected partition, examples, rank and labels"):
        Presence.from_facts({**values, name: "text"})


def test_members_have_the_ranks_they_state() -> None:
    found = roster(replace(present(0), rank=4), present(1))
    assert [member.rank for member in found.members] == [4, 0]


def test_who_is_objected_to_is_refused_and_the_others_go_on() -> None:
    found = roster(
        replace(present(0), rank=4),
        present(1),
        objection=lambda member: f"has rank {member.rank}" if member.rank else "",
    )
    assert [member.partition for member in found.members] == [1]
    assert found.refused == {"node 0": "has rank 4"}


def test_members_are_ordered_by_partition() -> None:
    found = roster(present(2), present(0, examples=7), present(1))
    assert [(m.node_id, m.partition, m.examples) for m in found.members] == [
        (101, 0, 7),
        (102, 1, 10),
        (100, 2, 10),
    ]
    assert (found.labels, found.refused) == (LABELS, {})


@pytest.mark.parametrize("name", sorted(AGREED))
def test_each_difference_refuses_the_node_by_name(name: str) -> None:
    other = present(4, agreed={**AGREED, name: "other"})
    missing = present(5, agreed={key: value for key, value in AGREED.items() if key != name})
    found = roster(present(0), other, missing)
    assert [member.partition for member in found.members] == [0]
    assert found.refused == {
        "node 4": f"{name} is other, expected {AGREED[name]}",
        "node 5": f"{name} is missing, expected {AGREED[name]}",
    }


def test_all_differences_are_told_at_once() -> None:
    other = present(4, agreed={**AGREED, "torch": "2.6", "adapter": "a1"})
    assert roster(present(0), other).refused == {
        "node 4": "torch is 2.6, expected 2.13; adapter is a1, expected a0"
    }


def test_further_facts_of_a_node_do_not_matter() -> None:
    assert roster(present(0, agreed={**AGREED, "more": "x"})).refused == {}


def test_labels_must_be_equal_and_in_one_order() -> None:
    found = roster(present(0), present(1, labels=LABELS[::-1]))
    reason = found.refused["node 1"]
    assert reason.startswith("labels are ['grain', 'crude'], expected ['crude', 'grain']")
    assert "data.labels" in reason  # what to do about it


def test_the_servers_labels_come_before_the_first_nodes() -> None:
    found = roster(present(0, labels=LABELS[::-1]), present(1), labels=LABELS)
    assert [member.partition for member in found.members] == [1]


def test_a_refused_node_does_not_set_the_labels() -> None:
    odd = present(0, labels=("other", "names"), agreed={**AGREED, "torch": "1.0"})
    assert roster(odd, present(1)).labels == LABELS


def test_a_node_without_examples_is_refused() -> None:
    assert roster(present(0), present(1, examples=0)).refused == {
        "node 1": "holds no training examples"
    }


def test_of_two_nodes_with_one_number_the_second_is_refused() -> None:
    found = roster(present(3), present(0), present(3), present(3))
    assert [(member.node_id, member.partition) for member in found.members] == [(101, 0), (100, 3)]
    assert set(found.refused) == {"node 3 (Flower id 102)", "node 3 (Flower id 103)"}
    assert (
        "another node is partition 3 too (Flower id 100)" in found.refused["node 3 (Flower id 102)"]
    )


def test_two_refused_nodes_with_one_number_are_both_named() -> None:
    odd = present(3, agreed={**AGREED, "torch": "1.0"})
    found = roster(odd, replace(odd, agreed={**AGREED, "torch": "1.1"}), present(0))
    assert set(found.refused) == {"node 3", "node 3 (Flower id 101)"}


def test_too_few_nodes_are_listed_with_their_reasons_grouped() -> None:
    odd = {"agreed": {**AGREED, "torch": "2.6"}}
    with pytest.raises(RollCallError) as raised:
        roster(present(0), present(1, **odd), "no data here", present(2, **odd), minimum=2)
    assert str(raised.value) == (
        "1 of 4 nodes passed the roll call, at least 2 (strategy.min-nodes) must. Refused:\n"
        "  node 1, node 2: torch is 2.6, expected 2.13\n"
        "  node 102: no data here"
    )


def test_nodes_answer_in_the_order_asked() -> None:
    def answer(message: Message) -> Message | None:
        number = message.metadata.dst_node_id
        if number == 7:
            return failure(message, "<class 'fedpeft_app.errors.DataError'>:<'No such file.'>")
        if number == 6:
            return Message(RecordDict(), reply_to=message)
        return Message(write_facts(present(number).to_facts()), reply_to=message)

    grid, book = ScriptedGrid(dict.fromkeys((5, 6, 7), answer)), ledger()
    answers = call_roll(grid, [7, 5, 6], ledger=book, timeout_s=5.0)
    assert answers[:2] == [(7, "No such file."), (5, present(5))]
    assert answers[2] == (6, "Expected partition, examples, rank and labels, got [].")
    assert book.total("down", kind="roll-call", round_number=0) > 0


def test_a_silent_node_is_refused_by_its_id() -> None:
    grid = ScriptedGrid({5: lambda message: None})
    answers = call_roll(grid, [5], ledger=ledger(), timeout_s=0.05)
    assert answers == [(5, "no reply within 0.05 s")]


def test_real_nodes_say_who_they_are(tiny_settings: dict[str, Any]) -> None:
    grid = LocalGrid(3, tiny_settings)
    nodes = wait_for_nodes(grid, 3, timeout_s=1.0)
    answers = call_roll(grid, nodes, ledger=ledger(), timeout_s=60.0)
    answer = answers[0][1]
    assert isinstance(answer, Presence)
    found = make_roster(answers, expected=answer.agreed, minimum=3)
    assert [member.partition for member in found.members] == [0, 1, 2]
    assert sum(member.examples for member in found.members) == 108  # 120, a tenth held out
    assert found.labels == ("crude", "grain", "money")


def test_nodes_are_waited_for() -> None:
    grid = ScriptedGrid({3: lambda message: None, 1: lambda message: None})
    assert wait_for_nodes(grid, 2, timeout_s=0.0) == [1, 3]
    calls = iter([[1], [1], [4, 1], [4, 1, 9], [9, 4, 1]])
    grid.get_node_ids = lambda: next(calls)
    assert wait_for_nodes(grid, 2, timeout_s=5.0) == [1, 4, 9]  # those on their way, too


def test_waiting_for_nodes_ends() -> None:
    started = time.monotonic()
    with pytest.raises(RollCallError, match=r"Only 0 of at least 2 nodes .* after 0.1 s"):
        wait_for_nodes(ScriptedGrid({}), 2, timeout_s=0.1)
    assert time.monotonic() - started < 3.0


def test_nobody_takes_the_number_of_one_who_is_there() -> None:
    there = Member(node_id=7, partition=1, examples=10)
    found = roster(present(0), present(1), minimum=0, present=[there])
    assert [member.partition for member in found.members] == [0]
    assert "another node is partition 1 too (Flower id 7)" in found.refused["node 1"]
