"""PiSSA and OLoRA: what is taken out of the weights, and that it can be added back."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_targets import build, model_of
from zoo import logits, make, save

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.methods.decomposed import AddTakenPart
from fedpeft_app.methods.method import MethodSettings

both = pytest.mark.parametrize("name", ["pissa", "olora"])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("bert", tmp_path_factory.mktemp("bert"))


def layers(adapted: AdaptedModel) -> list[Any]:
    return [adapted.model.get_submodule(name) for name in adapted.spec.ranks]


def originals(bert: Path, adapted: AdaptedModel) -> list[torch.Tensor]:
    plain = make(bert, "head").model
    return [
        plain.get_submodule(name.removeprefix("base_model.model.")).weight
        for name in adapted.spec.ranks
    ]


def test_pissa_takes_out_the_largest_singular_directions(bert: Path) -> None:
    adapted = make(bert, "pissa", rank=3, alpha=6.0)
    for layer, weight in zip(layers(adapted), originals(bert, adapted), strict=True):
        _, values, _ = torch.linalg.svd(weight)
        left = torch.linalg.svd(layer.base_layer.weight)[1]
        assert torch.allclose(left[:-3], values[3:], atol=1e-5)
        assert left[-3:].abs().max() < 1e-5


def test_olora_takes_out_the_first_columns(bert: Path) -> None:
    adapted = make(bert, "olora", rank=3, alpha=6.0)
    for layer, weight in zip(layers(adapted), originals(bert, adapted), strict=True):
        basis = torch.linalg.qr(weight[:, :3])[0]
        expected = weight - 2.0 * basis @ basis.T @ weight  # α / r = 6 / 3: PEFT scales it here
        assert torch.allclose(layer.base_layer.weight, expected, atol=1e-5)


@both
def test_nodes_of_any_seed_and_sign_have_the_same_rest(
    bert: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(bert, name, rank=2)
    svd, qr = torch.linalg.svd, torch.linalg.qr

    def other_signs(weight: torch.Tensor, **kwargs: Any) -> Any:
        u, s, v = svd(weight, **kwargs)
        return -u, s, -v

    monkeypatch.setattr(torch.linalg, "svd", other_signs)
    monkeypatch.setattr(torch.linalg, "qr", lambda weight: tuple(-part for part in qr(weight)))
    other = make(bert, name, rank=2, seed=1)
    for mine, theirs in zip(layers(one), layers(other), strict=True):
        assert torch.allclose(mine.base_layer.weight, theirs.base_layer.weight, atol=1e-6)
        assert not torch.equal(mine.lora_A["default"].weight, theirs.lora_A["default"].weight)
    with torch.no_grad():
        for parameter in one.trainable:
            parameter.add_(0.1)
    other.pour(one.read())
    assert torch.allclose(logits(one.model), logits(other.model), atol=1e-5)


def test_the_taken_part_is_added_back_by_hand() -> None:
    taken = {
        "m.lora_A.weight": np.float32([[1.0, 2.0]]),
        "m.lora_B.weight": np.float32([[3.0], [4.0]]),
    }
    trained = {
        "m.lora_A.weight": np.float32([[5.0, 6.0]]),
        "m.lora_B.weight": np.float32([[7.0], [8.0]]),
        "head.weight": np.float32([9.0]),
    }
    config = {
        "r": 1,
        "lora_alpha": 3.0,
        "use_rslora": False,
        "init_lora_weights": "pissa",
        "rank_pattern": {"q": 2},
        "alpha_pattern": {"q": 4},
    }
    tensors, told = AddTakenPart(taken=taken)(trained, config)
    assert tensors["m.lora_A.weight"].tolist() == [[5.0, 6.0], [1.0, 2.0]]
    assert tensors["m.lora_B.weight"].tolist() == [[7.0, -3.0], [8.0, -4.0]]
    assert tensors["head.weight"].tolist() == [9.0]
    assert told == {
        "r": 2,
        "lora_alpha": 6.0,  # the same α / r
        "use_rslora": False,
        "init_lora_weights": True,
        "rank_pattern": {"q": 4},
        "alpha_pattern": {"q": 8},
    }
    rooted = AddTakenPart(taken=taken)(trained, {**config, "use_rslora": True})[1]
    assert rooted["lora_alpha"] / math.sqrt(rooted["r"]) == pytest.approx(3.0)


@both
def test_without_weights_nothing_is_decomposed(name: str) -> None:
    made = find_method(name).adapt(build("bert"), model_of("bert")[1], MethodSettings(rank=2))
    assert set(made.ranks.values()) == {2}
    assert made.restate == AddTakenPart(taken={})


@both
def test_quantised_weights_are_refused(
    bert: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = make(bert, "head").backbone
    monkeypatch.setattr(backbone.model, "quantization_method", "bitsandbytes", raising=False)
    with pytest.raises(BackboneError, match=r"model\.quantization = 'none'"):
        find_method(name).adapt(backbone.model, backbone.head, MethodSettings())


@both
def test_the_initialisation_is_not_an_option(bert: Path, name: str) -> None:
    with pytest.raises(BackboneError, match="'init_lora_weights', which is set by method.name"):
        make(bert, name, options={"init_lora_weights": "pissa_niter_4"})
