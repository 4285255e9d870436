"""Fed-SB: what a core computes, what its mean means, and where its factors come from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_targets import build, model_of
from zoo import ZOO, logits, make, save

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import shifted
from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.methods.cores import as_plain_lora
from fedpeft_app.methods.method import MethodSettings
from fedpeft_app.strategies.aggregators import fold_mean

SVD: dict[str, Any] = {}  # the default
ORTHOGONAL = {"init": "orthogonal"}
both = pytest.mark.parametrize("options", [SVD, ORTHOGONAL], ids=["svd", "orthogonal"])
linear_and_transposed = pytest.mark.parametrize("animal", ["bert", "gpt2"])  # GPT-2's Conv1D


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = ("bert", "gpt2", "roberta")
    return {name: save(name, tmp_path_factory.mktemp(name)) for name in names}


def layers(adapted: AdaptedModel) -> list[Any]:
    return [adapted.model.get_submodule(name) for name in adapted.spec.ranks]


def factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """B and A, in float64."""
    b, a = layer.lora_B["default"].weight, layer.lora_A["default"].projection.weight
    return b.detach().double(), a.detach().double()


def weight(layer: Any) -> torch.Tensor:
    """The frozen weight as (out, in), in float64."""
    stored: torch.Tensor = layer.get_base_layer().weight.detach().double()
    return stored.T if type(layer.get_base_layer()).__name__ == "Conv1D" else stored


def update(layer: Any) -> torch.Tensor:
    """ΔW as PEFT would merge it, stored as the layer stores weights."""
    found: torch.Tensor = layer.get_delta_weight("default").detach()
    return found


def random_state(adapted: AdaptedModel, seed: int) -> AdapterState:
    values = np.random.default_rng(seed).standard_normal(adapted.spec.size).astype(np.float32)
    return AdapterState(spec=adapted.spec, vector=values)


# ------------------------------------------------------------------ the update


@both
@linear_and_transposed
def test_the_update_is_scaling_times_b_core_a(
    zoo: dict[str, Path], animal: str, options: dict[str, Any]
) -> None:
    adapted = make(zoo[animal], "lora-sb", rank=2, alpha=6.0, options=options)
    state = random_state(adapted, 0)
    adapted.pour(state)
    for name, layer in zip(adapted.spec.ranks, layers(adapted), strict=True):
        core = torch.tensor(state.tensors()[f"{name}.lora_A.default.core.weight"]).double()
        b, a = factors(layer)
        x = torch.randn(5, a.shape[1], generator=torch.Generator().manual_seed(0))
        expected = layer.base_layer(x) + 3.0 * x.double() @ (b @ core @ a).T  # α / r = 6 / 2
        assert torch.allclose(layer(x).double(), expected, atol=1e-5)


@pytest.mark.parametrize("animal", ["bert", "gpt2", "roberta"])
def test_cores_alone_travel_and_have_the_same_size_in_layers_of_any_width(
    zoo: dict[str, Path], animal: str
) -> None:
    adapted = make(zoo[animal], "lora-sb", rank=3, targets=ZOO[animal].targets)
    body = {tensor.name: tensor.shape for tensor in adapted.tensors if not tensor.head}
    assert body == {f"{name}.lora_A.default.core.weight": (3, 3) for name in adapted.spec.ranks}
    assert len(body) == 2 * len(ZOO[animal].adapted)


@both
def test_the_mean_of_cores_is_the_mean_of_updates(
    zoo: dict[str, Path], options: dict[str, Any]
) -> None:
    adapted = make(zoo["bert"], "lora-sb", rank=4, options=options)
    weighted, updates = [], []
    for seed, share in enumerate((0.7, 0.2, 0.1)):
        delta = random_state(adapted, seed)
        adapted.pour(delta)
        weighted.append((delta.vector, share))
        updates.append([share * update(layer).double() for layer in layers(adapted)])
    start = AdapterState(spec=adapted.spec, vector=np.zeros(adapted.spec.size, np.float32))
    adapted.pour(shifted(start, fold_mean(weighted, uniform=False)))
    for layer, *parts in zip(layers(adapted), *updates, strict=True):
        mean = sum(parts[1:], parts[0])
        assert (update(layer) - mean).norm() <= 1e-6 * mean.norm()


@both
def test_updates_are_as_large_as_their_cores(zoo: dict[str, Path], options: dict[str, Any]) -> None:
    adapted = make(zoo["bert"], "lora-sb", rank=4, alpha=8.0, options=options)
    for layer in layers(adapted):
        core = layer.lora_A["default"].core.weight.detach()
        core.normal_(generator=torch.Generator().manual_seed(0))
        assert update(layer).norm() / core.norm() == pytest.approx(2.0, rel=1e-2)  # α / r = 8 / 4


# ------------------------------------------------------------------ the factors


@both
@linear_and_transposed
def test_factors_are_orthonormal_up_to_their_eight_bits(
    zoo: dict[str, Path], animal: str, options: dict[str, Any]
) -> None:
    for layer in layers(make(zoo[animal], "lora-sb", rank=4, options=options)):
        b, a = factors(layer)
        for square in (b.T @ b, a @ a.T):
            assert torch.allclose(square, torch.eye(4).double(), atol=2**-7)


@linear_and_transposed
def test_svd_takes_the_largest_singular_directions(zoo: dict[str, Path], animal: str) -> None:
    for layer in layers(make(zoo[animal], "lora-sb", rank=4)):
        b, a = factors(layer)
        values = torch.linalg.svdvals(weight(layer))[:4]
        assert torch.allclose(b.T @ weight(layer) @ a.T, values.diag(), atol=0.02 * values[0])


def test_nodes_of_any_seed_have_the_same_singular_vectors(zoo: dict[str, Path]) -> None:
    one, other = (make(zoo["bert"], "lora-sb", seed=seed) for seed in (0, 1))
    assert one.frozen == other.frozen
    assert len(one.drawn) == 2 * len(one.spec.ranks)


def test_random_vectors_are_the_seeds(zoo: dict[str, Path]) -> None:
    one, same, other = (
        make(zoo["bert"], "lora-sb", seed=seed, options=ORTHOGONAL) for seed in (0, 0, 1)
    )
    assert one.frozen == same.frozen != other.frozen


@both
def test_nodes_whose_linear_algebra_rounds_differently_have_the_same_factors(
    zoo: dict[str, Path], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make(zoo["bert"], "lora-sb", options=options)
    svd, qr = torch.linalg.svd, torch.linalg.qr

    def svd_elsewhere(matrix: torch.Tensor, **kwargs: Any) -> Any:
        left, values, right = svd(matrix, **kwargs)
        return -left * (1 + 1e-8), values, -right * (1 + 1e-8)

    monkeypatch.setattr(torch.linalg, "svd", svd_elsewhere)
    monkeypatch.setattr(torch.linalg, "qr", lambda drawn: [q * (1 + 1e-8) for q in qr(drawn)])
    assert make(zoo["bert"], "lora-sb", options=options).frozen == here.frozen


def test_without_weights_nothing_is_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.linalg, "svd")
    made = find_method("lora-sb").adapt(build("bert"), model_of("bert")[1], MethodSettings(rank=2))
    assert set(made.ranks.values()) == {2}


# ------------------------------------------------------------------ leaving the house


def test_a_plain_lora_has_the_product_for_its_a() -> None:
    saved = {
        "m.lora_A.default.core.weight": np.array([[1.0, 2.0], [0.0, 3.0]], np.float32),
        "m.lora_A.default.projection.weight": np.array(
            [[4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], np.float32
        ),
        "m.lora_B.weight": np.array([[1.0, 1.0]], np.float32),
        "classifier.weight": np.array([9.0], np.float32),
    }
    tensors, config = as_plain_lora(saved, {"r": 2})
    assert {name: value.tolist() for name, value in tensors.items()} == {
        "m.lora_A.weight": [[18.0, 21.0, 24.0], [21.0, 24.0, 27.0]],
        "m.lora_B.weight": [[1.0, 1.0]],
        "classifier.weight": [9.0],
    }
    assert config == {"r": 2}
    assert "m.lora_A.default.core.weight" in saved  # what was given stays as it was


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "'init' in method.options .* got 'use_dora'"),
        ({"init": "sdv"}, "one of: svd, orthogonal, got 'sdv' .* Did you mean 'svd'\\?"),
        ({"init": None}, "got None"),
        ({"init": ["svd"]}, r"got \['svd'\]"),
    ],
)
def test_options_that_are_not_known_are_refused(
    zoo: dict[str, Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BackboneError, match=message):
        make(zoo["bert"], "lora-sb", options=options)


def test_a_rank_beyond_a_layers_smaller_side_is_refused(zoo: dict[str, Path]) -> None:
    for name in ("query", "intermediate.dense"):  # 16 × 16 and 24 × 16
        make(zoo["bert"], "lora-sb", rank=16, targets=name)
        with pytest.raises(BackboneError, match=f"at most 16 .* '.*{name}' is .* got 17"):
            make(zoo["bert"], "lora-sb", rank=17, targets=name)


def test_embeddings_are_refused(zoo: dict[str, Path]) -> None:
    with pytest.raises(BackboneError, match="the embedding '.*word_embeddings'"):
        make(zoo["bert"], "lora-sb", targets="query,word_embeddings")


def test_quantised_weights_are_not_decomposed(
    zoo: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = make(zoo["bert"], "head").backbone
    monkeypatch.setattr(backbone.model, "quantization_method", "bitsandbytes", raising=False)
    with pytest.raises(BackboneError, match='"init": "orthogonal"'):
        find_method("lora-sb").adapt(backbone.model, backbone.head, MethodSettings())
    made = find_method("lora-sb").adapt(
        backbone.model, backbone.head, MethodSettings(options=ORTHOGONAL)
    )
    assert made.ranks


def test_dropout_acts_before_the_core_in_training_only(zoo: dict[str, Path]) -> None:
    adapted = make(zoo["bert"], "lora-sb", dropout=0.5)
    adapted.pour(random_state(adapted, 0))
    assert torch.equal(logits(adapted.model), logits(adapted.model))
    layer = layers(adapted)[0].train()
    x = torch.ones(2, 16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(layer(x), layer(x))
