"""The arithmetic on states: by hand, and by its laws."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.adapters.algebra import (
    difference,
    is_finite,
    norm,
    require_same_spec,
    shifted,
    weighted_mean,
)
from fedpeft_app.errors import AdapterMismatchError

SIZE = 3
moderate = st.floats(-(2.0**20), 2.0**20, width=32)
vectors = hnp.arrays(np.float32, SIZE, elements=moderate)
counts = st.integers(1, 10**6)  # examples of a node
weighted = st.lists(st.tuples(vectors, counts), min_size=1, max_size=8)


def make(values: object, method: str = "lora") -> AdapterState:
    """Make a state of one tensor."""
    vector = np.asarray(values, dtype=np.float32)
    tensor = TensorSpec(name="w", shape=vector.shape)
    spec = AdapterSpec(method=method, backbone="x", tensors=(tensor,), ranks={})
    return AdapterState(spec=spec, vector=vector)


def mean_of(pairs: list[tuple[np.ndarray, float]]) -> np.ndarray:
    """Give the weighted mean of plain vectors."""
    return weighted_mean((make(vector), weight) for vector, weight in pairs)


def test_difference_by_hand() -> None:
    delta = difference(make([1.5, -2.0, 0.25]), make([1.0, 2.0, 0.25]))
    assert delta.vector.tolist() == [0.5, -4.0, 0.0]
    assert delta.vector.dtype == np.float32


@given(start=vectors)
def test_no_training_no_difference(start: np.ndarray) -> None:
    assert not difference(make(start), make(start)).vector.any()


@given(local=vectors, start=vectors)
def test_adding_the_difference_leads_back(local: np.ndarray, start: np.ndarray) -> None:
    back = shifted(make(start), difference(make(local), make(start)).vector)
    # one rounding in the difference, one in the sum, each half a unit in the last place
    largest = np.maximum(abs(local), abs(local - start))
    assert (abs(back.vector - local) <= np.spacing(largest)).all()


def test_shifted_by_hand() -> None:
    state = shifted(make([1.0, 2.0, 3.0]), np.array([0.5, -2.0, 0.0]))
    assert state.vector.tolist() == [1.5, 0.0, 3.0]
    assert state.vector.dtype == np.float32


def test_shifting_rounds_once() -> None:
    # 1 + (2⁻²⁴ + 2⁻⁵⁰) lies just above the middle of two float32 neighbours and rounds up; the
    # delta rounded to float32 first would be 2⁻²⁴, the middle itself, which rounds to even
    delta = np.full(SIZE, 2.0**-24 + 2.0**-50)
    assert shifted(make([1.0] * SIZE), delta).vector.tolist() == [1 + 2.0**-23] * SIZE
    assert shifted(make([1.0] * SIZE), delta.astype(np.float32)).vector.tolist() == [1.0] * SIZE


def test_shifting_leaves_the_state_alone() -> None:
    state = make([1.0, 2.0, 3.0])
    shifted(state, np.ones(SIZE))
    assert state.vector.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("shape", [(), (1,), (2,), (4,), (3, 1), (1, 3)])
def test_a_delta_of_another_shape_is_never_broadcast(shape: tuple[int, ...]) -> None:
    with pytest.raises(AdapterMismatchError, match="Expected a delta of 3 values"):
        shifted(make([1.0, 2.0, 3.0]), np.zeros(shape))


def test_norm_by_hand() -> None:
    assert norm(make([2.0, -3.0, 6.0])) == 7.0
    assert norm(make([0.0, 0.0, 0.0])) == 0.0


def test_norm_is_over_all_tensors_jointly(state: AdapterState) -> None:
    assert norm(state) == pytest.approx(math.sqrt(91))  # 0 + 1 + 4 + 9 + 16 + 25 + 36


def test_norm_does_not_overflow_where_float32_would() -> None:
    assert norm(make([3e30, 4e30, 0.0])) == pytest.approx(5e30)  # squares beyond 3.4e38


@given(vector=vectors, exponent=st.integers(-8, 8))
def test_norm_scales(vector: np.ndarray, exponent: int) -> None:
    factor = -(2.0**exponent)
    assert norm(make(vector * np.float32(factor))) == pytest.approx(
        abs(factor) * norm(make(vector))
    )


@pytest.mark.parametrize("value", [0.0, -3.4e38, 3.4e38, math.nan, math.inf, -math.inf])
def test_one_value_decides_finiteness(value: float) -> None:
    assert is_finite(make([1.0, value, 2.0])) is math.isfinite(value)


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, -math.inf])
def test_values_whose_squares_overflow_hide_nothing(value: float) -> None:
    assert is_finite(make([3e38, value, -3e38])) is math.isfinite(value)


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

    def one_by_one() -> Iterator[tuple[AdapterState, float]]:
        for index in range(3):
            alive.append(index)
            yield make([index] * SIZE), 1.0

    assert weighted_mean(one_by_one()).tolist() == [1.0] * SIZE
    assert alive == [0, 1, 2]


def test_mean_leaves_the_deltas_alone() -> None:
    first = make([1.0, 2.0, 3.0])
    weighted_mean([(first, 2.0), (make([0.0, 0.0, 0.0]), 2.0)])
    assert first.vector.tolist() == [1.0, 2.0, 3.0]


def test_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one delta"):
        weighted_mean([])


@pytest.mark.parametrize("weight", [0, 0.0, -1, -0.5, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("before", [0, 1])
def test_mean_refuses_other_than_positive_finite_weights(weight: float, before: int) -> None:
    pairs = [(make([1.0, 2.0, 3.0]), 1.0)] * before + [(make([1.0, 2.0, 3.0]), weight)]
    with pytest.raises(ValueError, match=f"positive, finite aggregation weight, got {weight}"):
        weighted_mean(pairs)


MIXED = [make([0.0, 0.0, 0.0]), make([0.0, 0.0, 0.0], method="ia3")]
REFUSAL = "Cannot combine adapters of different make: (lora .* ia3|ia3 .* lora) "


@pytest.mark.parametrize("order", [1, -1])
def test_states_of_different_make_never_mix(order: int) -> None:
    first, second = MIXED[::order]
    for operation in (require_same_spec, difference):
        with pytest.raises(AdapterMismatchError, match=REFUSAL):
            operation(first, second)
    with pytest.raises(AdapterMismatchError, match=REFUSAL):
        weighted_mean([(first, 1.0), (second, 1.0)])
