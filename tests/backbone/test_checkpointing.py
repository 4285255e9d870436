"""Gradient checkpointing: activations are computed twice, and the gradients are the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from tiny_configs import CAUSAL, CONFIGS, IMAGE, TEXT

from fedpeft_app.backbone.load import load_model
from fedpeft_app.backbone.locate import LocatedModel, locate
from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.by_name import Full
from fedpeft_app.methods.lora import Lora
from fedpeft_app.methods.method import Method, MethodSettings

TOKENS = {"input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 4, 3]])}
PARTS = ("BertSelfAttention", "ViTAttention", "SwinAttention", "LlamaMLP")  # in what runs twice

SHAPES = [("bert", TEXT), ("vit", IMAGE), ("swin", IMAGE), ("llama", CAUSAL)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LocatedModel]:
    """A tiny BERT, ViT, Swin and Llama."""
    located = {}
    for name in ("bert", "vit", "swin", "llama"):
        folder = tmp_path_factory.mktemp(name)
        causal = name == "llama"
        makes = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
        makes.from_config(CONFIGS[name]()).save_pretrained(folder)
        located[name] = locate(str(folder))
    return located


def make(
    located: LocatedModel, kind: str, method: Method, *, checkpointing: bool, pooling: str = "model"
) -> AdaptedModel:
    backbone = load_model(
        located,
        kind=kind,
        labels="abc",
        pooling=pooling,
        gradient_checkpointing=checkpointing,
        seed=1,
    )
    return adapt(backbone, method, MethodSettings(rank=2), seed=1)


def gradients(adapted: AdaptedModel) -> tuple[list[torch.Tensor], int]:
    """Go forward and back once; give the gradients and how often a part of the first layer ran."""
    model, runs = adapted.model.train(), 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    part = next(m for m in model.modules() if type(m).__name__ in PARTS)
    part.register_forward_pre_hook(count)  # the second run stops where it knows enough
    inputs = TOKENS
    if adapted.backbone.kind == IMAGE:
        size = adapted.backbone.model.config.image_size
        inputs = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * size * size).view(2, 3, size, -1)}
    model(**inputs).logits.float().square().mean().backward()
    found = [parameter.grad for parameter in adapted.trainable]
    return [gradient for gradient in found if gradient is not None], runs


@pytest.mark.parametrize(("name", "kind"), SHAPES)
@pytest.mark.parametrize("method", [Lora, Full])
def test_the_gradients_are_the_same(
    models: dict[str, LocatedModel], name: str, kind: str, method: Callable[[], Method]
) -> None:
    plain, saving = (
        make(models[name], kind, method(), checkpointing=checkpointing)
        for checkpointing in (False, True)
    )
    expected, once = gradients(plain)
    found, twice = gradients(saving)
    assert once == 1 < twice  # of Swin the stages and their blocks run again: three times in all
    assert len(found) == len(expected) > 0
    assert max(float(gradient.abs().max()) for gradient in expected) > 1e-4
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-6)


def test_it_reaches_through_a_pooling_head(models: dict[str, LocatedModel]) -> None:
    plain, saving = (
        make(models["bert"], TEXT, Lora(), checkpointing=checkpointing, pooling="mean")
        for checkpointing in (False, True)
    )
    expected, _ = gradients(plain)
    found, runs = gradients(saving)
    assert runs == 2
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-6)


def test_a_model_that_cannot_says_so(
    models: dict[str, LocatedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        transformers.BertForSequenceClassification, "supports_gradient_checkpointing", False
    )
    with pytest.raises(BackboneError, match="train.gradient-checkpointing: BertForSeq.*Switch it"):
        make(models["bert"], TEXT, Lora(), checkpointing=True)
