"""Parts of an adapter: what trains of it, taken out of the whole and spread into it again."""

import numpy as np
import pytest

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.adapters.parts import PARTS, family, spread, taken, trained_spec
from fedpeft_app.errors import AdapterMismatchError

A, B = "m.lora_A.default.weight", "m.lora_B.default.weight"
V, U = "m.lora_residual_A.default.weight", "m.lora_residual_B.default.weight"
HEAD = "head.weight"
SHAPES = {U: (3, 2), A: (1, 4), V: (2, 4), HEAD: (2,), B: (3, 1)}  # in no order of their own
TRAINED = {"": [A, HEAD, B], "a": [A, HEAD], "b": [HEAD, B]}


def spec_of(*names: str, method: str = "lora-residual") -> AdapterSpec:
    tensors = tuple(
        TensorSpec(name=name, shape=SHAPES[name], head=name == HEAD, frozen=name in (U, V))
        for name in names
    )
    return AdapterSpec(method=method, backbone="x", tensors=tensors, ranks={"m": 1}, scaling=2.0)


@pytest.fixture
def state() -> AdapterState:
    """The values 1, 2, 3, … ."""
    spec = spec_of(*SHAPES)
    return AdapterState(spec=spec, vector=np.arange(1, spec.size + 1, dtype=np.float32))


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_what_trains_of_it_in_the_same_order(state: AdapterState, part: str) -> None:
    found = trained_spec(state.spec, part)
    assert [tensor.name for tensor in found.tensors] == TRAINED[part]
    assert (found.method, found.backbone) == (state.spec.method, state.spec.backbone)
    assert (found.ranks, found.scaling) == (state.spec.ranks, state.spec.scaling)
    assert not any(tensor.frozen for tensor in found.tensors)


def test_where_all_trains_the_part_is_the_whole() -> None:
    spec = spec_of(A, B, HEAD)
    assert trained_spec(spec) is spec


@pytest.mark.parametrize("part", PARTS)
def test_what_was_taken_is_a_part_of_the_same_values(state: AdapterState, part: str) -> None:
    found, whole = taken(state, trained_spec(state.spec, part)), state.tensors()
    assert {name: value.tolist() for name, value in found.tensors().items()} == {
        name: whole[name].tolist() for name in TRAINED[part]
    }


@pytest.mark.parametrize("part", PARTS)
def test_taking_undoes_spreading_and_the_rest_is_zeros(state: AdapterState, part: str) -> None:
    spec = trained_spec(state.spec, part)
    delta = AdapterState(spec=spec, vector=np.arange(1, spec.size + 1, dtype=np.float32))
    whole = spread(delta, state.spec)
    assert whole.spec.fingerprint == state.spec.fingerprint
    assert taken(whole, spec).vector.tobytes() == delta.vector.tobytes()
    for name, value in whole.tensors().items():
        assert value.any() == (name in TRAINED[part])


def test_the_whole_is_taken_and_spread_without_a_copy(state: AdapterState) -> None:
    assert taken(state, spec_of(*SHAPES)) is state
    assert spread(state, spec_of(*SHAPES)) is state


def test_spread_values_are_copies(state: AdapterState) -> None:
    delta = taken(state, trained_spec(state.spec))
    spread(delta, state.spec).vector[:] = 0
    assert delta.vector.all()


def test_a_family_is_the_adapter_and_all_that_may_be_sent_of_it(state: AdapterState) -> None:
    found = family(state.spec)
    assert [[tensor.name for tensor in spec.tensors] for spec in found.values()] == [
        list(SHAPES),
        *(TRAINED[part] for part in PARTS),
    ]
    assert all(key == spec.fingerprint for key, spec in found.items())
    assert list(family(spec_of(HEAD)).values()) == [spec_of(HEAD)]  # no factors, no such parts


def test_an_unknown_part_is_refused(state: AdapterState) -> None:
    with pytest.raises(AdapterMismatchError, match="to train, got 'c'"):
        trained_spec(state.spec, "c")


@pytest.mark.parametrize(("part", "names"), [("a", (HEAD, B)), ("b", (HEAD, A)), ("a", (HEAD,))])
def test_a_factor_that_is_not_there_cannot_train(part: str, names: tuple[str, ...]) -> None:
    spec = spec_of(*names, method="lora-fa")
    with pytest.raises(AdapterMismatchError, match=f"a factor {part.upper()} to train, got a lora"):
        trained_spec(spec, part)


def test_tensors_that_are_not_there_are_not_taken(state: AdapterState) -> None:
    less = taken(state, spec_of(A, HEAD))
    with pytest.raises(AdapterMismatchError, match=f"missing .'{B}'."):
        taken(less, spec_of(A, HEAD, B))


def test_tensors_of_another_adapter_are_not_spread(state: AdapterState) -> None:
    delta = taken(state, spec_of(A, HEAD))
    with pytest.raises(AdapterMismatchError, match=f"got '{A}'"):
        spread(delta, spec_of(HEAD, B))
    wider = AdapterSpec(
        method="lora", backbone="x", tensors=(TensorSpec(name=A, shape=(4, 1)),), ranks={}
    )
    with pytest.raises(AdapterMismatchError, match=rf"got '{A}' \(1, 4\)"):
        spread(taken(state, spec_of(A)), wider)
