"""Specs and states: identity of a spec, strictness of a state, views on one vector."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.errors import AdapterMismatchError

names = st.text(min_size=1, max_size=8)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
tensor_lists = st.lists(
    st.builds(TensorSpec, name=names, shape=shapes, head=st.booleans()),
    max_size=4,
    unique_by=lambda tensor: tensor.name,
).map(tuple)
specs = st.builds(
    AdapterSpec,
    method=names,
    backbone=names,
    tensors=tensor_lists,
    ranks=st.dictionaries(names, st.integers(1, 64), max_size=3),
    scaling=st.floats(allow_nan=False, allow_infinity=False),
)

CHANGES = {
    "method": {"method": "ia3"},
    "backbone": {"backbone": "fedcba9876543210"},
    "scaling": {"scaling": 2.0000000000000004},  # the next float64 after 2.0
    "a rank": {"ranks": {"layer": 2}},
    "a ranked module": {"ranks": {"layer": 1, "other": 1}},
    "no ranks": {"ranks": {}},
    "no tensors": {"tensors": ()},
}


def tensors_of(state: AdapterState) -> dict[str, np.ndarray]:
    """Copy a state's tensors."""
    return {name: view.copy() for name, view in state.tensors().items()}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_field_changes_the_fingerprint(spec: AdapterSpec, change: dict[str, object]) -> None:
    assert replace(spec, **change).fingerprint != spec.fingerprint  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change", [{"name": "x"}, {"shape": (2, 1)}, {"head": True}, {"frozen": True}]
)
def test_every_field_of_a_tensor_changes_the_fingerprint(
    spec: AdapterSpec, change: dict[str, object]
) -> None:
    first, *rest = spec.tensors
    changed = replace(spec, tensors=(replace(first, **change), *rest))  # type: ignore[arg-type]
    assert changed.size == spec.size  # a mix-up that no size check would catch
    assert changed.fingerprint != spec.fingerprint


def test_the_order_of_tensors_changes_the_fingerprint(spec: AdapterSpec) -> None:
    turned = replace(spec, tensors=spec.tensors[::-1])
    assert turned.fingerprint != spec.fingerprint


@given(first=specs, second=specs)
def test_equal_fingerprints_mean_equal_specs(first: AdapterSpec, second: AdapterSpec) -> None:
    assert (first.fingerprint == second.fingerprint) == (first == second)


def test_the_order_of_ranks_does_not_matter(spec: AdapterSpec) -> None:
    one = replace(spec, ranks={"a": 1, "b": 2})
    other = replace(spec, ranks={"b": 2, "a": 1})
    assert one.fingerprint == other.fingerprint


def test_an_int_for_scaling_does_not_matter(spec: AdapterSpec) -> None:
    assert replace(spec, scaling=2) == spec
    assert replace(spec, scaling=2).fingerprint == spec.fingerprint


def test_fingerprints_are_the_same_on_every_machine(spec: AdapterSpec) -> None:
    # sha256 of the spec as JSON with sorted keys, first 16 digits
    assert spec.fingerprint == "236b6255ba52d372"


@given(spec=specs)
def test_a_spec_survives_json(spec: AdapterSpec) -> None:
    read = AdapterSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert read == spec
    assert read.fingerprint == spec.fingerprint


@pytest.mark.parametrize("field", ["method", "backbone", "tensors", "ranks", "scaling"])
def test_a_spec_without_a_field_is_refused(spec: AdapterSpec, field: str) -> None:
    written = spec.to_json()
    del written[field]
    with pytest.raises(KeyError, match=field):
        AdapterSpec.from_json(written)


def test_sizes_by_hand(spec: AdapterSpec) -> None:
    assert [tensor.size for tensor in spec.tensors] == [2, 2, 3]
    assert spec.size == 7
    assert TensorSpec(name="scalar", shape=()).size == 1
    assert TensorSpec(name="empty", shape=(3, 0)).size == 0


def test_tensors_lie_in_the_order_of_the_spec(state: AdapterState) -> None:
    found = {name: view.tolist() for name, view in state.tensors().items()}
    assert found == {
        "layer.lora_A": [[0, 1]],
        "layer.lora_B": [[2], [3]],
        "head.weight": [4, 5, 6],
    }


def test_views_share_the_vector(state: AdapterState) -> None:
    assert all(np.shares_memory(view, state.vector) for view in state.tensors().values())
    state.tensors()["layer.lora_B"][1, 0] = 30
    assert state.vector.tolist() == [0, 1, 2, 30, 4, 5, 6]


@given(spec=specs, seed=st.integers(0, 2**32))
def test_unpacking_and_packing_come_back(spec: AdapterSpec, seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2**32, spec.size, dtype=np.uint32)
    state = AdapterState(spec=spec, vector=bits.view(np.float32))  # NaNs and all
    packed = AdapterState.from_tensors(spec, state.tensors())
    assert packed.vector.tobytes() == state.vector.tobytes()


def test_packing_ignores_the_order_of_names(state: AdapterState) -> None:
    turned = dict(reversed(tensors_of(state).items()))
    assert AdapterState.from_tensors(state.spec, turned).vector.tolist() == state.vector.tolist()


def test_packing_copies(state: AdapterState) -> None:
    tensors = tensors_of(state)
    packed = AdapterState.from_tensors(state.spec, tensors)
    tensors["head.weight"][:] = 0
    assert packed.vector.tolist() == state.vector.tolist()


def test_packing_reads_transposed_arrays_by_value() -> None:
    spec = AdapterSpec(
        method="lora",
        backbone="x",
        tensors=(TensorSpec(name="w", shape=(2, 3)),),
        ranks={},
    )
    transposed = np.array([[1, 4], [2, 5], [3, 6]], dtype=np.float32).T
    packed = AdapterState.from_tensors(spec, {"w": transposed})
    assert packed.vector.tolist() == [1, 2, 3, 4, 5, 6]


def test_missing_and_unexpected_tensors_are_named(state: AdapterState) -> None:
    tensors = tensors_of(state)
    tensors["head.bias"] = tensors.pop("head.weight")
    with pytest.raises(
        AdapterMismatchError,
        match=r"missing \['head.weight'\], unexpected \['head.bias'\]",
    ):
        AdapterState.from_tensors(state.spec, tensors)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((2,), np.float32), r"float32 \(2,\)"),
        (np.zeros((1, 2), np.float32), r"float32 \(1, 2\)"),  # as many values
        (np.zeros((1, 1), np.float32), r"float32 \(1, 1\)"),  # would broadcast
        (np.float32(0), r"float32 \(\)"),  # would broadcast
        (np.zeros((2, 1), np.float64), r"float64 \(2, 1\)"),
        (np.zeros((2, 1), np.float16), r"float16 \(2, 1\)"),
        (np.zeros((2, 1), np.int32), r"int32 \(2, 1\)"),
        (np.zeros((2, 1), ">f4"), r">f4 \(2, 1\)"),
    ],
    ids=str,
)
def test_a_tensor_of_another_make_is_named(
    state: AdapterState, array: np.ndarray, found: str
) -> None:
    tensors = {**tensors_of(state), "layer.lora_B": array}
    with pytest.raises(
        AdapterMismatchError,
        match=rf"Expected float32 \(2, 1\) for 'layer.lora_B', got {found}",
    ):
        AdapterState.from_tensors(state.spec, tensors)


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(6, np.float32),
        np.zeros(8, np.float32),
        np.zeros((7, 1), np.float32),
        np.zeros((), np.float32),
        np.zeros(7, np.float64),
        np.zeros(7, np.float16),
        np.zeros(7, ">f4"),
        np.zeros(14, np.float32)[::2],
    ],
    ids=lambda vector: f"{vector.dtype}{vector.shape}{vector.strides}",
)
def test_a_vector_of_another_make_is_refused(spec: AdapterSpec, vector: np.ndarray) -> None:
    with pytest.raises(AdapterMismatchError, match="Expected a .* vector"):
        AdapterState(spec=spec, vector=vector)
