"""What leaves the server: numbers of rounds and runs, of no single node."""

from typing import Any

from fedpeft_app.observe.observers.scalars import scalars
from fedpeft_app.wire.record import SITS_OUT

_SPREAD = {"metric": "auroc", "mean": 0.5, "worst": 0.1, "worst_decile": 0.2, "best": 0.9}
_ROUND: dict[str, Any] = {
    "event": "round_finished",
    "at": "2026-01-01",
    "clock": 7.0,
    "round": 3,
    "rounds": 9,
    "metric": "accuracy",
    "validation": {"loss": 1.5, "accuracy": 0.25},
    "test": {"accuracy": None},
    "train_loss": None,
    "ok": 2,
    "failed": 3,
    "rejected": {"1": "too large", "4": f"{SITS_OUT} today", "5": "gone"},
    "seconds": 1.25,
    "down": 1000,
    "up": 500,
    "epsilon": 0.75,
    "nodes": {"0": {"loss": 9.0, "num-examples": 77.0}},
    "bytes_by_node": {"0": 9},
    "notes": {"spread": 2.0},
}


def test_a_round_is_told_in_sums_and_means() -> None:
    assert scalars(_ROUND) == {
        "replies/good": 2.0,
        "replies/failed": 2.0,
        "replies/sitting-out": 1.0,
        "bytes/down": 1000.0,
        "bytes/up": 500.0,
        "seconds/round": 1.25,
        "privacy/epsilon": 0.75,
        "validation/loss": 1.5,
        "validation/accuracy": 0.25,
        "strategy/spread": 2.0,
    }


def test_no_number_is_of_a_single_node() -> None:
    for count, told in ((1, set()), (2, {"mean"}), (10, {"mean"}), (11, {"mean", "worst-decile"})):
        nodes = {str(node): 0.5 for node in range(count)}
        event = {"event": "round_finished", "clients": {**_SPREAD, "nodes": nodes}}
        assert set(scalars(event)) == {f"nodes-validation/auroc-{name}" for name in told}


def test_where_traffic_is_secret_what_was_expected_is_told() -> None:
    event = {"event": "round_finished", "expected": {"clients": 2.5, "down": 10, "up": 5}}
    assert scalars(event) == {"expected/clients": 2.5, "expected/down": 10.0, "expected/up": 5.0}


def test_what_a_run_comes_to_has_names_of_its_own() -> None:
    event = {"event": "run_finished", "round": 2, "seconds": 9.5, "test": {"accuracy": 0.5}}
    event |= {"down": 4, "up": 3, "nodes": {**_SPREAD, "nodes": {"0": 0.5, "1": 0.5}}}
    assert scalars(event) == {
        "run/seconds": 9.5,
        "run/round": 2.0,
        "run/down": 4.0,
        "run/up": 3.0,
        "run/test-accuracy": 0.5,
        "run/nodes-alone/auroc-mean": 0.5,
    }


def test_other_events_measure_nothing() -> None:
    assert scalars({"event": "reply", "round": 1, "node": 4, "seconds": 3.0}) == {}
    assert scalars({"event": "node_finished", "node": 1, "test": {"accuracy": 1.0}}) == {}
