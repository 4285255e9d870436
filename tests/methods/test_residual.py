"""LoRA beside a residual: what a layer computes, what trains, and what an export is."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file
from zoo import ZOO, batch, logits, make, save

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.lora import pairs
from fedpeft_app.adapters.products import Factors
from fedpeft_app.adapters.residuals import residual_factors, residuals, with_residuals
from fedpeft_app.errors import AdapterMismatchError, BackboneError
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.method import Adaptation, MethodSettings
from fedpeft_app.methods.residual import as_one_lora

SCALING = 3.0  # α / r = 6 / 2
linear_and_transposed = pytest.mark.parametrize("animal", ["bert", "gpt2"])  # GPT-2's Conv1D


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    names = ("bert", "gpt2", "roberta")
    return {name: save(name, tmp_path_factory.mktemp(name)) for name in names}


def made(folder: Path, **settings: Any) -> AdaptedModel:
    return make(folder, "lora-residual", **{"rank": 2, "alpha": 6.0, **settings})


def random_state(adapted: AdaptedModel, seed: int = 0) -> AdapterState:
    values = np.random.default_rng(seed).normal(scale=0.3, size=adapted.spec.size)
    return AdapterState(spec=adapted.spec, vector=values.astype(np.float32))


def layers(adapted: AdaptedModel) -> dict[str, Any]:
    return {name: adapted.model.get_submodule(name) for name in adapted.spec.ranks}


def change(state: AdapterState, module: str) -> torch.Tensor:
    """s·BA + UV as (out, in), in float64, from the tensors' names."""
    a, b, v, u = (
        torch.tensor(state.tensors()[f"{module}.{name}.default.weight"]).double()
        for name in ("lora_A", "lora_B", "lora_residual_A", "lora_residual_B")
    )
    return SCALING * b @ a + u @ v


# ------------------------------------------------------------------ what a layer computes


@linear_and_transposed
def test_a_layer_adds_the_scaled_update_and_the_residual_as_it_is(
    zoo: dict[str, Path], animal: str
) -> None:
    adapted = made(zoo[animal])
    state = random_state(adapted)
    adapted.pour(state)
    for module, layer in layers(adapted).items():
        x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0))
        expected = layer.base_layer(x) + x.double() @ change(state, module).T
        assert torch.allclose(layer(x).double(), expected, atol=1e-5)


@linear_and_transposed
def test_a_merged_weight_is_w_and_both_and_comes_back(zoo: dict[str, Path], animal: str) -> None:
    adapted = made(zoo[animal])
    state = random_state(adapted)
    adapted.pour(state)
    for safe in (False, True):
        for module, layer in layers(adapted).items():
            stored, expected = layer.base_layer.weight, change(state, module)
            before = stored.detach().clone()
            layer.merge(safe_merge=safe)
            moved = (layer.base_layer.weight - before).double()
            moved = moved.T if animal == "gpt2" else moved
            assert torch.allclose(moved, expected, atol=1e-5)
            layer.unmerge()
            assert torch.allclose(layer.base_layer.weight, before, atol=1e-6)


@linear_and_transposed
def test_without_a_residual_it_is_lora_bit_for_bit(zoo: dict[str, Path], animal: str) -> None:
    plain = make(zoo[animal], "lora", rank=2, alpha=6.0)
    beside = made(zoo[animal])
    learnt, given = random_state(plain).tensors(), beside.initial.tensors()
    plain.pour(AdapterState.from_tensors(plain.spec, learnt))
    beside.pour(AdapterState.from_tensors(beside.spec, {**given, **learnt}))
    assert {t.name: t.shape for t in plain.tensors} == {t.name: t.shape for t in beside.tensors}
    for name, value in plain.initial.tensors().items():
        assert np.array_equal(value, given[name]), name
    assert torch.equal(logits(plain.model), logits(beside.model))
    gradients = []
    for adapted in (plain, beside):
        adapted.model(**batch()).logits.square().sum().backward()
        gradients.append([value.grad for value in adapted.trainable])
    assert all(map(torch.equal, *gradients))


def test_dropout_touches_the_update_and_not_the_residual(zoo: dict[str, Path]) -> None:
    adapted = made(zoo["bert"], dropout=0.5)
    state = random_state(adapted)
    for name, view in state.tensors().items():
        if ".lora_B." in name:
            view[...] = 0  # now only the residual speaks
    adapted.pour(state)
    layer = next(iter(layers(adapted).values()))
    x = torch.ones(3, layer.in_features)
    with torch.random.fork_rng():
        assert torch.equal(layer.train()(x), layer.eval()(x))
        layer.lora_B["default"].weight.data.fill_(1.0)
        assert not torch.equal(layer.train()(x), layer.eval()(x))


def test_no_gradient_reaches_the_residual_and_it_passes_gradients_on(zoo: dict[str, Path]) -> None:
    adapted = made(zoo["bert"])
    adapted.pour(random_state(adapted))
    adapted.model(**batch()).logits.square().sum().backward()
    for layer in layers(adapted).values():
        for name in ("lora_residual_A", "lora_residual_B"):
            weight = getattr(layer, name)["default"].weight
            assert not weight.requires_grad
            assert weight.grad is None
    x = torch.randn(1, 16, requires_grad=True)
    layer = next(iter(layers(adapted).values()))
    layer(x).sum().backward()
    u, v = layer.lora_residual_B["default"].weight, layer.lora_residual_A["default"].weight
    weight = layer.base_layer.weight + layer.get_delta_weight("default") + u @ v
    assert torch.allclose(x.grad, weight.sum(0), atol=1e-5)


def test_half_precision_keeps_the_residual_in_float32(zoo: dict[str, Path]) -> None:
    adapted = made(zoo["bert"], dtype="bfloat16")
    state = random_state(adapted)
    adapted.pour(state)
    assert {value.dtype for value in adapted.shared.parameters} == {torch.float32}
    assert adapted.read().vector.tobytes() == state.vector.tobytes()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = adapted.model(**batch()).logits.float()
    exact = made(zoo["bert"])
    exact.pour(state)
    assert torch.allclose(found, exact.model(**batch()).logits, atol=0.2, rtol=0.1)


# ------------------------------------------------------------------ what travels, of which rank


@pytest.mark.parametrize(
    ("settings", "rank"),
    [
        ({}, 8),  # four times r = 2
        ({"rank": 3, "alpha": 9.0}, 12),
        ({"options": {"residual": 5}}, 5),
        ({"rank": 8, "alpha": 24.0}, 16),  # no layer is wider
        ({"options": {"residual": 10**9}}, 16),
    ],
)
def test_the_rank_is_chosen_and_never_above_the_layers(
    zoo: dict[str, Path], settings: dict[str, Any], rank: int
) -> None:
    adapted = made(zoo["bert"], **settings)
    assert {len(found.a) for found in residual_factors(adapted.initial).values()} == {rank}
    assert set(adapted.spec.ranks.values()) == {settings.get("rank", 2)}


def test_every_layer_has_room_of_its_own(zoo: dict[str, Path]) -> None:
    # heads are no targets: the body's layers are 16 × 16, 16 → 24 and 24 → 16
    adapted = made(zoo["roberta"], targets=ZOO["roberta"].targets, options={"residual": 20})
    assert {found.rank for found in residual_factors(adapted.initial).values()} == {16}
    shapes = {(f.b.shape[0], f.a.shape[1]) for f in residual_factors(adapted.initial).values()}
    assert shapes == {(16, 16), (24, 16), (16, 24)}


def test_pairs_are_what_trains_and_residuals_what_does_not(zoo: dict[str, Path]) -> None:
    adapted = made(zoo["bert"])
    frozen = {tensor.name for tensor in adapted.spec.tensors if tensor.frozen}
    assert {name for one in residuals(adapted.spec) for name in (one.a, one.b)} == frozen
    trained = {name for one in pairs(adapted.spec) for name in (one.a, one.b)}
    assert trained == {tensor.name for tensor in adapted.tensors if not tensor.head}
    assert [one.module for one in pairs(adapted.spec)] == list(adapted.spec.ranks)
    assert [one.module for one in residuals(adapted.spec)] == list(adapted.spec.ranks)


def test_a_full_residual_holds_any_matrix(zoo: dict[str, Path]) -> None:
    adapted = made(zoo["bert"], options={"residual": 10**9})
    target = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)).double()
    whole = Factors(a=np.eye(16), b=target.numpy())
    state = with_residuals(adapted.initial, dict.fromkeys(residual_factors(adapted.initial), whole))
    adapted.pour(state)
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    for layer in layers(adapted).values():
        expected = layer.base_layer(x) + x.double() @ target.T
        assert torch.allclose(layer(x).double(), expected, atol=1e-5)


@pytest.mark.parametrize("given", [0, -1, 2.0, "8", True, None])
def test_what_is_no_rank_is_refused(zoo: dict[str, Path], given: object) -> None:
    with pytest.raises(BackboneError, match=f"whole number from 1, got {given!r} in"):
        made(zoo["bert"], options={"residual": given})


def test_other_options_are_refused(zoo: dict[str, Path]) -> None:
    with pytest.raises(BackboneError, match="Expected 'residual' in .* got 'use_rslora'"):
        made(zoo["bert"], options={"use_rslora": True})


def test_embeddings_are_refused(zoo: dict[str, Path]) -> None:
    with pytest.raises(BackboneError, match="is for linear layers.*embedding.*word_embeddings"):
        made(zoo["bert"], targets="query,word_embeddings")


class Confused:
    """A method that trains what it says the server writes."""

    name = "confused"
    learning_rate = head_learning_rate = 1.0
    peft = merges = False

    def adapt(
        self, model: torch.nn.Module, head: frozenset[str], settings: MethodSettings
    ) -> Adaptation:
        return Adaptation(model=model, carried=frozenset({"classifier.bias"}))


def test_what_nodes_train_the_server_does_not_write(zoo: dict[str, Path]) -> None:
    backbone = make(zoo["bert"], "head").backbone
    with pytest.raises(AdapterMismatchError, match="'confused' has .* got 'classifier.bias'"):
        adapt(backbone, Confused(), MethodSettings(), 0)


# ------------------------------------------------------------------ exports


def exported(adapted: AdaptedModel, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Write what stock PEFT loads; give its config and tensors."""
    adapted.model.save_pretrained(folder, save_embedding_layers=False)
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    saved = json.loads(settings.read_text(encoding="utf-8"))
    tensors, config = adapted.adaptation.restate(load_file(weights), saved)
    save_file(tensors, weights, metadata={"format": "pt"})
    settings.write_text(json.dumps(config), encoding="utf-8")
    return config, tensors


def stock(folder: Path, checkpoint: Path) -> torch.Tensor:
    """What stock PEFT computes with a folder."""
    plain = copy.deepcopy(make(checkpoint, "head").backbone.model)
    return logits(peft.PeftModel.from_pretrained(plain, str(folder)))


def test_an_unused_residual_exports_as_plain_lora(zoo: dict[str, Path], tmp_path: Path) -> None:
    adapted = made(zoo["bert"])
    config, tensors = exported(adapted, tmp_path)
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (2, 6.0, {})
    assert not [name for name in tensors if "residual" in name]
    assert tensors[next(name for name in tensors if ".lora_A." in name)].shape == (2, 16)


@pytest.mark.filterwarnings("ignore:.*is_gradient_check:FutureWarning")  # peft 0.21, stock
@pytest.mark.parametrize("alpha", [6.0, 7.0])  # a third is no float32, nor is 2 / 7
def test_layers_export_with_the_ranks_that_they_use(
    zoo: dict[str, Path], tmp_path: Path, alpha: float
) -> None:
    adapted = made(zoo["bert"], alpha=alpha)
    state = random_state(adapted)
    used = {}
    for rank, (module, found) in enumerate(residual_factors(state).items()):
        used[module] = Factors(a=found.a[:rank], b=found.b[:, :rank])  # 0, 1, 2, 3
    state = with_residuals(state, used)
    adapted.pour(state)
    expected = logits(adapted.model)
    config, tensors = exported(adapted, tmp_path)
    ranks = [len(value) for name, value in sorted(tensors.items()) if ".lora_A." in name]
    assert sorted(ranks) == [2, 3, 4, 5]
    assert (config["r"], config["lora_alpha"]) == (5, 5 * alpha / 2)
    assert sorted(config["rank_pattern"].values()) == [2, 3, 4]
    for pattern, rank in config["rank_pattern"].items():
        assert config["alpha_pattern"][pattern] == pytest.approx(rank * alpha / 2)
    assert torch.allclose(stock(tmp_path, zoo["bert"]), expected, atol=1e-5)


def test_the_update_and_the_residual_share_one_scaling() -> None:
    name = "base_model.model.layer"
    tensors = {
        f"{name}.lora_A.weight": np.array([[1, 2]], np.float32),
        f"{name}.lora_B.weight": np.array([[3], [4]], np.float32),
        f"{name}.lora_residual_A.weight": np.array([[5, 6], [0, 0]], np.float32),
        f"{name}.lora_residual_B.weight": np.array([[8, 9], [10, 11]], np.float32),
        "head.weight": np.ones(2, np.float32),
    }
    settings = {"r": 1, "lora_alpha": 4, "rank_pattern": {}, "alpha_pattern": {}, "bias": "none"}
    found, config = as_one_lora(tensors, settings)
    assert found[f"{name}.lora_A.weight"].tolist() == [[1, 2], [5, 6]]
    assert found[f"{name}.lora_B.weight"].tolist() == [[3, 2], [4, 2.5]]  # 8 and 10 over 4
    assert sorted(found) == ["base_model.model.layer.lora_A.weight", f"{name}.lora_B.weight",
                             "head.weight"]  # fmt: skip
    assert config == {**settings, "r": 2, "lora_alpha": 8.0}
