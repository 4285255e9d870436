"""The pairs A and B of an adapter: by PEFT's names, out of states and back, at other ranks."""

from dataclasses import replace

import numpy as np
import peft
import pytest
import torch
from low_rank_samples import pair, product

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.adapters.lora import Pair, factors, pairs, resized_spec, with_factors
from fedpeft_app.adapters.products import Factors
from fedpeft_app.errors import AdapterMismatchError

LAYER = "base_model.model.layer.0.query"
OTHER = "base_model.model.layer.0.value"


def spec_of(shapes: dict[str, tuple[int, ...]], **changes: object) -> AdapterSpec:
    """Make a spec of named shapes."""
    spec = AdapterSpec(
        method="lora",
        backbone="x",
        tensors=tuple(TensorSpec(name=name, shape=shape) for name, shape in shapes.items()),
        ranks={},
        scaling=2.0,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


@pytest.fixture
def spec() -> AdapterSpec:
    """Two modules of rank 2, `(3, 4)` and `(2, 3)`, with a bias between and a head behind."""
    return spec_of(
        {
            f"{LAYER}.lora_A.default.weight": (2, 4),
            f"{LAYER}.lora_B.default.weight": (3, 2),
            "base_model.model.norm.bias": (5,),
            f"{OTHER}.lora_A.default.weight": (2, 3),
            f"{OTHER}.lora_B.default.weight": (2, 2),
            "head.weight": (2, 3),
        },
        ranks={LAYER: 2, OTHER: 2},
    )


@pytest.fixture
def state(spec: AdapterSpec) -> AdapterState:
    """The values 0, 1, 2, … ."""
    return AdapterState(spec=spec, vector=np.arange(spec.size, dtype=np.float32))


# ---------------------------------------------------------------- pairs


def test_pairs_are_found_by_name_in_the_order_of_the_spec(spec: AdapterSpec) -> None:
    assert pairs(spec) == tuple(
        Pair(
            module=module, a=f"{module}.lora_A.default.weight", b=f"{module}.lora_B.default.weight"
        )
        for module in (LAYER, OTHER)
    )
    assert all(found.whole for found in pairs(spec))


@pytest.mark.parametrize(
    "name",
    [
        "m.lora_magnitude_vector.default.weight",  # DoRA's
        "m.lora_B.default.bias",
        "m.lora_A.other.weight",
        "m.lora_A.default.parametrizations.weight.0.core",
        "m.vera_lambda_b.default",
        "m.gralora_A.default",
        "m.original_module.weight",
        "lora_A.default.weight",  # of no module
    ],
)
def test_other_tensors_are_no_factors(name: str) -> None:
    assert pairs(spec_of({name: (2, 2)})) == ()


@pytest.mark.parametrize("factor", ["A", "B"])
def test_half_a_pair_is_told_and_refused(factor: str) -> None:
    name = f"{LAYER}.lora_{factor}.default.weight"
    half = spec_of({name: (2, 2)}, method="lora-fa")
    (found,) = pairs(half)
    assert (found.module, found.a or found.b, found.whole) == (LAYER, name, False)
    state = AdapterState(spec=half, vector=np.zeros(4, dtype=np.float32))
    message = rf"got only {name} of '{LAYER}' \(lora-fa\).*strategy.name = 'fedavg'"
    with pytest.raises(AdapterMismatchError, match=message):
        factors(state)
    with pytest.raises(AdapterMismatchError, match=message):
        resized_spec(half, 1)
    with pytest.raises(AdapterMismatchError, match=message):
        with_factors(state, {LAYER: pair([[1, 2], [3, 4]], [[1, 2], [3, 4]])})


def test_an_adapter_without_factors_is_refused() -> None:
    bias = spec_of({"layer.bias": (3,)}, method="bias")
    assert pairs(bias) == ()
    with pytest.raises(AdapterMismatchError, match="got a bias adapter without any"):
        factors(AdapterState(spec=bias, vector=np.zeros(3, dtype=np.float32)))


def test_factors_by_hand(state: AdapterState) -> None:
    found = factors(state)
    assert list(found) == [LAYER, OTHER]
    assert found[LAYER].a.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert found[LAYER].b.tolist() == [[8, 9], [10, 11], [12, 13]]
    assert found[OTHER].a.tolist() == [[19, 20, 21], [22, 23, 24]]
    assert {f.a.dtype for f in found.values()} == {np.dtype(np.float64)}


def test_factors_are_copies(state: AdapterState) -> None:
    factors(state)[LAYER].a[:] = 7
    assert state.vector[:3].tolist() == [0, 1, 2]


def test_factors_put_back_leave_the_same_bits(state: AdapterState) -> None:
    back = with_factors(state, factors(state))
    assert back.spec == state.spec
    assert back.spec.fingerprint == state.spec.fingerprint
    assert back.vector.tobytes() == state.vector.tobytes()


def test_other_ranks_change_shapes_and_ranks_and_nothing_else(state: AdapterState) -> None:
    updates = {
        LAYER: pair([[1], [2], [3]], [[1, 2, 3, 4]]),
        OTHER: pair(np.ones((2, 3)), np.full((3, 3), 2)),
    }
    changed = with_factors(state, updates)
    assert changed.spec.ranks == {LAYER: 1, OTHER: 3}
    assert changed.spec.scaling == state.spec.scaling
    assert [tensor.shape for tensor in changed.spec.tensors] == [
        (1, 4), (3, 1), (5,), (3, 3), (2, 3), (2, 3),
    ]  # fmt: skip
    kept = ("base_model.model.norm.bias", "head.weight")
    for name in kept:
        assert changed.tensors()[name].tolist() == state.tensors()[name].tolist()
    assert factors(changed)[LAYER].b.tolist() == [[1], [2], [3]]
    assert changed.vector.dtype == np.float32


def test_factors_are_rounded_once(state: AdapterState) -> None:
    updates = factors(state)
    updates[LAYER].a[0, 0] = 1 + 2.0**-24 + 2.0**-50  # just above the middle of two neighbours
    assert with_factors(state, updates).vector[0] == 1 + 2.0**-23


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ({LAYER: pair([[1]], [[1]])}, f"each of the 2 .* got 1; '{OTHER}' is on one side only"),
        (
            {m: pair([[1]], [[1]]) for m in (LAYER, OTHER, "stranger")},
            "got 3; 'stranger' is on one side only",
        ),
        (
            {LAYER: pair([[1]] * 3, [[1] * 5]), OTHER: pair([[1]] * 2, [[1] * 3])},
            rf"\(1, 4\) for '{LAYER}.lora_A.default.weight', got a factor of \(1, 5\)",
        ),
        (
            {LAYER: pair([[1]] * 2, [[1] * 4]), OTHER: pair([[1]] * 2, [[1] * 3])},
            rf"\(3, 1\) for '{LAYER}.lora_B.default.weight', got a factor of \(2, 1\)",
        ),
    ],
)
def test_factors_that_do_not_fit_are_refused(
    state: AdapterState, updates: dict[str, Factors], message: str
) -> None:
    with pytest.raises(AdapterMismatchError, match=message):
        with_factors(state, updates)


def test_one_rank_for_all_or_one_for_each(spec: AdapterSpec) -> None:
    assert resized_spec(spec, 5) == resized_spec(spec, {LAYER: 5, OTHER: 5})
    assert resized_spec(spec, {LAYER: 5, OTHER: 1}).ranks == {LAYER: 5, OTHER: 1}
    assert resized_spec(spec, 5).size == 5 * (4 + 3) + 5 + 5 * (3 + 2) + 6
    assert resized_spec(spec, 2) == spec
    assert resized_spec(resized_spec(spec, 7), 2).fingerprint == spec.fingerprint


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(spec: AdapterSpec, rank: int) -> None:
    with pytest.raises(ValueError, match=f"a rank from 1 for '{LAYER}', got {rank}"):
        resized_spec(spec, rank)


class Layers(torch.nn.Module):
    """A linear layer, an embedding and a convolution: all that LoRA adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(5, 4)
        self.embedding = torch.nn.Embedding(7, 3)
        self.convolution = torch.nn.Conv2d(2, 4, kernel_size=3)


def test_b_times_a_is_what_peft_adds_to_linear_layers_embeddings_and_convolutions() -> None:
    names = ["linear", "embedding", "convolution"]
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=names, init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(Layers(), config)  # type: ignore[arg-type]
    trained = {n: p.detach().numpy() for n, p in model.named_parameters() if p.requires_grad}
    spec = spec_of({name: value.shape for name, value in trained.items()})
    assert len(trained) == 6
    assert all(found.whole for found in pairs(spec))

    found = factors(AdapterState.from_tensors(spec, trained))
    layers = {name: model.get_submodule(f"base_model.model.{name}") for name in names}
    added = {name: layer.get_delta_weight("default") for name, layer in layers.items()}
    expected = {
        "linear": added["linear"],
        "embedding": added["embedding"].T,  # an embedding stores its weight transposed
        "convolution": added["convolution"].reshape(4, 2 * 3 * 3),
    }
    for name, matrix in expected.items():
        update = found[f"base_model.model.{name}"]
        np.testing.assert_allclose(3.0 * product(update), matrix.detach().numpy(), atol=1e-6)

    smaller = resized_spec(spec, 1)  # more axes follow that of the rank in a convolution
    config = peft.LoraConfig(r=1, lora_alpha=3, target_modules=names)
    again = peft.get_peft_model(Layers(), config)  # type: ignore[arg-type]
    shapes = {n: tuple(p.shape) for n, p in again.named_parameters() if p.requires_grad}
    assert {tensor.name: tensor.shape for tensor in smaller.tensors} == shapes


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.ones((2, 3)), np.ones((4, 3))),
        (np.ones((2, 3)), np.ones(2)),
        (np.ones((2, 3), dtype=np.float32), np.ones((4, 2))),
        (np.ones((2, 3)), np.ones((4, 2), dtype=np.float32)),
        (np.ones((2, 3, 1)), np.ones((4, 2))),
    ],
)
def test_factors_are_double_matrices_of_one_rank(a: np.ndarray, b: np.ndarray) -> None:
    with pytest.raises(AdapterMismatchError, match=r"float64 factors A \(r, in\) and B \(out, r\)"):
        Factors(a=a, b=b)
