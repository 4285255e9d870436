"""One adapter in two ranks: padding and cutting are inverse, and cut nothing but zeros."""

import numpy as np
import pytest

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.adapters.lora import factors, resized_spec
from fedpeft_app.adapters.ranks import cut, padded
from fedpeft_app.errors import AdapterMismatchError

SPEC = AdapterSpec(
    method="lora",
    backbone="x",
    tensors=(
        TensorSpec(name="q.lora_A.default.weight", shape=(3, 4)),
        TensorSpec(name="q.lora_B.default.weight", shape=(5, 3)),
        TensorSpec(name="head.bias", shape=(2,), head=True),
    ),
    ranks={"q": 3},
)
LOW = resized_spec(SPEC, 2)


def counting(spec: AdapterSpec) -> AdapterState:
    """Make a state of different values, none of them zero."""
    return AdapterState(spec=spec, vector=np.arange(1, spec.size + 1, dtype=np.float32))


def test_padding_adds_zeros_behind_the_rank() -> None:
    tensors = padded(counting(LOW), SPEC).tensors()
    np.testing.assert_array_equal(
        tensors["q.lora_A.default.weight"], [[1, 2, 3, 4], [5, 6, 7, 8], [0, 0, 0, 0]]
    )
    np.testing.assert_array_equal(
        tensors["q.lora_B.default.weight"],
        [[9, 10, 0], [11, 12, 0], [13, 14, 0], [15, 16, 0], [17, 18, 0]],
    )
    assert tensors["head.bias"].tolist() == [19, 20]


def test_the_product_stays() -> None:
    low = counting(LOW)
    small, large = factors(low)["q"], factors(padded(low, SPEC))["q"]
    np.testing.assert_array_equal(large.b @ large.a, small.b @ small.a)


def test_cutting_undoes_padding() -> None:
    low = counting(LOW)
    assert cut(padded(low, SPEC), LOW).vector.tobytes() == low.vector.tobytes()


def test_the_same_rank_is_the_same_state() -> None:
    state = counting(SPEC)
    assert padded(state, SPEC) is state
    assert cut(state, SPEC) is state


def test_values_are_never_cut_off() -> None:
    with pytest.raises(AdapterMismatchError, match="zeros beyond the rank"):
        cut(counting(SPEC), LOW)


@pytest.mark.parametrize("move", [padded, cut])
def test_other_adapters_are_refused(move: object) -> None:
    other = AdapterSpec(
        method="bias", backbone="x", tensors=(TensorSpec(name="b", shape=(3,)),), ranks={}
    )
    with pytest.raises(AdapterMismatchError, match="one adapter in two ranks, got .*bias"):
        move(counting(other), SPEC)  # type: ignore[operator]


def test_a_lower_rank_cannot_hold_a_higher_one() -> None:
    with pytest.raises(AdapterMismatchError, match="one adapter in two ranks"):
        padded(counting(SPEC), LOW)
