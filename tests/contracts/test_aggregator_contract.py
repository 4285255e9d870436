"""Laws that every aggregator and every server optimiser obeys.

Who writes another one adds a factory to one of the two tables. Those that an installed package
adds are held to them too, as their constructors make them without arguments.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedpeft_app.errors import AdapterMismatchError, QuorumError
from fedpeft_app.registry import Registry
from fedpeft_app.strategies import algorithms
from fedpeft_app.strategies.aggregators import Aggregator, Mean, NormBounded
from fedpeft_app.strategies.robust import Krum, Median, MultiKrum, TrimmedMean
from fedpeft_app.strategies.server_optimizers import Adagrad, Adam, ServerOptimizer, Sgd, Yogi


def added(registry: Registry) -> dict[str, Any]:
    """Find what installed packages add."""
    return {name: registry.get(name) for name in registry.names() if name not in registry.builtin}


OUR_AGGREGATORS: Mapping[str, Callable[[], Aggregator]] = {
    "mean": Mean,
    "uniform mean": lambda: Mean(weights="uniform"),
    "norm-bounded mean": lambda: NormBounded(max_norm=1e30),
    "norm-bounded median": lambda: NormBounded(max_norm=1e30, then=Median()),
    "median": Median,
    "trimmed mean": lambda: TrimmedMean(trim=0.2),
    "krum": lambda: Krum(byzantine=1),
    "multi-krum": lambda: MultiKrum(byzantine=1, keep=2),
}
AGGREGATORS = {**OUR_AGGREGATORS, **added(algorithms.AGGREGATORS)}
WEIGHTED = ("mean", "norm-bounded mean")
ROBUST = ("median", "norm-bounded median", "trimmed mean", "krum", "multi-krum")  # to 1 of 5
OUR_OPTIMIZERS: Mapping[str, Callable[[], ServerOptimizer]] = {
    "fedavg": Sgd,
    "momentum": lambda: Sgd(lr=0.5, momentum=0.9),
    "nesterov": lambda: Sgd(momentum=0.9, nesterov=True),
    "adam": Adam,
    "yogi": Yogi,
    "adagrad": Adagrad,
    "adagrad with momentum": lambda: Adagrad(beta1=0.5),
}
OPTIMIZERS = {**OUR_OPTIMIZERS, **added(algorithms.SERVER_OPTIMIZERS)}
LEAST, SIZE = 5, 4  # as many deltas as Krum needs to withstand one attacker

every_aggregator = pytest.mark.parametrize("name", AGGREGATORS)
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
few = settings(max_examples=20)  # of each law for each rule

moderate = st.floats(-(2.0**20), 2.0**20, width=32)
vectors = hnp.arrays(np.float32, SIZE, elements=moderate)
wide = hnp.arrays(np.float64, SIZE, elements=st.floats(-(2.0**20), 2.0**20))
weights = st.integers(1, 10**6)
rounds = st.lists(st.tuples(vectors, weights), min_size=LEAST, max_size=9)
Pairs = Sequence[tuple[np.ndarray, float]]


class Decoded:
    """Deltas that are made when their turn comes, as in a run."""

    def __init__(self, pairs: Pairs) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        return ((delta.copy(), weight) for delta, weight in self._pairs)


def fold(name: str, pairs: Pairs) -> np.ndarray:
    return AGGREGATORS[name]()(list(pairs))


def close(one: np.ndarray, other: np.ndarray, pairs: Pairs) -> None:
    """Expect equality but for rounding at the scale of the largest value that was added."""
    largest = max(abs(delta).max() for delta, _ in pairs)
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12 * float(largest))


def drawn(count: int = LEAST, seed: int = 0) -> list[tuple[np.ndarray, float]]:
    """Draw deltas of no symmetry, so that no two of them are equally close to the others."""
    generator = np.random.default_rng(seed)
    deltas = generator.standard_normal((count, SIZE)).astype(np.float32)
    return list(zip(deltas, generator.integers(1, 100, count).tolist(), strict=True))


# ------------------------------------------------------------------ aggregators


@every_aggregator
@few
@given(pairs=rounds)
def test_folding_gives_one_wide_vector(name: str, pairs: Pairs) -> None:
    mean = fold(name, pairs)
    assert (mean.dtype, mean.shape) == (np.float64, (SIZE,))


@every_aggregator
@few
@given(pairs=rounds)
def test_folding_twice_gives_the_same_bits_however_deltas_are_decoded(
    name: str, pairs: Pairs
) -> None:
    assert fold(name, pairs).tobytes() == AGGREGATORS[name]()(Decoded(pairs)).tobytes()


@every_aggregator
@pytest.mark.parametrize("seed", range(5))
def test_folding_ignores_order(name: str, seed: int) -> None:
    pairs = drawn(7, seed)
    shuffled = [pairs[place] for place in np.random.default_rng(seed + 99).permutation(7)]
    close(fold(name, pairs), fold(name, shuffled), pairs)


@every_aggregator
@few
@given(delta=vectors, told=st.lists(weights, min_size=LEAST, max_size=9))
def test_equal_deltas_are_their_own_mean(
    name: str, delta: np.ndarray, told: Sequence[float]
) -> None:
    folded = fold(name, [(delta, weight) for weight in told])
    assert folded.tolist() == delta.tolist()  # 24 bits times the weights' fit 53


@every_aggregator
@few
@given(pairs=rounds, exponent=st.integers(-20, 20))
def test_folding_ignores_the_scale_of_weights(name: str, pairs: Pairs, exponent: int) -> None:
    scaled = [(delta, weight * 2.0**exponent) for delta, weight in pairs]
    assert fold(name, scaled).tolist() == fold(name, pairs).tolist()  # powers of two are exact


@pytest.mark.parametrize("name", [name for name in OUR_AGGREGATORS if name not in WEIGHTED])
@few
@given(pairs=rounds)
def test_unweighted_aggregators_ignore_weights(name: str, pairs: Pairs) -> None:
    ones = [(delta, 1.0) for delta, _ in pairs]
    assert fold(name, ones).tolist() == fold(name, pairs).tolist()


@pytest.mark.parametrize("name", WEIGHTED)
def test_weighted_aggregators_do_not(name: str) -> None:
    pairs = drawn()
    assert not np.allclose(fold(name, pairs), fold(name, [(delta, 1.0) for delta, _ in pairs]))


@every_aggregator
@few
@given(pairs=rounds, exponent=st.integers(0, 16), sign=st.sampled_from([-1.0, 1.0]))
def test_folding_scales_with_the_deltas(
    name: str, pairs: Pairs, exponent: int, sign: float
) -> None:
    factor = np.float32(sign * 2.0**exponent)  # upward, where no small value loses a bit
    scaled = [(delta * factor, weight) for delta, weight in pairs]
    close(fold(name, scaled), fold(name, pairs) * float(factor), scaled)


@every_aggregator
@few
@given(pairs=rounds)
def test_each_coordinate_stays_between_the_extremes(name: str, pairs: Pairs) -> None:
    stacked = np.stack([delta for delta, _ in pairs]).astype(np.float64)
    mean, slack = fold(name, pairs), 1e-12 * abs(stacked).max()
    assert (stacked.min(axis=0) - slack <= mean).all()
    assert (mean <= stacked.max(axis=0) + slack).all()


@every_aggregator
@few
@given(pairs=rounds)
def test_folding_leaves_the_deltas_alone(name: str, pairs: Pairs) -> None:
    before = [delta.copy() for delta, _ in pairs]
    for delta, _ in pairs:
        delta.flags.writeable = False  # as views of a message are
    fold(name, pairs)
    assert all((delta == old).all() for (delta, _), old in zip(pairs, before, strict=True))


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("outlier", [1e6, -1e30, 3e38])
@pytest.mark.parametrize("place", range(LEAST))
def test_one_attacker_does_not_lead_robust_aggregators_astray(
    name: str, outlier: float, place: int
) -> None:
    pairs = drawn()
    honest = [delta for other, (delta, _) in enumerate(pairs) if other != place]
    pairs[place] = (np.full(SIZE, outlier, dtype=np.float32), 1e9)
    mean = fold(name, pairs)
    assert (np.min(honest, axis=0) <= mean).all()
    assert (mean <= np.max(honest, axis=0)).all()


@pytest.mark.parametrize("name", ["mean", "uniform mean"])
@pytest.mark.parametrize("outlier", [1e6, -1e30, 3e38])
def test_one_attacker_leads_a_mean_anywhere(name: str, outlier: float) -> None:
    pairs = [*drawn(), (np.full(SIZE, outlier, dtype=np.float32), 100)]
    assert (abs(fold(name, pairs)) > abs(outlier) / 10).all()


@every_aggregator
def test_nothing_to_fold_is_refused(name: str) -> None:
    with pytest.raises((ValueError, QuorumError), match="Expected at least"):
        fold(name, [])


@every_aggregator
@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("place", [0, LEAST - 1])
def test_a_weight_that_is_none_is_refused(name: str, weight: float, place: int) -> None:
    pairs = drawn()
    pairs[place] = (pairs[place][0], weight)
    with pytest.raises(ValueError, match="positive, finite aggregation weight"):
        fold(name, pairs)


@every_aggregator
@pytest.mark.parametrize("shape", [(SIZE - 1,), (SIZE + 1,), (1,), (1, SIZE)])
def test_a_delta_of_another_shape_is_refused(name: str, shape: tuple[int, ...]) -> None:
    pairs = [*drawn(), (np.zeros(shape, dtype=np.float32), 1)]
    with pytest.raises(AdapterMismatchError, match=f"Expected a delta of {SIZE} values"):
        fold(name, pairs)


@every_aggregator
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, LEAST - 1])
def test_a_delta_that_is_not_finite_is_refused(name: str, value: float, place: int) -> None:
    pairs = drawn()
    pairs[place][0][1] = value
    with pytest.raises(ValueError, match="Expected finite deltas"):
        fold(name, pairs)


@pytest.mark.parametrize("name", OUR_AGGREGATORS)
def test_only_plain_means_do_without_single_deltas(name: str) -> None:
    assert AGGREGATORS[name]().needs_individual is (name not in {"mean", "uniform mean"})


# ------------------------------------------------------------------ server optimisers


def steps(
    optimizer: ServerOptimizer, state: np.ndarray, deltas: Sequence[np.ndarray]
) -> np.ndarray:
    """Take steps from the start."""
    moments = optimizer.start(state.size)
    for delta in deltas:
        state, moments = optimizer.step(moments, state, delta)
    return state


@every_optimizer
@few
@given(state=wide, deltas=st.lists(wide, min_size=1, max_size=4))
def test_a_step_keeps_the_form_of_state_and_moments(
    name: str, state: np.ndarray, deltas: Sequence[np.ndarray]
) -> None:
    optimizer = OPTIMIZERS[name]()
    moments = first = optimizer.start(SIZE)
    for delta in deltas:
        state, moments = optimizer.step(moments, state, delta)
    assert (state.dtype, state.shape) == (np.float64, (SIZE,))
    assert set(moments) == set(first)
    assert {(each.dtype.name, each.shape) for each in moments.values()} <= {("float64", (SIZE,))}


@every_optimizer
@few
@given(state=wide, delta=wide, before=wide)
def test_a_step_leaves_what_it_was_given_alone(
    name: str, state: np.ndarray, delta: np.ndarray, before: np.ndarray
) -> None:
    optimizer = OPTIMIZERS[name]()
    _, moments = optimizer.step(optimizer.start(SIZE), state, before)
    given_ = [state, delta, *moments.values()]
    copies = [each.copy() for each in given_]
    for each in given_:
        each.flags.writeable = False
    optimizer.step(moments, state, delta)
    assert all((each == copy).all() for each, copy in zip(given_, copies, strict=True))


@every_optimizer
@few
@given(state=wide, deltas=st.lists(wide, min_size=2, max_size=5), stop=st.integers(1, 4))
def test_a_resumed_run_continues_with_the_same_bits(
    name: str, state: np.ndarray, deltas: Sequence[np.ndarray], stop: int
) -> None:
    whole = steps(OPTIMIZERS[name](), state, deltas)
    optimizer = OPTIMIZERS[name]()
    moments = optimizer.start(SIZE)
    for delta in deltas[:stop]:
        state, moments = optimizer.step(moments, state, delta)
    disk = {key: each.tobytes() for key, each in moments.items()}
    moments = {key: np.frombuffer(raw) for key, raw in disk.items()}
    optimizer = OPTIMIZERS[name]()  # another process
    for delta in deltas[stop:]:
        state, moments = optimizer.step(moments, state, delta)
    assert state.tobytes() == whole.tobytes()


@every_optimizer
@few
@given(state=wide)
def test_without_a_change_nothing_moves(name: str, state: np.ndarray) -> None:
    assert steps(OPTIMIZERS[name](), state, [np.zeros(SIZE)] * 2).tolist() == state.tolist()


@every_optimizer
@few
@given(delta=wide)
def test_the_first_step_follows_the_delta(name: str, delta: np.ndarray) -> None:
    moved = steps(OPTIMIZERS[name](), np.zeros(SIZE), [delta])
    large = abs(delta) > 1e-100  # squares of smaller ones vanish, products of them may
    assert (np.sign(moved) == np.sign(delta))[large].all()


@every_optimizer
@few
@given(deltas=st.lists(wide, min_size=1, max_size=4))
def test_opposite_deltas_give_opposite_steps(name: str, deltas: Sequence[np.ndarray]) -> None:
    there = steps(OPTIMIZERS[name](), np.zeros(SIZE), deltas)
    back = steps(OPTIMIZERS[name](), np.zeros(SIZE), [-delta for delta in deltas])
    assert back.tolist() == (-there).tolist()


@every_optimizer
@few
@given(deltas=st.lists(wide, min_size=1, max_size=4))
def test_coordinates_do_not_touch_each_other(name: str, deltas: Sequence[np.ndarray]) -> None:
    together = steps(OPTIMIZERS[name](), np.zeros(SIZE), deltas)
    apart = [
        steps(OPTIMIZERS[name](), np.zeros(1), [delta[place : place + 1] for delta in deltas])[0]
        for place in range(SIZE)
    ]
    assert together.tolist() == apart


@every_optimizer
@pytest.mark.parametrize("shape", [(), (1,), (SIZE + 1,), (1, SIZE)])
def test_a_mean_delta_of_another_shape_is_never_broadcast(
    name: str, shape: tuple[int, ...]
) -> None:
    optimizer = OPTIMIZERS[name]()
    with pytest.raises(AdapterMismatchError, match="Expected the shape"):
        optimizer.step(optimizer.start(SIZE), np.zeros(SIZE), np.zeros(shape))


@every_optimizer
def test_the_moments_of_another_optimizer_are_refused(name: str) -> None:
    optimizer = OPTIMIZERS[name]()
    foreign = {**optimizer.start(SIZE), "drift": np.zeros(SIZE)}
    with pytest.raises(ValueError, match="got .*drift"):
        optimizer.step(foreign, np.zeros(SIZE), np.zeros(SIZE))


@every_optimizer
def test_moments_of_another_size_are_refused(name: str) -> None:
    optimizer = OPTIMIZERS[name]()
    foreign = optimizer.start(SIZE + 1)
    assert bool(foreign) is (name != "fedavg") or name not in OUR_OPTIMIZERS
    if foreign:
        with pytest.raises(AdapterMismatchError, match="Expected the shape"):
            optimizer.step(foreign, np.zeros(SIZE), np.zeros(SIZE))
