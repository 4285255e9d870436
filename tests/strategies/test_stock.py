"""Our strategies under Flower's own loop: the same bits as under ours."""

import logging
import math
from typing import Any

import numpy as np
import pytest
from conftest import LocalGrid
from flwr.app import ConfigRecord, Message
from strategy_samples import (
    Learner,
    ScriptedGrid,
    failure,
    ledger,
    members,
    numbers,
    plan,
    state_of,
    update,
)

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.assembly import adapted_model
from fedpeft_app.config import parse
from fedpeft_app.errors import QuorumError
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.flower import from_arrays, to_arrays
from fedpeft_app.strategies.roll_call import call_roll, make_roster
from fedpeft_app.strategies.rounds import run_rounds
from fedpeft_app.strategies.stock import StockStrategy


class Quiet:
    """A watcher that does nothing."""

    def round_started(self, *args: Any) -> None: ...

    def reply_arrived(self, *args: Any) -> None: ...

    def round_answered(self, *args: Any) -> None: ...

    def round_finished(self, *args: Any) -> None: ...


def test_flowers_loop_and_ours_train_the_same_bits(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, "rounds": 2}
    adapted = adapted_model(parse(settings), ("crude", "grain", "money"))
    start = adapted.read()
    grid = LocalGrid(4, settings)
    nodes = sorted(grid.get_node_ids())
    answers = call_roll(grid, nodes, ledger=ledger(), timeout_s=60.0)
    roster = make_roster(answers, expected={"adapter": start.spec.fingerprint}, minimum=4)
    ours = run_rounds(
        grid,
        Composition(),
        roster.members,
        start,
        plan(rounds=2, fraction_train=0.5, min_replies=2),
        ledger=ledger(),
        watcher=Quiet(),
    )
    stock = StockStrategy(
        Composition(), start.spec, roster.members, fraction_train=0.5, min_replies=2, seed=0
    )
    result = stock.start(LocalGrid(4, settings), to_arrays(start), num_rounds=2)
    theirs = from_arrays(start.spec, result.arrays)
    assert theirs.vector.tobytes() == ours.vector.tobytes() != start.vector.tobytes()
    assert sorted(result.train_metrics_clientapp) == [1, 2]


def started(spec: AdapterSpec, nodes: list[Any], state: AdapterState, **settings: Any) -> Any:
    """Run Flower's loop over scripted nodes, by partition."""
    everyone = members(len(nodes))
    grid = ScriptedGrid({m.node_id: node for m, node in zip(everyone, nodes, strict=True)})
    strategy = StockStrategy(Composition(), spec, everyone, **settings)
    return strategy.start(grid, to_arrays(state), num_rounds=2)


def test_rounds_add_up(spec: AdapterSpec, state: AdapterState) -> None:
    # Two rounds of (1 · 1 + 3 · 5) / 4 = 4.
    result = started(spec, [Learner(spec, 1.0, 1), Learner(spec, 5.0, 3)], state)
    end = from_arrays(spec, result.arrays)
    np.testing.assert_array_equal(end.vector, state.vector + 8)
    assert result.train_metrics_clientapp[2]["loss"] == 4.0
    assert result.evaluate_metrics_clientapp == {}


def test_bad_replies_are_left_out(spec: AdapterSpec, state: AdapterState) -> None:
    def wild(message: Message) -> Message:
        return update(message, state_of(spec, math.nan), 1, numbers())

    result = started(spec, [wild, Learner(spec, 1.0)], state)
    end = from_arrays(spec, result.arrays)
    np.testing.assert_array_equal(end.vector, state.vector + 2)


def test_too_few_good_replies_fail_the_run(spec: AdapterSpec, state: AdapterState) -> None:
    nodes = [
        lambda message: failure(message, "disk on fire"),
        Learner(spec, 1.0),
        lambda message: None,
    ]
    with pytest.raises(QuorumError, match="Round 1: 1 of 3(.|\n)*disk on fire\n.*no reply"):
        started(spec, nodes, state, min_replies=2)


def test_options_beside_the_strategy_are_refused(spec: AdapterSpec, state: AdapterState) -> None:
    strategy, grid = StockStrategy(Composition(), spec, members(1)), ScriptedGrid({})
    with pytest.raises(ValueError, match=r"Expected no train_config, got \['lr'\]"):
        strategy.configure_train(1, to_arrays(state), ConfigRecord({"lr": 0.1}), grid)


def test_nothing_is_folded_before_a_round_is_configured(spec: AdapterSpec) -> None:
    with pytest.raises(RuntimeError, match="Expected configure_train before"):
        StockStrategy(Composition(), spec, members(1)).aggregate_train(1, [])


def test_the_summary_names_strategy_and_nodes(
    spec: AdapterSpec, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fedpeft_app.strategies.stock"):
        StockStrategy(Composition(), spec, members(3)).summary()
    assert caplog.messages == ["fedavg of adapters (lora) over 3 nodes"]
