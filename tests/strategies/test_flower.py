"""Flower's strategies behind our protocol: the same numbers, no waiting, no side effects."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp import strategy as flower
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from strategy_samples import members, reply_of, state_of

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.errors import AdapterMismatchError, ConfigError, QuorumError, RollCallError
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.flower import FlowerAdapter, _CohortGrid, from_arrays, to_arrays
from fedpeft_app.strategies.strategy import Reply

SMALL = AdapterSpec(
    method="lora",
    backbone="0",
    tensors=(TensorSpec(name="a", shape=(2, 2)), TensorSpec(name="b", shape=(3,), head=True)),
    ranks={},
)
VALUES = st.lists(st.floats(-100, 100, width=32, allow_subnormal=False), min_size=7, max_size=7)


def replies_of(deltas: Sequence[Sequence[float] | float], weights: Sequence[float]) -> list[Reply]:
    """Make replies of partitions 0, 1, …"""
    return [
        reply_of(member, state_of(SMALL, delta), weight)
        for member, delta, weight in zip(members(len(deltas)), deltas, weights, strict=True)
    ]


def one_round(
    strategy: Any, start: AdapterState, replies: Sequence[Reply], round_number: int = 1
) -> AdapterState:
    """Configure and aggregate as our loop does."""
    strategy.configure(round_number, start, [reply.member for reply in replies])
    return strategy.aggregate(round_number, start, replies)


@given(VALUES, st.lists(st.tuples(VALUES, st.integers(1, 1000)), min_size=1, max_size=5))
@hypothesis_settings(deadline=None, max_examples=50)
def test_flowers_fedavg_equals_ours(
    values: list[float], some: list[tuple[list[float], int]]
) -> None:
    start = state_of(SMALL, values)
    replies = replies_of([delta for delta, _ in some], [weight for _, weight in some])
    ours = one_round(Composition(), start, replies)
    theirs = one_round(FlowerAdapter(flower.FedAvg()), start, replies)
    # float32 throughout on their side; states of up to 200 have a spacing of 1.5e-5
    np.testing.assert_allclose(theirs.vector, ours.vector, rtol=1e-6, atol=1e-4)


def test_flowers_fedavg_equals_ours_to_the_sixth_digit() -> None:
    start = state_of(SMALL, np.linspace(-1, 1, 7))
    replies = replies_of([np.sin(np.arange(7) * k) / 10 for k in (1, 2, 3)], [1, 3, 10])
    ours = one_round(Composition(), start, replies)
    theirs = one_round(FlowerAdapter(flower.FedAvg()), start, replies)
    np.testing.assert_allclose(theirs.vector, ours.vector, rtol=0, atol=1e-6)


def test_momentum_by_hand() -> None:
    # FedAvgM, momentum 0.5, deltas of 1: v = 1, 1.5, 1.75 and the state is their sum.
    strategy = FlowerAdapter(flower.FedAvgM(server_momentum=0.5))
    state, found = state_of(SMALL, 0.0), []
    for round_number in (1, 2, 3):
        state = one_round(strategy, state, replies_of([1.0, 1.0], [1, 1]), round_number)
        found.append(float(state.vector[0]))
    assert found == pytest.approx([1.0, 2.5, 4.25])


def test_the_median_ignores_an_outlier() -> None:
    strategy = FlowerAdapter(flower.FedMedian())
    end = one_round(strategy, state_of(SMALL, 0.0), replies_of([1.0, 2.0, 1e6], [1, 1, 1]))
    np.testing.assert_allclose(end.vector, 2.0)


def test_krum_takes_the_reply_among_its_like() -> None:
    strategy = FlowerAdapter(flower.Krum(num_malicious_nodes=1))
    deltas = [1.0, 1.1, 50.0, 1.05]
    end = one_round(strategy, state_of(SMALL, 0.0), replies_of(deltas, [1] * 4))
    assert float(end.vector[0]) in [pytest.approx(delta) for delta in (1.0, 1.1, 1.05)]


ADAPTIVE = [flower.FedAdam, flower.FedAdagrad, flower.FedYogi]


@pytest.mark.parametrize("kind", ADAPTIVE)
def test_adaptive_servers_move_with_the_deltas(kind: Any) -> None:
    strategy = FlowerAdapter(kind(eta=0.1, tau=0.01))
    state, heights = state_of(SMALL, 0.0), [0.0]
    for round_number in (1, 2, 3):
        state = one_round(strategy, state, replies_of([1.0, 2.0], [1, 3]), round_number)
        assert np.ptp(state.vector) == 0.0
        heights.append(float(state.vector[0]))
    assert heights == sorted(set(heights))


@pytest.mark.parametrize("kind", [flower.FedAvg, flower.FedMedian, flower.Krum, *ADAPTIVE])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.timeout(20)
def test_small_cohorts_do_not_hang(kind: Any, size: int) -> None:
    strategy = FlowerAdapter(kind(min_available_nodes=10, min_train_nodes=10))
    replies = replies_of([1.0] * size, [1] * size)
    end = one_round(strategy, state_of(SMALL, 0.0), replies)
    assert np.isfinite(end.vector).all()
    assert end.vector.any()


def test_a_small_cohort_changes_nothing_for_good() -> None:
    inner = flower.FedAvg(min_available_nodes=10, min_train_nodes=7)
    strategy = FlowerAdapter(inner)
    one_round(strategy, state_of(SMALL, 0.0), replies_of([1.0], [1]))
    assert (inner.min_available_nodes, inner.min_train_nodes) == (10, 7)


def test_a_fraction_applies_within_the_cohort_by_the_runs_seed() -> None:
    def chosen(seed: int, round_number: int = 1) -> list[int]:
        strategy = FlowerAdapter(flower.FedAvg(fraction_train=0.3), seed)
        asked = strategy.configure(round_number, state_of(SMALL, 0.0), members(10))
        return sorted(asked)

    assert len(chosen(0)) == 3
    assert chosen(0) == chosen(0)
    drawn = {tuple(chosen(seed, number)) for seed in range(3) for number in range(1, 4)}
    assert len(drawn) > 6


def test_pythons_global_generator_is_left_alone() -> None:
    before = random.getstate()
    one_round(FlowerAdapter(flower.FedAvg()), state_of(SMALL, 0.0), replies_of([1.0], [1]))
    assert random.getstate() == before


def test_it_is_left_alone_after_an_error_too() -> None:
    class Failing(flower.FedAvg):
        def configure_train(self, *args: Any, **kwargs: Any) -> Any:
            random.random()
            raise RuntimeError

    before = random.getstate()
    with pytest.raises(RuntimeError):
        FlowerAdapter(Failing()).configure(1, state_of(SMALL, 0.0), members(2))
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("strategy", "options"),
    [(flower.FedAvg(), {}), (flower.FedProx(proximal_mu=0.25), {"proximal-mu": 0.25})],
)
def test_options_for_the_nodes_come_through(strategy: Any, options: dict[str, float]) -> None:
    start = state_of(SMALL, 0.0)
    asked = FlowerAdapter(strategy).configure(7, start, members(2))
    assert {node: one.options for node, one in asked.items()} == {
        member.node_id: options for member in members(2)
    }
    assert all(one.state is start and not one.part for one in asked.values())


class Warming(flower.FedAvg):
    """A strategy that tells nodes what ours do not know."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
    ) -> Any:
        config["warm-up"] = 0.1
        return super().configure_train(server_round, arrays, config, grid)


def test_an_option_on_which_no_node_acts_is_refused() -> None:
    with pytest.raises(ConfigError, match="Warming tells nodes warm-up, on which fedpeft's"):
        FlowerAdapter(Warming()).configure(1, state_of(SMALL, 0.0), members(2))


def test_what_a_strategy_would_tell_nodes_is_known_before_a_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(TaskIdentity, "_run_id", None)  # as outside of a run
    with pytest.raises(ConfigError, match="Warming tells nodes warm-up"):
        FlowerAdapter(Warming()).prepare(SMALL, ())
    caplog.clear()
    FlowerAdapter(flower.FedAvg(min_available_nodes=1000)).prepare(SMALL, ())
    FlowerAdapter(flower.FedProx(proximal_mu=0.1)).prepare(SMALL, ())
    assert caplog.messages == []


def test_a_strategy_that_cannot_be_rehearsed_is_left_to_the_run() -> None:
    class Choosy(flower.FedAvg):
        def configure_train(self, *args: Any, **kwargs: Any) -> Any:
            raise KeyError("classifier.weight")

    FlowerAdapter(Choosy()).prepare(SMALL, ())


def test_nodes_of_their_own_rank_are_refused_by_number() -> None:
    mixed = [replace(member, rank=4 * member.partition) for member in members(2)]
    with pytest.raises(RollCallError, match=r"strategy:?.*FedAvg' folds .* but node 1 has rank 4"):
        FlowerAdapter(flower.FedAvg()).prepare(SMALL, mixed)


def test_a_node_with_more_to_tell_does_not_stop_the_round() -> None:
    first, second = members(2)
    replies = [
        reply_of(first, state_of(SMALL, 1.0), 1, extra=1.0),
        reply_of(second, state_of(SMALL, 2.0), 1),
    ]
    end = one_round(FlowerAdapter(flower.FedAvg()), state_of(SMALL, 0.0), replies)
    np.testing.assert_allclose(end.vector, 1.5)


def test_no_aggregate_is_a_failed_round() -> None:
    class Empty(flower.FedAvg):
        def aggregate_train(self, *args: Any, **kwargs: Any) -> Any:
            return None, None

    with pytest.raises(QuorumError, match="Round 1: Empty returned no aggregate of 1 good"):
        one_round(FlowerAdapter(Empty()), state_of(SMALL, 0.0), replies_of([1.0], [1]))


@given(VALUES)
def test_arrays_carry_every_bit(values: list[float]) -> None:
    start = state_of(SMALL, values)
    arrays = to_arrays(start)
    assert [(name, array.shape) for name, array in arrays.items()] == [("a", (2, 2)), ("b", (3,))]
    assert from_arrays(SMALL, arrays).vector.tobytes() == start.vector.tobytes()


def test_wider_arrays_are_rounded_and_other_names_refused() -> None:
    arrays = to_arrays(state_of(SMALL, 0.1))
    wide = {name: Array(array.numpy().astype(np.float64)) for name, array in arrays.items()}
    assert from_arrays(SMALL, ArrayRecord(wide)).vector.dtype == np.float32
    with pytest.raises(AdapterMismatchError, match="missing"):
        from_arrays(SMALL, ArrayRecord({"a": wide["a"]}))


def test_a_strategy_cannot_send_by_itself() -> None:
    grid = _CohortGrid(members(2))
    assert list(grid.get_node_ids()) == [9000, 8993]
    grid.set_run(None)
    for attempt in (
        lambda: grid.run,
        grid.create_message,
        lambda: grid.push_messages([]),
        lambda: grid.pull_messages([]),
        lambda: grid.send_and_receive([]),
    ):
        with pytest.raises(NotImplementedError, match="round loop sends the messages"):
            attempt()
