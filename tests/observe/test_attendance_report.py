"""Who took part: what a journal's events say of each node, and the grid of it."""

from typing import Any

import pytest
from reported_runs import ATTACK, read_page

from fedpeft_app.observe.report.attendance import attendance
from fedpeft_app.observe.report.clients import clients
from fedpeft_app.observe.report.markup import join

CALL = {"event": "roll_call", "examples": {"0": 5, "1": 7, "2": 9}, "refused": {}}


def started(number: int, *cohort: int) -> dict[str, Any]:
    return {"event": "round_started", "round": number, "cohort": list(cohort)}


def replied(number: int, node: int, problem: str = "") -> dict[str, Any]:
    return {"event": "reply", "round": number, "node": node, "problem": problem}


def ended(number: int, **fields: Any) -> dict[str, Any]:
    return {"event": "round_finished", "round": number, **fields}


def outcomes(*events: dict[str, Any]) -> dict[str, dict[int, str]]:
    return {number: node.rounds for number, node in attendance([CALL, *events]).nodes.items()}


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ([], "waiting"),
        ([replied(1, 1)], "good"),
        ([replied(1, 1, "out of memory")], "failed"),
        ([replied(1, 1, "sits out: no privacy left")], "sat-out"),
        ([replied(1, 1), ended(1, rejected={"1": "too long"})], "rejected"),
        ([replied(1, 1, "no answer"), ended(1, rejected={"1": "no answer"})], "failed"),
        ([ended(1, rejected={"1": ""})], "surplus"),
        ([replied(1, 1, "x"), {"event": "asked_again", "round": 1, "cohort": [1]}], "waiting"),
        ([replied(1, 1, "x"), replied(1, 1)], "good"),
        ([ended(1, nodes={"1": {}})], "good"),
        ([{"event": "late_reply", "round": 2, "node": 1, "asked_in": 1}], "late"),
    ],
)
def test_what_became_of_a_node_is_told(events: list[dict[str, Any]], outcome: str) -> None:
    assert outcomes(started(1, 1), *events) == {"0": {}, "1": {1: outcome}, "2": {}}


def test_who_is_left_alone_rests_as_long_as_the_run_goes_on() -> None:
    left = {"event": "left_alone", "node": 0, "until": 9}
    assert outcomes(started(1, 0), left, started(2, 1), started(3, 1))["0"] == {
        1: "waiting",
        2: "resting",
        3: "resting",
    }


def test_who_comes_later_was_absent_before() -> None:
    joined = {"event": "nodes_joined", "examples": {"3": 4}, "refused": {}, "names": {"3": "late"}}
    found = attendance([CALL, started(1, 0), joined, started(2, 3)])
    assert found.nodes["3"].rounds == {1: "absent", 2: "waiting"}
    assert found.nodes["3"].label == "3 late"


def test_who_only_evaluates_is_told_from_who_trains() -> None:
    over = {"nodes": {"0": 0.5, "1": 0.5}}
    found = outcomes(started(1, 1), replied(1, 1), ended(1, clients=over))
    assert (found["0"], found["1"]) == ({1: "judged"}, {1: "good"})


def test_a_reason_goes_when_a_further_attempt_was_good() -> None:
    again = {"event": "asked_again", "round": 1, "cohort": [1]}
    found = attendance([CALL, started(1, 1), replied(1, 1, "busy"), again, replied(1, 1)])
    assert found.reasons() == {}


def test_bytes_are_added_up_by_node() -> None:
    sent = {"bytes_by_node": {"1": {"down": 3, "up": 4, "payload": 6}}}
    found = attendance([CALL, started(1, 1), ended(1, **sent), started(2, 1), ended(2, **sent)])
    assert (found.nodes["1"].down, found.nodes["1"].up) == (6, 8)


def test_nothing_is_said_of_who_was_drawn_where_that_is_secret() -> None:
    again = {"event": "asked_again", "round": 1, "cohort": [2]}
    found = attendance([CALL, {"event": "round_started", "round": 1}, again, ended(1)])
    read = read_page(join(*clients(found)))
    assert "secret" in read.text
    assert not {one.get("class") for _, one in read.tags} & {"good", "waiting", "failed"}


def test_a_node_may_be_called_anything_and_fail_for_any_reason() -> None:
    call = {**CALL, "names": {"1": ATTACK}, "refused": {ATTACK: ATTACK}}
    events = [call, started(1, 1), replied(1, 1, ATTACK), ended(1, rejected={"1": ATTACK})]
    read = read_page(join(*clients(attendance(events))))
    assert not {tag for tag, _ in read.tags} & {"script", "img"}
    assert read.text.count(ATTACK) >= 4


def test_of_very_many_nodes_those_with_trouble_are_shown_first() -> None:
    call = {**CALL, "examples": {str(node): 1 for node in range(1000)}}
    everyone = started(1, *range(1000))
    good = [replied(1, node, "" if node != 777 else "on fire") for node in range(1000)]
    read = read_page(join(*clients(attendance([call, everyone, *good, ended(1)]))))
    assert "900 more are left out" in read.text
    rows = [one for tag, one in read.tags if tag == "tr"]
    assert len(rows) <= 105
    assert "on fire" in [one.get("title") for tag, one in read.tags if tag == "td"]
