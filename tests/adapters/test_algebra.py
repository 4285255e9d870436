"""The arithmetic on states: by hand, and by its laws."""

import math

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
)
from fedpeft_app.errors import AdapterMismatchError

SIZE = 3
moderate = st.floats(-(2.0**20), 2.0**20, width=32)
vectors = hnp.arrays(np.float32, SIZE, elements=moderate)


def make(values: object, method: str = "lora") -> AdapterState:
    """Make a state of one tensor."""
    vector = np.asarray(values, dtype=np.float32)
    tensor = TensorSpec(name="w", shape=vector.shape)
    spec = AdapterSpec(method=method, backbone="x", tensors=(tensor,), ranks={})
    return AdapterState(spec=spec, vector=vector)


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


MIXED = [make([0.0, 0.0, 0.0]), make([0.0, 0.0, 0.0], method="ia3")]
REFUSAL = "Cannot combine adapters of different make: (lora .* ia3|ia3 .* lora) "


@pytest.mark.parametrize("order", [1, -1])
def test_states_of_different_make_never_mix(order: int) -> None:
    first, second = MIXED[::order]
    for operation in (require_same_spec, difference):
        with pytest.raises(AdapterMismatchError, match=REFUSAL):
            operation(first, second)
