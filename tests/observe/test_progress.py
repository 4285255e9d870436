"""How far a run is: folded over events, with what is left of it."""

import math
from typing import Any

import pytest

from fedpeft_app.observe.progress import Progress, estimated, follow
from fedpeft_app.wire.record import SITS_OUT


def folded(*events: dict[str, Any]) -> Progress:
    progress = Progress()
    for event in events:
        progress = follow(progress, event)
    return progress


def started(number: int, clock: float = 0.0, **more: Any) -> dict[str, Any]:
    told = {"asked": 4, "cohort": [0, 1, 2, 3]}
    return {"event": "round_started", "round": number, "rounds": 9, "clock": clock, **told, **more}


def finished(number: int, clock: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"event": "round_finished", "round": number, "rounds": 9, "clock": clock, **more}


def reply(problem: str = "") -> dict[str, Any]:
    return {"event": "reply", "round": 1, "node": 1, "problem": problem, "clock": 1.0}


def test_clients_are_in_flight_until_they_answer() -> None:
    progress = folded(started(1), reply(), reply("no data"), reply(f"{SITS_OUT} today"))
    assert (progress.in_flight, progress.done, progress.failed) == (1, 2, 1)
    assert progress.stage == "training"
    assert follow(progress, reply()).stage == "aggregating"


def test_clients_that_are_asked_beside_count_too() -> None:
    progress = folded(started(1), *[reply("no")] * 4, {"event": "asked_again", "cohort": [5, 6]})
    assert (progress.in_flight, progress.failed, progress.stage) == (2, 4, "training")


def test_where_the_cohort_is_secret_nobody_is_counted() -> None:
    event = {"event": "round_started", "round": 1, "rounds": 2, "clock": 0.0}
    progress = folded(event, {"event": "asked_again", "cohort": [5, 6]})
    assert progress.asked == progress.in_flight == 0
    expected = folded(event, finished(1, expected={"clients": 2.5, "down": 20, "up": 10}))
    assert (expected.down, expected.up, expected.traffic_expected) == (20, 10, True)


def test_bytes_add_up_and_epsilon_is_the_last() -> None:
    progress = folded(
        finished(1, down=5, up=3, epsilon=0.5), finished(2, down=5, up=4, epsilon=0.7)
    )
    assert (progress.down, progress.up, progress.epsilon) == (10, 7, 0.7)
    assert not progress.traffic_expected


def test_of_equal_rounds_the_one_with_the_lowest_loss_is_the_best() -> None:
    losses = [0.9, 0.7, 0.8]
    rounds = [
        finished(at, metric="accuracy", validation={"accuracy": 0.5, "loss": loss})
        for at, loss in enumerate(losses, 1)
    ]
    assert folded(*rounds).best == (2, 0.5)


@pytest.mark.parametrize(("metric", "best"), [("accuracy", (2, 0.75)), ("loss", (1, 0.5))])
def test_the_best_round_is_the_first_of_the_best(metric: str, best: tuple[int, float]) -> None:
    values = [0.5, 0.75, 0.75, 0.5]
    rounds = [finished(at, metric=metric, validation={metric: v}) for at, v in enumerate(values, 1)]
    assert folded(*rounds).best == best


def test_nodes_rate_rounds_where_the_server_holds_no_data() -> None:
    clients = {"metric": "auroc", "mean": 0.6}
    assert folded(finished(1, metric="auroc", clients=clients)).values == ((1, 0.6, math.inf),)
    assert folded(finished(1, metric="loss", clients=clients)).values == ()
    assert folded(finished(1, metric="auroc", validation={"auroc": None})).best is None


def test_a_round_takes_as_long_as_its_evaluation() -> None:
    progress = folded(started(1, 10.0), finished(1, 16.0), started(2, 17.0))
    assert progress.durations == (6.0,)
    assert progress.left_s(19.0) == 8 * 6.0 - 2.0


def test_what_is_left_is_the_median_of_the_last_rounds() -> None:
    assert estimated([], 3, 0.0) is None
    assert estimated([1.0, 2.0, 9.0], 3, 0.0) == 6.0
    assert estimated([2.0], 3, 1.5) == 4.5
    assert estimated([2.0], 3, 100.0) == 4.0  # a slow round says nothing of the next ones
    assert estimated([2.0], 0, 0.0) == 0.0
    slow_start = [event for at in range(1, 8) for event in (started(at), finished(at, 90 / at))]
    assert len(folded(*slow_start).durations) == 5


def test_a_run_that_goes_on_has_its_history_and_no_round_going_on() -> None:
    old = [started(1, 900.0), finished(1, 904.0, validation={"accuracy": 0.5}), started(2, 905.0)]
    resumed = {"event": "run_resumed", "round": 1, "rounds": 3, "clock": 5.0}
    progress = folded(*old, reply(), resumed)
    assert (progress.finished, progress.rounds, progress.began) == (1, 3, None)
    assert (progress.asked, progress.values) == (0, ((1, 0.5, math.inf),))
    assert progress.left_s(6.0) == 8.0


def test_nodes_that_train_for_themselves_are_done_when_the_run_is() -> None:
    alone = {"event": "node_finished", "node": 3, "clock": 2.0}
    progress = folded(started(1, rounds=1), *[reply()] * 4, alone, {"event": "run_finished"})
    assert (progress.finished, progress.left_s(9.0)) == (1, None)


def test_other_events_change_nothing() -> None:
    progress = folded(started(1))
    assert follow(progress, {"event": "late_reply", "round": 1, "node": 3}) is progress
