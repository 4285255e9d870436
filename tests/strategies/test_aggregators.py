"""Means and bounded norms by hand, and the laws that are theirs alone.

What every aggregator obeys is in `contracts/test_aggregator_contract.py`.
"""

import math
import tracemalloc
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedpeft_app.strategies.aggregators import Deltas, Mean, MeanDelta, NormBounded
from fedpeft_app.strategies.robust import Median

SIZE = 3
moderate = st.floats(-(2.0**20), 2.0**20, width=32)
vectors = hnp.arrays(np.float32, SIZE, elements=moderate)
rounds = st.lists(st.tuples(vectors, st.integers(1, 10**6)), min_size=1, max_size=8)
Pairs = Sequence[tuple[np.ndarray, float]]


def of(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


class Seen:
    """An aggregator that keeps what it is given."""

    needs_individual = True

    def __init__(self) -> None:
        self.pairs: list[tuple[np.ndarray, float]] = []

    def __call__(self, deltas: Deltas) -> MeanDelta:
        self.pairs = list(deltas)
        return np.zeros(SIZE)


class Counted:
    """Deltas decoded when their turn comes, from nothing, so that only live ones take memory."""

    def __init__(self, count: int, size: int) -> None:
        self._count, self._size = count, size

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        return ((np.full(self._size, place, np.float32), 1.0) for place in range(self._count))


# ------------------------------------------------------------------ mean


def test_a_mean_weighs_by_examples() -> None:
    pairs = [(of(1.0, 0.0, -2.0), 1), (of(5.0, 4.0, 2.0), 3)]
    assert Mean()(pairs).tolist() == [4.0, 3.0, 1.0]  # (1 + 15) / 4, 12 / 4, (-2 + 6) / 4


def test_a_uniform_mean_does_not() -> None:
    pairs = [(of(1.0, 0.0, -2.0), 1), (of(5.0, 4.0, 2.0), 3)]
    assert Mean(weights="uniform")(pairs).tolist() == [3.0, 2.0, 0.0]


def test_a_delta_with_twice_the_weight_counts_twice() -> None:
    one, other = of(1.0, 2.0, 3.0), of(8.0, 0.5, -3.0)
    twice = Mean()([(one, 1), (one, 1), (other, 1)])
    assert Mean()([(one, 2), (other, 1)]).tolist() == twice.tolist()


@given(pairs=rounds)
def test_a_mean_agrees_with_exact_sums(pairs: Pairs) -> None:
    total = sum(weight for _, weight in pairs)
    exact = [
        math.fsum(weight * float(delta[i]) for delta, weight in pairs) / total for i in range(SIZE)
    ]
    np.testing.assert_allclose(Mean()(pairs), exact, rtol=1e-12, atol=1e-7)


whole = hnp.arrays(np.float32, SIZE, elements=st.integers(-1000, 1000))  # their sums are exact
twins = st.lists(st.tuples(whole, whole, st.integers(1, 10**6)), min_size=1, max_size=8)


@given(twins=twins)
def test_a_mean_is_linear_in_the_deltas(twins: list[tuple[np.ndarray, np.ndarray, int]]) -> None:
    sums = Mean()([(2 * one + other, weight) for one, other, weight in twins])
    ones = Mean()([(one, weight) for one, _, weight in twins])
    others = Mean()([(other, weight) for _, other, weight in twins])
    np.testing.assert_allclose(sums, 2 * ones + others, rtol=1e-12, atol=1e-12)


@given(pairs=rounds, factor=st.floats(0.01, 100.0))
def test_a_mean_nearly_ignores_any_scale_of_weights(pairs: Pairs, factor: float) -> None:
    scaled = [(delta, weight * factor) for delta, weight in pairs]
    np.testing.assert_allclose(Mean()(scaled), Mean()(pairs), rtol=1e-12, atol=1e-9)


def test_a_mean_accumulates_wider_than_float32() -> None:
    # In float32, 2²⁴ + 1 = 2²⁴: the ones would vanish one by one. In float64 they stay.
    pairs = [(of(2.0**24), 1), *[(of(1.0), 1)] * 255]
    assert Mean()(pairs).tolist() == [(2**24 + 255) / 256]


def test_a_mean_folds_in_the_order_given() -> None:
    # In float64, (2⁵³ + 1) + 1 = 2⁵³ but (1 + 1) + 2⁵³ = 2⁵³ + 2: the order shows in the bits.
    large, one = (of(2.0**53), 1), (of(1.0), 1)
    assert Mean()([large, one, one])[0] * 3 == 2.0**53
    assert Mean()([one, one, large])[0] * 3 > 2.0**53


def test_blocks_do_not_show_in_the_bits() -> None:
    generator = np.random.default_rng(0)
    pairs = [(generator.standard_normal(40_001).astype(np.float32), w) for w in (3, 1, 7)]
    total = np.zeros(40_001)
    for delta, weight in pairs:
        total += weight * delta.astype(np.float64)
    assert Mean()(pairs).tobytes() == (total / 11).tobytes()


@pytest.mark.parametrize("count", [2, 40])
def test_a_mean_holds_one_sum_and_one_delta_at_a_time(count: int) -> None:
    size = 100_000
    deltas = Counted(count, size)
    tracemalloc.start()
    try:
        mean = Mean()(deltas)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert mean.tolist() == [(count - 1) / 2] * size
    scratch = 150_000  # a block of products, 131,072 bytes, and small things
    assert 12 * size < peak < 12 * size + scratch  # two deltas at a time would be 16 · size


@pytest.mark.parametrize("weights", ["example", "", None, 1, ["uniform"]])
def test_weights_are_by_examples_or_uniform(weights: object) -> None:
    with pytest.raises(ValueError, match="Expected weights to be 'examples' or 'uniform', got"):
        Mean(weights=weights)


# ------------------------------------------------------------------ bounded norms


def bounded(*deltas: np.ndarray, max_norm: float) -> list[np.ndarray]:
    """Give the deltas as the aggregator behind the bound sees them."""
    seen = Seen()
    NormBounded(max_norm=max_norm, then=seen)([(delta, 1) for delta in deltas])
    return [delta for delta, _ in seen.pairs]


def length(delta: np.ndarray) -> float:
    return math.sqrt(math.fsum(float(value) ** 2 for value in delta))


def test_a_long_delta_is_scaled_to_the_bound() -> None:
    (short,) = bounded(of(3.0, 0.0, 4.0), max_norm=2.5)  # its norm is 5
    np.testing.assert_allclose(short, [1.5, 0.0, 2.0], rtol=2**-22)
    assert short.dtype == np.float32


def test_short_deltas_are_not_touched() -> None:
    deltas = [of(3.0, 0.0, 4.0), of(0.1, -0.2, 0.3), of(0.0, 0.0, 0.0)]
    for delta, kept in zip(deltas, bounded(*deltas, max_norm=5.0), strict=True):
        assert kept.tobytes() == delta.tobytes()


huge = st.floats(-(2.0**127), 2.0**127, width=32)


@given(
    delta=hnp.arrays(np.float32, SIZE, elements=moderate | huge),
    max_norm=st.floats(1e-6, 1e6),
)
def test_no_norm_exceeds_the_bound(delta: np.ndarray, max_norm: float) -> None:
    (kept,) = bounded(delta, max_norm=max_norm)
    assert length(kept) <= max_norm * (1 + 1e-15)  # of a delta that is as long as the bound
    assert length(kept) >= min(length(delta), max_norm) * (1 - 2**-22)  # and no shorter


@given(deltas=st.lists(vectors, min_size=1, max_size=6), max_norm=st.floats(0.01, 100.0))
def test_a_mean_of_bounded_deltas_is_bounded(deltas: Sequence[np.ndarray], max_norm: float) -> None:
    mean = NormBounded(max_norm=max_norm)([(delta, 3) for delta in deltas])
    assert length(mean) <= max_norm * (1 + 1e-12)


@pytest.mark.parametrize("outlier", [1e3, -1e20, 3e38])
def test_one_delta_moves_the_mean_by_its_share_of_the_bound(outlier: float) -> None:
    honest = [(of(0.1, 0.0, 0.0), 1)] * 3
    pairs = [*honest, (of(outlier, outlier, outlier), 1)]
    with_it = NormBounded(max_norm=2.0)(pairs)
    without = 3 / 4 * Mean()(honest)
    assert length(with_it - without) == pytest.approx(2.0 / 4, rel=1e-6)


def test_weights_reach_what_comes_behind_the_bound() -> None:
    pairs = [(of(3.0, 0.0, 0.0), 3), (of(9.0, 0.0, 0.0), 1)]
    # 9 is cut to 5, but for 2⁻²³ of it: (3 · 3 + 5) / 4
    assert NormBounded(max_norm=5.0)(pairs)[0] == pytest.approx(3.5, rel=2**-22)
    assert NormBounded(max_norm=5.0, then=Median())(pairs)[0] == pytest.approx(4.0, rel=2**-22)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_delta_without_a_norm_does_not_pass_the_bound(value: float) -> None:
    seen = Seen()
    with pytest.raises(ValueError, match="Expected finite deltas"):
        NormBounded(max_norm=1.0, then=seen)([(of(1.0, value, 0.0), 1)])
    assert not seen.pairs


@pytest.mark.parametrize("max_norm", [0, -1.0, math.inf, math.nan, "1"])
def test_the_bound_is_a_positive_number(max_norm: object) -> None:
    with pytest.raises(ValueError, match=r"Expected max_norm to be a number in \(0, inf\)"):
        NormBounded(max_norm=max_norm)


def test_only_an_aggregator_comes_behind_the_bound() -> None:
    with pytest.raises(TypeError, match="Expected then to be an aggregator, got 'median'"):
        NormBounded(max_norm=1.0, then="median")
