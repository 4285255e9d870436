"""The weighted mean: by hand, and by its laws."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedpeft_app.adapters.state import Vector
from fedpeft_app.strategies.aggregators import fold_mean

SIZE = 3
moderate = st.floats(-(2.0**20), 2.0**20, width=32)
vectors = hnp.arrays(np.float32, SIZE, elements=moderate)
counts = st.integers(1, 10**6)  # examples of a node
weighted = st.lists(st.tuples(vectors, counts), min_size=1, max_size=8)


def make(values: object) -> Vector:
    """Make a delta."""
    return np.asarray(values, dtype=np.float32)


def mean_of(pairs: list[tuple[np.ndarray, float]]) -> np.ndarray:
    """Give the weighted mean of plain vectors."""
    return fold_mean(((make(vector), weight) for vector, weight in pairs), uniform=False)


def test_weighted_mean_by_hand() -> None:
    pairs = [(np.array([1.0, 0.0, -2.0]), 1), (np.array([5.0, 4.0, 2.0]), 3)]
    assert mean_of(pairs).tolist() == [4.0, 3.0, 1.0]  # (1 + 15) / 4, 12 / 4, (-2 + 6) / 4


@given(pairs=weighted, exponent=st.integers(-20, 20))
def test_mean_ignores_the_scale_of_weights(
    pairs: list[tuple[np.ndarray, float]], exponent: int
) -> None:
    scaled = [(vector, weight * 2.0**exponent) for vector, weight in pairs]
    assert mean_of(scaled).tolist() == mean_of(pairs).tolist()  # powers of two lose no bit


@given(pairs=weighted, factor=st.floats(0.01, 100.0))
def test_mean_nearly_ignores_any_scale_of_weights(
    pairs: list[tuple[np.ndarray, float]], factor: float
) -> None:
    scaled = [(vector, weight * factor) for vector, weight in pairs]
    np.testing.assert_allclose(mean_of(scaled), mean_of(pairs), rtol=1e-12, atol=1e-9)


@given(vector=vectors, weights=st.lists(counts, min_size=1, max_size=8))
def test_mean_of_equals_is_the_same_bits(vector: np.ndarray, weights: list[int]) -> None:
    # 24 bits of a value times 23 bits of the summed counts fit the 53 of float64: no rounding
    mean = mean_of([(vector, weight) for weight in weights])
    assert mean.tolist() == vector.astype(np.float64).tolist()


@given(pairs=weighted)
def test_mean_lies_between_the_extremes(pairs: list[tuple[np.ndarray, float]]) -> None:
    stacked = np.stack([vector for vector, _ in pairs]).astype(np.float64)
    slack = 1e-9
    mean = mean_of(pairs)
    assert (mean >= stacked.min(axis=0) - slack).all()
    assert (mean <= stacked.max(axis=0) + slack).all()


@given(pairs=weighted)
def test_mean_agrees_with_exact_sums(pairs: list[tuple[np.ndarray, float]]) -> None:
    total = sum(weight for _, weight in pairs)
    exact = [
        math.fsum(weight * float(vector[i]) for vector, weight in pairs) / total
        for i in range(SIZE)
    ]
    np.testing.assert_allclose(mean_of(pairs), exact, rtol=1e-12, atol=1e-7)


@given(pairs=weighted)
def test_mean_is_linear_in_the_deltas(pairs: list[tuple[np.ndarray, float]]) -> None:
    doubled = [(2 * vector, weight) for vector, weight in pairs]
    assert mean_of(doubled).tolist() == (2 * mean_of(pairs)).tolist()


def test_a_delta_with_twice_the_weight_counts_twice() -> None:
    one, other = np.array([1.0, 2.0, 3.0]), np.array([8.0, 0.5, -3.0])
    assert mean_of([(one, 2), (other, 1)]).tolist() == (
        mean_of([(one, 1), (one, 1), (other, 1)]).tolist()
    )


def test_mean_accumulates_wider_than_float32() -> None:
    # In float32, 2²⁴ + 1 = 2²⁴: the ones would vanish one by one. In float64 they stay.
    pairs = [(np.full(SIZE, 2.0**24), 1)] + [(np.ones(SIZE), 1)] * 255
    mean = mean_of(pairs)
    assert mean.dtype == np.float64
    assert mean.tolist() == [(2**24 + 255) / 256] * SIZE

    narrow = np.float32(0)
    for vector, _ in pairs:
        narrow += np.float32(vector[0])
    assert narrow / 256 == 2**24 / 256


def test_mean_folds_in_the_order_given() -> None:
    # In float64, (2⁵³ + 1) + 1 = 2⁵³ but (1 + 1) + 2⁵³ = 2⁵³ + 2: the order shows in the bits.
    large, one = np.full(SIZE, 2.0**53), np.ones(SIZE)
    assert mean_of([(large, 1), (one, 1), (one, 1)])[0] == 2.0**53 / 3
    assert mean_of([(one, 1), (one, 1), (large, 1)])[0] == (2.0**53 + 2) / 3
    assert 2.0**53 / 3 != (2.0**53 + 2) / 3


def test_mean_holds_one_delta_at_a_time() -> None:
    alive: list[int] = []

    def one_by_one() -> Iterator[tuple[Vector, float]]:
        for index in range(3):
            alive.append(index)
            yield make([index] * SIZE), 1.0

    assert fold_mean(one_by_one(), uniform=False).tolist() == [1.0] * SIZE
    assert alive == [0, 1, 2]


def test_mean_leaves_the_deltas_alone() -> None:
    first = make([1.0, 2.0, 3.0])
    fold_mean([(first, 2.0), (make([0.0, 0.0, 0.0]), 2.0)], uniform=False)
    assert first.tolist() == [1.0, 2.0, 3.0]


def test_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one delta"):
        fold_mean([], uniform=False)


@pytest.mark.parametrize("weight", [0, 0.0, -1, -0.5, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("before", [0, 1])
def test_mean_refuses_other_than_positive_finite_weights(weight: float, before: int) -> None:
    pairs = [(make([1.0, 2.0, 3.0]), 1.0)] * before + [(make([1.0, 2.0, 3.0]), weight)]
    with pytest.raises(ValueError, match=f"positive, finite aggregation weight, got {weight}"):
        fold_mean(pairs, uniform=False)
