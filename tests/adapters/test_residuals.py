"""Residuals of an adapter: by name, out of states and back, filled up with zeros."""

import numpy as np
import pytest
from low_rank_samples import pair, product

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.adapters.lora import Pair, pairs, resized_spec
from fedpeft_app.adapters.products import Factors
from fedpeft_app.adapters.residuals import residual_factors, residuals, with_residuals
from fedpeft_app.errors import AdapterMismatchError

ONE, OTHER = "model.one", "model.other"


def name(module: str, factor: str) -> str:
    return f"{module}.lora_{factor}.default.weight"


@pytest.fixture
def state() -> AdapterState:
    """Two modules of rank 1, `(3, 4)` and `(2, 2)`, with room for 2; the values 0, 1, 2, … ."""
    tensors = []
    for module, out, inputs in ((ONE, 3, 4), (OTHER, 2, 2)):
        shapes = {"A": (1, inputs), "B": (out, 1)}
        shapes |= {"residual_A": (2, inputs), "residual_B": (out, 2)}
        for factor, shape in shapes.items():
            frozen = factor.startswith("residual")
            tensors.append(TensorSpec(name=name(module, factor), shape=shape, frozen=frozen))
    spec = AdapterSpec(
        method="lora-residual",
        backbone="x",
        tensors=tuple(tensors),
        ranks={ONE: 1, OTHER: 1},
        scaling=2.0,
    )
    return AdapterState(spec=spec, vector=np.arange(spec.size, dtype=np.float32))


def test_residuals_and_pairs_are_told_apart(state: AdapterState) -> None:
    for found, a, b in (
        (residuals(state.spec), "residual_A", "residual_B"),
        (pairs(state.spec), "A", "B"),
    ):
        assert found == tuple(
            Pair(module=module, a=name(module, a), b=name(module, b)) for module in (ONE, OTHER)
        )


def test_residuals_by_hand(state: AdapterState) -> None:
    found = residual_factors(state)
    assert list(found) == [ONE, OTHER]
    assert found[ONE].a.tolist() == [[7, 8, 9, 10], [11, 12, 13, 14]]
    assert found[ONE].b.tolist() == [[15, 16], [17, 18], [19, 20]]
    found[ONE].a[:] = 0  # a copy
    assert state.vector[7] == 7


def test_residuals_put_back_leave_the_same_bits(state: AdapterState) -> None:
    back = with_residuals(state, residual_factors(state))
    assert back.spec.fingerprint == state.spec.fingerprint
    assert back.vector.tobytes() == state.vector.tobytes()


def test_room_that_is_not_used_is_zeros_and_all_else_stays(state: AdapterState) -> None:
    nothing = Factors(a=np.zeros((0, 2)), b=np.zeros((2, 0)))
    changed = with_residuals(state, {ONE: pair([[1], [2], [3]], [[1, 2, 3, 4]]), OTHER: nothing})
    found = residual_factors(changed)
    assert found[ONE].a.tolist() == [[1, 2, 3, 4], [0, 0, 0, 0]]
    assert found[ONE].b.tolist() == [[1, 0], [2, 0], [3, 0]]
    assert not product(found[OTHER]).any()
    assert not found[OTHER].a.any()
    assert changed.spec is state.spec
    for module in (ONE, OTHER):
        for factor in "AB":
            key = name(module, factor)
            assert changed.tensors()[key].tolist() == state.tensors()[key].tolist()


def test_other_ranks_of_the_pair_leave_the_residual(state: AdapterState) -> None:
    frozen = [tensor for tensor in state.spec.tensors if tensor.frozen]
    assert [tensor for tensor in resized_spec(state.spec, 2).tensors if tensor.frozen] == frozen


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ({ONE: pair([[1]] * 3, [[1] * 4])}, f"each of the 2 modules .* got 1; '{OTHER}' is on one"),
        (
            {ONE: pair(np.ones((3, 3)), np.ones((3, 4))), OTHER: pair([[1]] * 2, [[1] * 2])},
            f"rank 2 at most for '{ONE}', got one of rank 3. Truncate it, or raise 'residual'",
        ),
        (
            {ONE: pair([[1]] * 3, [[1] * 5]), OTHER: pair([[1]] * 2, [[1] * 2])},
            rf"float32 \(2, 4\) for '{name(ONE, 'residual_A')}', got float32 \(2, 5\)",
        ),
    ],
)
def test_residuals_that_do_not_fit_are_refused(
    state: AdapterState, updates: dict[str, Factors], message: str
) -> None:
    with pytest.raises(AdapterMismatchError, match=message):
        with_residuals(state, updates)


def test_an_adapter_without_residuals_is_refused(state: AdapterState) -> None:
    tensors = tuple(tensor for tensor in state.spec.tensors if not tensor.frozen)
    spec = AdapterSpec(method="lora", backbone="x", tensors=tensors, ranks={}, scaling=1.0)
    assert residuals(spec) == ()
    plain = AdapterState(spec=spec, vector=np.zeros(spec.size, np.float32))
    with pytest.raises(AdapterMismatchError, match="got a lora adapter without any.*lora-residual"):
        residual_factors(plain)
