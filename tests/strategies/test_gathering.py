"""Rounds with nodes that fail: asked again, replaced, left alone; late replies are dropped."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from strategy_samples import (
    Learner,
    Log,
    Node,
    ScriptedGrid,
    failure,
    ledger,
    members,
    plan,
    state_of,
)

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.errors import QuorumError
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.exchange import NOT_SENT
from fedpeft_app.strategies.rounds import Since, run_rounds
from fedpeft_app.strategies.strategy import Member
from fedpeft_app.strategies.versions import Versions
from fedpeft_app.wire.record import read_order


class Flaky:
    """A node that learns, but fails the first times that it is asked.

    Attributes:
        asked: Rounds in which it was asked.
    """

    def __init__(self, spec: AdapterSpec, failures: int, step: float = 1.0) -> None:
        self._inner, self._failures, self._spec = Learner(spec, step), failures, spec
        self.asked: list[int] = []

    def __call__(self, message: Message) -> Message | None:
        self.asked.append(read_order(message.content, self._spec).round_number)
        if len(self.asked) <= self._failures:
            return failure(message, "disk on fire")
        return self._inner(message)


def play(
    nodes: Sequence[Node], state: AdapterState, **changes: Any
) -> tuple[Log, ScriptedGrid, AdapterState]:
    """Run rounds; hand back what was seen, even if they fail."""
    everyone = members(len(nodes))
    grid = ScriptedGrid({m.node_id: node for m, node in zip(everyone, nodes, strict=True)})
    log = Log()
    settings = {"min_replies": 2, **changes}
    renew = settings.pop("renew", lambda some, least: some)
    try:
        state = run_rounds(
            grid,
            Composition(),
            everyone,
            state,
            plan(**settings),
            ledger=ledger(),
            watcher=log,
            renew=renew,
        )
    except QuorumError as error:
        log.lines.append(("failed", str(error).splitlines()[0]))
    return log, grid, state


def told(log: Log, kind: str) -> list[tuple[Any, ...]]:
    """Give the lines of one kind, without it."""
    return [line[1:] for line in log.lines if line[0] == kind]


def test_who_failed_is_asked_again_where_replies_are_too_few(
    spec: AdapterSpec, state: AdapterState
) -> None:
    nodes = [Flaky(spec, 0), Flaky(spec, 1), Flaky(spec, 1)]
    log, _, end = play(nodes, state, retries=1)
    assert [node.asked for node in nodes] == [[1], [1, 1], [1, 1]]
    assert told(log, "again") == [(1, [1, 2])]
    assert told(log, "answered") == [([0, 1, 2], [])]
    assert np.allclose(end.vector - state.vector, 1.0)


def test_a_round_with_enough_replies_is_not_tried_again(
    spec: AdapterSpec, state: AdapterState
) -> None:
    log, _, _ = play([Flaky(spec, 0), Flaky(spec, 0), Flaky(spec, 9)], state, retries=3)
    assert told(log, "again") == []
    assert told(log, "answered") == [([0, 1], [2])]


def test_others_stand_in_for_those_who_failed(spec: AdapterSpec, state: AdapterState) -> None:
    broken = [Flaky(spec, 99) for _ in range(2)]
    nodes = [*broken, Flaky(spec, 0), Flaky(spec, 0), Flaky(spec, 0)]
    drawn = play(nodes, state, retries=0, fraction_train=0.4)[0]
    cohort = told(drawn, "started")[0][1]
    log, _, _ = play(
        [Flaky(spec, 99 if place in cohort else 0) for place in range(5)],
        state,
        retries=1,
        fraction_train=0.4,
    )
    ((_, again),) = told(log, "again")
    assert set(cohort) < set(again)
    assert len(again) == 4  # the two that failed, and two more
    ((good, failed),) = told(log, "answered")
    assert sorted(failed) == sorted(cohort)
    assert len(good) == 2


def test_a_round_that_stays_too_thin_ends_the_run_after_its_attempts(
    spec: AdapterSpec, state: AdapterState
) -> None:
    node = Flaky(spec, 99)
    log, _, _ = play([Flaky(spec, 0), node], state, retries=2)
    assert node.asked == [1, 1, 1]
    assert log.lines[-1][1].startswith("Round 1: 1 of 2 replies were good")


def test_who_was_missed_is_asked_in_the_next_round_too(
    spec: AdapterSpec, state: AdapterState
) -> None:
    log, _, _ = play(
        [Flaky(spec, 1) for _ in range(8)], state, retries=0, rounds=1, fraction_train=0.25
    )
    first = told(log, "started")[0][1]
    nodes = [Flaky(spec, 1 if place == first[0] else 0) for place in range(8)]
    log, _, _ = play(nodes, state, min_replies=1, rounds=2, fraction_train=0.25)
    plain, _, _ = play(
        [Flaky(spec, 0) for _ in range(8)], state, min_replies=1, rounds=2, fraction_train=0.25
    )
    drawn = told(plain, "started")[1][1]
    assert told(log, "started")[1][1] == sorted({*drawn, first[0]})


def test_who_keeps_failing_is_left_alone(spec: AdapterSpec, state: AdapterState) -> None:
    nodes = [Flaky(spec, 0), Flaky(spec, 0), Flaky(spec, 99)]
    log, _, _ = play(nodes, state, rounds=8, tolerance=2)
    assert nodes[2].asked == [1, 2, 5]
    assert told(log, "alone") == [(2, 4), (2, 8)]


def test_long_updates_are_rejected_and_named(spec: AdapterSpec, state: AdapterState) -> None:
    nodes = [Learner(spec, 1.0), Learner(spec, 1.0), Learner(spec, 500.0)]
    log, _, end = play(nodes, state, norm_bound=10.0)
    assert "more than 10 times the median" in log.results[0].rejected[2]
    assert np.allclose(end.vector - state.vector, 1.0)


def test_a_rejected_update_counts_as_a_failure(spec: AdapterSpec, state: AdapterState) -> None:
    nodes = [Learner(spec, 1.0), Learner(spec, 1.0), Learner(spec, 500.0)]
    log, _, _ = play(nodes, state, norm_bound=10.0, tolerance=1, rounds=2)
    assert [len(result.rejected) for result in log.results] == [1, 0]


def test_others_stand_in_for_updates_that_were_too_long(
    spec: AdapterSpec, state: AdapterState
) -> None:
    everyone = play([Learner(spec, 1.0)] * 6, state, fraction_train=0.5)[0]
    cohort = told(everyone, "started")[0][1]
    nodes = [Learner(spec, 500.0 if place == cohort[0] else 1.0) for place in range(6)]
    log, _, _ = play(nodes, state, fraction_train=0.5, min_replies=3, norm_bound=10.0, retries=1)
    ((_, again),) = told(log, "again")
    assert len(again) == 1
    assert again[0] not in cohort
    assert len(log.results[0].good) == 3


def test_who_was_reached_once_may_have_spent_whatever_it_says_later(
    spec: AdapterSpec, state: AdapterState
) -> None:
    everyone, silent = members(3), []
    grid = ScriptedGrid({m.node_id: Learner(spec, 1.0) for m in everyone})
    gone = everyone[1].node_id

    def first_silent(message: Message) -> Message | None:
        silent.append(message)
        grid.pushed_ids = lambda ids: [*ids[:-1], None] if len(ids) == 1 else ids
        return None

    grid.nodes[gone] = first_silent
    log = Log()
    settings = plan(min_replies=3, retries=1, timeout_s=0.2)
    with pytest.raises(QuorumError, match="node 1: no reply within 0.2 s"):
        run_rounds(grid, Composition(), everyone, state, settings, ledger=ledger(), watcher=log)
    assert told(log, "again") == [(1, [1])]
    assert told(log, "reply")[-1] == (1, 1, NOT_SENT)


def test_a_late_reply_tells_what_a_node_has_released(
    spec: AdapterSpec, state: AdapterState
) -> None:
    versions = Versions()
    everyone = members(2)
    versions.note_received(4, everyone[:1])
    versions.note_received(2, everyone)
    assert versions.received == {0: 4, 1: 2}


def test_who_is_away_is_drawn_all_the_same_where_chance_draws(
    spec: AdapterSpec, state: AdapterState
) -> None:
    everyone = members(3)
    back = Member(node_id=77, partition=1, examples=100)
    there = iter([everyone[:1], [everyone[0], back], [everyone[0], back]])
    seen: list[list[tuple[int, int]]] = []

    class Drawing(Composition):
        def configure(self, number: int, state: AdapterState, cohort: Sequence[Member]) -> Any:
            seen.append([(one.partition, one.node_id) for one in cohort])
            return super().configure(number, state, cohort)

    grid = ScriptedGrid({m.node_id: Learner(spec, 1.0) for m in [*everyone, back]})
    run_rounds(
        grid,
        Drawing(),
        everyone,
        state,
        plan(rounds=2, chance=True, min_nodes=1),
        ledger=ledger(),
        watcher=Log(),
        renew=lambda some, least: next(there),
    )
    ids = [member.node_id for member in everyone]
    assert seen == [list(enumerate(ids)), [(0, ids[0]), (1, 77), (2, ids[2])]]


def test_no_round_of_noise_alone_for_nobody(spec: AdapterSpec, state: AdapterState) -> None:
    grid = ScriptedGrid({})
    with pytest.raises(QuorumError, match="0 nodes are connected, a round needs at least 2"):
        run_rounds(
            grid,
            Composition(),
            members(3),
            state,
            plan(chance=True, min_nodes=2),
            ledger=ledger(),
            watcher=Log(),
            renew=lambda some, least: [],
        )


def test_a_run_whose_time_is_up_trains_no_round_more(
    spec: AdapterSpec, state: AdapterState
) -> None:
    log, _, _ = play([Learner(spec, 1.0)] * 2, state, rounds=5, budget_s=1e-9)
    since = Since(round_number=1, snapshot=log.results[0].snapshot)
    again, grid = Log(), ScriptedGrid({})
    end = run_rounds(
        grid,
        Composition(),
        members(2),
        log.results[0].state,
        plan(rounds=5, budget_s=1e-9),
        ledger=ledger(),
        watcher=again,
        since=since,
    )
    assert again.lines == []
    assert end is log.results[0].state


def slow(spec: AdapterSpec, grids: list[ScriptedGrid]) -> Callable[[Message], Message | None]:
    """Make a node whose first reply comes only with the second round."""
    inner, held = Learner(spec, 1.0), []

    def node(message: Message) -> Message | None:
        reply = inner(message)
        if not held:
            held.append(reply)
            return None
        grids[0]._ready.insert(0, held[0])
        return reply

    return node


@pytest.mark.parametrize("chance", [False, True])
def test_a_late_reply_is_dropped_and_noted(
    spec: AdapterSpec, state: AdapterState, *, chance: bool
) -> None:
    everyone = members(3)
    grids: list[ScriptedGrid] = []
    nodes = [Learner(spec, 1.0), Learner(spec, 1.0), slow(spec, grids)]
    grid = ScriptedGrid({m.node_id: one for m, one in zip(everyone, nodes, strict=True)})
    grids.append(grid)
    log, book = Log(), ledger()
    settings = plan(rounds=3, timeout_s=0.3, min_replies=2, chance=chance)
    run_rounds(grid, Composition(), everyone, state, settings, ledger=book, watcher=log)
    assert told(log, "late") == [(3, 2, 1)]  # came with round 2's, pulled before round 3's
    assert [len(result.good) for result in log.results] == [2, 3, 3]
    (late,) = [entry for entry in book.entries if entry.kind == "late"]
    assert (late.node, late.round_number, late.direction) == (2, 3, "up")
    assert late.size > late.payload > 0


def test_nobody_is_asked_who_is_not_there(spec: AdapterSpec, state: AdapterState) -> None:
    def renew(some: Sequence[Member], least: int) -> Sequence[Member]:
        return [member for member in some if member.partition != 1]

    nodes = [Flaky(spec, 0), Flaky(spec, 0), Flaky(spec, 0)]
    log, _, _ = play(nodes, state, renew=renew, rounds=2)
    assert [started[1] for started in told(log, "started")] == [[0, 2], [0, 2]]
    assert nodes[1].asked == []


def test_who_comes_between_rounds_takes_part(spec: AdapterSpec, state: AdapterState) -> None:
    shown: list[list[int]] = []

    class Counting(Composition):
        def prepare(self, spec: AdapterSpec, some: Sequence[Member]) -> None:
            shown.append([member.partition for member in some])

    everyone, calls = members(3), iter([2, 2, 3, 3])
    grid = ScriptedGrid({m.node_id: Learner(spec, 1.0) for m in everyone})
    log = Log()
    run_rounds(
        grid,
        Counting(),
        everyone[:2],
        state,
        plan(rounds=3, min_replies=1),
        ledger=ledger(),
        watcher=log,
        renew=lambda some, least: everyone[: next(calls)],
    )
    assert [started[1] for started in told(log, "started")] == [[0, 1], [0, 1], [0, 1, 2]]
    assert shown == [[0, 1], [0, 1, 2]]


@pytest.mark.parametrize("fails", [(), (0,), (0, 1, 2)])
def test_an_account_of_failures_is_part_of_a_rounds_result(
    spec: AdapterSpec, state: AdapterState, fails: tuple[int, ...]
) -> None:
    nodes = [Flaky(spec, 9 if place in fails else 0) for place in range(4)]
    log, _, _ = play(nodes, state, min_replies=1)
    assert log.results[0].snapshot.part("attendance").values["missed"] == list(fails)


def test_no_round_begins_when_time_is_up(spec: AdapterSpec, state: AdapterState) -> None:
    log, _, _ = play([Learner(spec, 1.0)] * 2, state, rounds=5, budget_s=1e-9)
    assert [(result.final, result.spent) for result in log.results] == [(True, "budget.minutes")]


def test_nothing_ends_a_round_before_its_time(spec: AdapterSpec, state: AdapterState) -> None:
    end = state_of(spec, 0.0)
    log, _, end = play([Learner(spec, 1.0)] * 2, end, rounds=3, budget_s=1e9)
    assert [result.spent for result in log.results] == ["", "", ""]
    assert np.allclose(end.vector, 3.0)


@pytest.mark.parametrize("slow_s", [0.0, 0.6])
def test_rounds_that_were_short_send_to_everyone_at_once(
    state: AdapterState, monkeypatch: pytest.MonkeyPatch, slow_s: float
) -> None:
    monkeypatch.setattr("fedpeft_app.strategies.exchange._SWEEP_S", 0.01)
    monkeypatch.setattr("fedpeft_app.strategies.loop._SHORT_S", 0.5)

    def slow(message: Message) -> Message:
        time.sleep(slow_s)
        return Learner(state.spec, 1.0)(message)

    uneven = [replace(one, examples=10 + one.partition) for one in members(3)]
    grid = ScriptedGrid({m.node_id: slow for m in uneven}, per_pull=3)
    waves: list[int] = []
    push = grid.push_messages

    def counted(messages: Iterable[Message]) -> Iterable[str]:
        waves.append(len(found := list(messages)))
        return push(found)

    monkeypatch.setattr(grid, "push_messages", counted)
    run_rounds(
        grid,
        Composition(),
        uneven,
        state,
        plan(rounds=2, min_replies=2),
        ledger=ledger(),
        watcher=Log(),
    )
    assert waves == [1, 1, 1] + ([1, 1, 1] if slow_s else [3])
