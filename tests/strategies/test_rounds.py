"""The round loop over scripted nodes: order, quorum, watchers, evaluation."""

import math
from collections.abc import Mapping, Sequence
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
    numbers,
    plan,
    reply_of,
    state_of,
    update,
)

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.errors import QuorumError, RollCallError, TrainingError
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.exchange import NOT_SENT
from fedpeft_app.strategies.plan import RoundPlan
from fedpeft_app.strategies.rounds import run_rounds
from fedpeft_app.strategies.strategy import Assignment, Member, Reply, train_loss
from fedpeft_app.wire.catalogue import parse_codec
from fedpeft_app.wire.ledger import Ledger


def run(
    nodes: Sequence[Node],
    state: AdapterState,
    settings: RoundPlan | None = None,
    *,
    strategy: Any = None,
    order: Any = None,
    book: Ledger | None = None,
) -> tuple[AdapterState, Log]:
    """Run rounds over nodes, by partition."""
    everyone = members(len(nodes))
    grid = ScriptedGrid({m.node_id: node for m, node in zip(everyone, nodes, strict=True)})
    grid.order = order or grid.order
    log = Log()
    end = run_rounds(
        grid,
        strategy or Composition(),
        everyone,
        state,
        settings or plan(),
        ledger=book or ledger(),
        watcher=log,
    )
    return end, log


def fails(message: Message) -> Message:
    """Fail as a deployed node does."""
    return failure(message, "<class 'fedpeft_app.errors.DataError'>:<'No such file.'>")


def test_rounds_add_up(spec: AdapterSpec, state: AdapterState) -> None:
    # Each round adds (10 · 1 + 30 · 5) / 40 = 4.
    end, log = run([Learner(spec, 1.0, 10), Learner(spec, 5.0, 30)], state, plan(rounds=3))
    np.testing.assert_array_equal(end.vector, state.vector + 12)
    assert [result.train_loss for result in log.results] == [4.0, 4.0, 4.0]


def test_each_round_starts_from_the_last_ones_state(spec: AdapterSpec, state: AdapterState) -> None:
    node = Learner(spec, 0.5)
    run([node], state, plan(rounds=3))
    assert [order.round_number for order in node.orders] == [1, 2, 3]
    assert [start.vector[0] for start in node.starts] == [0.0, 0.5, 1.0]


def test_the_order_of_arrival_does_not_matter(spec: AdapterSpec, state: AdapterState) -> None:
    # Even in float64 their sum depends on its order: 1e20 swallows what is added before -1e20.
    steps = [1e20, 1.0, -1e20, 3.14159, 1e-3, -2.71828]
    orders = [lambda node_id: node_id, lambda node_id: -node_id, lambda node_id: node_id % 5]
    ends = [run([Learner(spec, step, 8) for step in steps], state, order=by) for by in orders]
    replies = [[line[2] for line in log.lines if line[0] == "reply"] for _, log in ends]
    assert len({tuple(order) for order in replies}) == 3
    assert len({end.vector.tobytes() for end, _ in ends}) == 1


def test_the_watcher_is_told_in_order(spec: AdapterSpec, state: AdapterState) -> None:
    nodes = [Learner(spec, 1.0), fails, Learner(spec, 1.0)]
    _, log = run(nodes, state, plan(rounds=2), order=lambda node_id: -node_id)
    one_round = [
        lambda number: ("started", number, [0, 1, 2]),
        lambda number: ("reply", number, 0, ""),
        lambda number: ("reply", number, 1, "No such file."),
        lambda number: ("reply", number, 2, ""),
        lambda _: ("answered", [0, 2], [1]),
        lambda number: ("finished", number),
    ]
    assert log.lines == [line(number) for number in (1, 2) for line in one_round]


def test_rejected_replies_are_named_and_the_round_goes_on(
    spec: AdapterSpec, state: AdapterState
) -> None:
    def wild(message: Message) -> Message:
        return update(message, state_of(spec, math.nan), 1, numbers())

    end, log = run([fails, Learner(spec, 2.0), wild], state, plan(min_replies=1))
    infinite = "sent a delta with values that are not finite"
    assert log.results[0].rejected == {0: "No such file.", 2: infinite}
    assert [reply.member.partition for reply in log.results[0].good] == [1]
    np.testing.assert_array_equal(end.vector, state.vector + 2)


def test_a_reply_without_numbers_cannot_stop_a_run(spec: AdapterSpec, state: AdapterState) -> None:
    def mute(message: Message) -> Message:
        return update(message, state_of(spec, 1.0), 1, {"num-examples": 5})

    _, log = run([mute, Learner(spec, 1.0)], state)
    assert log.results[0].rejected == {0: "sent no metric 'loss'"}
    assert log.results[0].train_loss == 1.0


def test_too_few_good_replies_fail_the_round(spec: AdapterSpec, state: AdapterState) -> None:
    nodes = [fails, Learner(spec, 1.0), lambda message: None]
    with pytest.raises(QuorumError) as raised:
        run(nodes, state, plan(min_replies=2, timeout_s=0.1))
    assert str(raised.value) == (
        "Round 1: 1 of 3 replies were good, at least 2 (strategy.min-replies) must be. Rejected:\n"
        "  node 0: No such file.\n"
        "  node 2: no reply within 0.1 s"
    )


def test_the_watcher_is_told_what_came_before_a_round_fails(
    spec: AdapterSpec, state: AdapterState
) -> None:
    class Raving(Composition):
        """A strategy that makes nothing finite of good replies."""

        def aggregate(self, *_: object) -> AdapterState:  # type: ignore[override]
            return state_of(spec, math.nan)

    for settings, strategy, error in (
        (plan(min_replies=2), Composition(), QuorumError),
        (plan(), Raving(), TrainingError),
    ):
        everyone, log = members(2), Log()
        nodes = (fails, Learner(spec, 1.0))
        grid = ScriptedGrid({m.node_id: node for m, node in zip(everyone, nodes, strict=True)})
        with pytest.raises(error):
            run_rounds(grid, strategy, everyone, state, settings, ledger=ledger(), watcher=log)
        assert log.lines[-1] == ("answered", [1], [0])


def test_who_could_not_be_asked_is_told_apart(spec: AdapterSpec, state: AdapterState) -> None:
    everyone, log = members(2), Log()
    grid = ScriptedGrid({member.node_id: Learner(spec, 1.0) for member in everyone})
    grid.pushed_ids = lambda ids: [ids[0], None]
    run_rounds(grid, Composition(), everyone, state, plan(), ledger=ledger(), watcher=log)
    assert log.results[0].rejected == {1: NOT_SENT}


def test_a_cohort_is_never_smaller_than_the_quorum(spec: AdapterSpec, state: AdapterState) -> None:
    nodes = [Learner(spec, 1.0) for _ in range(6)]
    _, log = run(nodes, state, plan(fraction_train=0.1, min_replies=3))
    assert len(log.lines[0][2]) == 3


class Overflowing(Composition):
    """A strategy that leaves an infinite value."""

    def __init__(self) -> None:
        super().__init__("overflowing")

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        return state_of(state.spec, math.inf)


def test_a_state_that_is_not_finite_fails_the_round(spec: AdapterSpec, state: AdapterState) -> None:
    with pytest.raises(TrainingError, match="Round 1: the state that overflowing made"):
        run([Learner(spec, 1.0)], state, strategy=Overflowing())


class Picky(Composition):
    """A strategy that leaves out partition 0 and gives the others options."""

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        return {
            m.node_id: Assignment(state=state, options={"epochs": m.partition})
            for m in cohort
            if m.partition
        }


def test_the_strategy_chooses_whom_it_asks_for_what(spec: AdapterSpec, state: AdapterState) -> None:
    nodes = [Learner(spec, 1.0) for _ in range(3)]
    _, log = run(nodes, state, strategy=Picky())
    assert log.lines[0] == ("started", 1, [1, 2])
    assert [[order.options for order in node.orders] for node in nodes] == [
        [],
        [{"epochs": 1}],
        [{"epochs": 2}],
    ]


def test_nobody_evaluates_unless_asked(spec: AdapterSpec, state: AdapterState) -> None:
    node, book = Learner(spec, 1.0), ledger()
    _, log = run([node], state, book=book)
    assert node.evaluated == []
    assert log.results[0].client_metrics == {}
    assert book.total(kind="evaluate") == 0


def test_a_cohort_of_its_own_evaluates_the_new_state(
    spec: AdapterSpec, state: AdapterState
) -> None:
    nodes, book = [Learner(spec, 1.0) for _ in range(10)], ledger()
    settings = plan(rounds=5, fraction_train=0.3, fraction_evaluate=0.3)
    _, log = run(nodes, state, settings, book=book)
    trained = [line[2] for line in log.lines if line[0] == "started"]
    judged = [sorted(result.client_metrics) for result in log.results]
    assert [len(cohort) for cohort in judged] == [3] * 5
    assert trained != judged
    first = log.results[0]
    assert first.client_metrics[judged[0][0]] == {
        "loss": 0.5,
        "accuracy": 0.75,
        "num-examples": 4.0,
    }
    seen = nodes[judged[0][0]].evaluated[0]
    assert seen.vector.tobytes() == first.state.vector.tobytes()
    assert book.total("up", kind="evaluate", round_number=5) > 0


def test_failed_measurements_are_left_out_and_told_of(
    spec: AdapterSpec, state: AdapterState
) -> None:
    nodes = [Unfit(spec, 1.0), Learner(spec, 1.0)]
    _, log = run(nodes, state, plan(fraction_evaluate=1.0, retries=2))
    assert set(log.results[0].client_metrics) == {1}
    assert [line for line in log.lines if line[0] in _JUDGING] == [("unfit", 1, 0, "No such file.")]


_JUDGING = ("unfit", "unjudged")


class Unfit(Learner):
    """A node that trains, and cannot evaluate."""

    def __call__(self, message: Message) -> Message:
        evaluating = message.metadata.message_type == "evaluate"
        return fails(message) if evaluating else super().__call__(message)


def test_where_nobody_evaluated_others_are_asked(spec: AdapterSpec, state: AdapterState) -> None:
    settings = plan(rounds=3, fraction_evaluate=0.25, retries=3)
    drawn = run([Learner(spec, 1.0) for _ in range(4)], state, settings)[1].results[0]
    (usual,) = drawn.client_metrics
    nodes = [Unfit(spec, 1.0) if node == usual else Learner(spec, 1.0) for node in range(4)]
    end, log = run(nodes, state, settings)
    others = [set(result.client_metrics) for result in log.results]
    assert len(others[0]) == 1
    assert usual not in others[0]
    assert others == [others[0]] * 3  # the same in every round, so that rounds can be compared
    unfit = [line for line in log.lines if line[0] in _JUDGING]
    assert unfit == [("unfit", number, usual, "No such file.") for number in (1, 2, 3)]
    np.testing.assert_array_equal(end.vector, state.vector + 3)


@pytest.mark.parametrize(("retries", "asked"), [(0, 1), (2, 3), (9, 4)])
def test_others_are_asked_as_often_as_is_allowed_and_each_once(
    spec: AdapterSpec, state: AdapterState, retries: int, asked: int
) -> None:
    nodes = [Unfit(spec, 1.0) for _ in range(4)]
    _, log = run(nodes, state, plan(fraction_evaluate=0.25, retries=retries))
    unfit = [line[2] for line in log.lines if line[0] == "unfit"]
    assert len(unfit) == len(set(unfit)) == asked


def test_a_round_that_nobody_evaluated_goes_on_unjudged(
    spec: AdapterSpec, state: AdapterState
) -> None:
    learner = Learner(spec, 1.0)

    def only_trains(message: Message) -> Message | None:
        return None if message.metadata.message_type == "evaluate" else learner(message)

    settings = plan(rounds=2, fraction_evaluate=1.0, timeout_s=0.3)
    end, log = run([only_trains, Unfit(spec, 1.0)], state, settings)
    reasons = {0: "no reply within 0.3 s", 1: "No such file."}
    unjudged = [line for line in log.lines if line[0] == "unjudged"]
    assert unjudged == [("unjudged", number, reasons) for number in (1, 2)]
    assert [result.client_metrics for result in log.results] == [{}, {}]
    np.testing.assert_array_equal(end.vector, state.vector + 2)


def test_train_loss_is_weighted_by_examples(spec: AdapterSpec) -> None:
    first, second = members(2)
    good = [
        reply_of(first, state_of(spec, 0.0), 1, loss=4.0),
        reply_of(second, state_of(spec, 0.0), 3, loss=8.0),
    ]
    assert train_loss(good) == 7.0


def test_where_nobody_tells_a_loss_there_is_none(spec: AdapterSpec) -> None:
    silent = replace(reply_of(members(1)[0], state_of(spec, 0.0), 1), metrics={"num-examples": 1.0})
    assert math.isnan(train_loss([silent]))
    assert math.isnan(train_loss([]))


# ------------------------------------------------------------------ who is asked, and who reports


def test_who_drops_out_is_asked_for_nothing_and_named(
    spec: AdapterSpec, state: AdapterState
) -> None:
    nodes, book = [Learner(spec, float(number)) for number in range(10)], ledger()
    end, log = run(nodes, state, plan(dropout=0.5, rounds=2), book=book)
    gone = [set(result.rejected) for result in log.results]
    assert all(0 < len(dropped) < 10 for dropped in gone)
    assert gone[0] != gone[1]
    assert {why for r in log.results for why in r.rejected.values()} == {
        "dropped out (strategy.dropout)"
    }
    for number, node in enumerate(nodes):
        rounds = [order.round_number for order in node.orders]
        assert rounds == [at for at, dropped in enumerate(gone, start=1) if number not in dropped]
    assert [line[2] for line in log.lines if line[0] == "started"] == [list(range(10))] * 2
    told = [(line[1], line[2]) for line in log.lines if line[0] == "reply" and line[3]]
    assert told == [(at, node) for at, out in enumerate(gone, start=1) for node in sorted(out)]
    steps = [np.mean([n for n in range(10) if n not in dropped]) for dropped in gone]
    np.testing.assert_allclose(end.vector - state.vector, sum(steps), rtol=1e-6)
    assert {int(node) for node, row in book.by_node(2).items() if row["down"]} == {
        node for node in range(10) if node not in gone[1]
    }


def test_dropouts_alone_never_fail_a_round(spec: AdapterSpec, state: AdapterState) -> None:
    nodes = [Learner(spec, 1.0) for _ in range(3)]
    end, log = run(nodes, state, plan(dropout=0.999, rounds=4, min_replies=2))
    assert [len(result.good) for result in log.results] == [1] * 4
    np.testing.assert_array_equal(end.vector, state.vector + 4)


class Nobody(Composition):
    """A strategy that asks nobody."""

    def configure(self, *_: object) -> dict[int, Assignment]:  # type: ignore[override]
        return {}


def test_a_round_that_asks_nobody_fails(spec: AdapterSpec, state: AdapterState) -> None:
    with pytest.raises(QuorumError, match="Round 1: 0 of 0 replies were good, at least 1"):
        run([Learner(spec, 1.0)], state, strategy=Nobody())


def test_a_round_that_chance_leaves_without_anybody_goes_on(
    spec: AdapterSpec, state: AdapterState
) -> None:
    class Patient(Nobody):
        """A strategy that can do without replies."""

        def aggregate(
            self, round_number: int, state: AdapterState, replies: Sequence[Reply]
        ) -> AdapterState:
            return state_of(state.spec, len(replies))

    end, log = run([Learner(spec, 1.0)], state, plan(chance=True, rounds=2), strategy=Patient())
    assert (end.vector == 0).all()
    assert [line[0] for line in log.lines] == ["started", "answered", "finished"] * 2
    assert [(result.good, result.rejected) for result in log.results] == [([], {})] * 2


def test_who_fails_beside_dropouts_still_counts(spec: AdapterSpec, state: AdapterState) -> None:
    with pytest.raises(QuorumError, match="Round 1: 0 of 3 replies were good, at least 1"):
        run([fails, fails, fails], state, plan(dropout=0.999, min_replies=2))


def test_of_more_than_are_needed_the_first_good_replies_count(
    spec: AdapterSpec, state: AdapterState
) -> None:
    settings = plan(fraction_train=0.5, over_selection=2.0)
    _, log = run([Learner(spec, 1.0) for _ in range(6)], state, settings)
    assert log.lines[0] == ("started", 1, [0, 1, 2, 3, 4, 5])
    (result,) = log.results
    assert len(result.good) == 3
    surplus = "not needed: 3 others were faster (strategy.over-selection)"
    assert list(result.rejected.values()) == [surplus] * 3


@pytest.mark.parametrize("seed", range(4))  # draws who is asked first
def test_bad_replies_are_not_among_those_that_are_enough(
    spec: AdapterSpec, state: AdapterState, seed: int
) -> None:
    def wild(message: Message) -> Message:
        return update(message, state_of(spec, math.nan), 1, numbers())

    nodes = [wild, fails, wild, Learner(spec, 1.0), Learner(spec, 1.0), Learner(spec, 1.0)]
    _, log = run(nodes, state, plan(seed=seed, fraction_train=0.5, over_selection=2.0))
    (result,) = log.results
    assert [reply.member.partition for reply in result.good] == [3, 4, 5]
    assert not {line[2] for line in log.lines if line[0] == "reply" and not line[3]} & {0, 1, 2}


def test_strategies_that_fold_one_rank_refuse_others_before_anybody_is_asked(
    spec: AdapterSpec, state: AdapterState
) -> None:
    first, second = members(2)
    grid, log = ScriptedGrid({}), Log()
    with pytest.raises(RollCallError, match="'fedavg' folds adapters of one rank, but node 1 has"):
        run_rounds(
            grid,
            Composition(),
            [first, replace(second, rank=4)],
            state,
            plan(),
            ledger=ledger(),
            watcher=log,
        )
    assert log.lines == []
    assert grid.pulls == 0


# ------------------------------------------------------------------ what rounds may cost


def test_rounds_end_when_the_budget_is_spent(spec: AdapterSpec, state: AdapterState) -> None:
    def ended(budget: int) -> tuple[list[bool], int]:
        book = ledger()
        nodes = [Learner(spec, 1.0), Learner(spec, 1.0)]
        _, log = run(nodes, state, plan(rounds=4, uplink_budget=budget), book=book)
        return [result.final for result in log.results], book.total("up", kind="train")

    everything, spent = ended(0)
    one = spent // 4
    assert spent == 4 * one
    assert everything == [False, False, False, True]
    assert ended(2 * one) == ([False, True], 2 * one)
    assert ended(2 * one + 1) == ([False, False, True], 3 * one)
    assert ended(1) == ([True], one)
    assert ended(100 * one) == (everything, spent)


# ------------------------------------------------------------------ a downlink that loses something

LARGE = AdapterSpec(
    method="lora", backbone="x", tensors=(TensorSpec(name="w", shape=(400,)),), ranks={}
)


@pytest.mark.parametrize("codec", ["int8", "topk(0.1)+int8", "bfloat16"])
def test_nodes_train_from_and_judge_the_state_of_record(codec: str) -> None:
    class Trouble(Learner):
        """Fails once in a while: before it has decoded anything, or after."""

        def __call__(self, message: Message) -> Message:
            number = int(message.metadata.group_id)
            if number % 5 == 3:
                return fails(message)
            reply = super().__call__(message)
            return fails(message) if number % 5 == 4 else reply

    nodes = [Learner(LARGE, 0.1), Learner(LARGE, 0.25), Trouble(LARGE, 0.7), Learner(LARGE, -0.4)]
    settings = plan(
        rounds=12,
        fraction_train=0.75,
        fraction_evaluate=0.5,
        downlink=parse_codec(codec),
        experiment="run",
        keeps=True,
    )
    end, log = run(nodes, state_of(LARGE, 0.0), settings)
    held = [state_of(LARGE, 0.0), *(result.state for result in log.results)]
    assert end is held[-1]
    kinds = set()
    for node in nodes:
        assert node.orders
        for order, start in zip(node.orders, node.starts, strict=True):
            kinds |= {section.name.partition("-")[0] for section in order.sections} or {""}
            assert start.vector.tobytes() == held[order.round_number - 1].vector.tobytes()
        assert {state.vector.tobytes() for state in node.evaluated} <= {
            state.vector.tobytes() for state in held
        }
    assert any(node.evaluated for node in nodes)
    assert kinds == {"", "state", "increment"}


def test_what_the_downlink_lost_reaches_nodes_later() -> None:
    """One of ten values travels; all of a round's deltas are 1, and so add up to the round."""
    nodes = [Learner(LARGE, 1.0)]
    settings = plan(
        rounds=20,
        downlink=parse_codec("topk(0.1)+float32"),
        experiment="run",
        keeps=True,
    )
    end, _ = run(nodes, state_of(LARGE, 0.0), settings)
    forgetful, _ = run(nodes, state_of(LARGE, 0.0), replace(settings, feedback=False))
    assert (end.vector > 0).all()
    assert np.count_nonzero(forgetful.vector) == 40
