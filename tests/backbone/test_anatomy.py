"""Body and head: told apart in every make of model, and what has nothing to pool."""

import pytest
import torch
import transformers
from tiny_configs import CAUSAL, CONFIGS, IMAGE, TEXT

from fedpeft_app.backbone.anatomy import body, head, require_encoder
from fedpeft_app.backbone.load import AUTO_CLASSES
from fedpeft_app.errors import BackboneError

ONE_LAYER = {"classifier.weight", "classifier.bias"}
HEADS = [
    ("bert", TEXT, "bert.", ONE_LAYER),
    (
        "roberta",
        TEXT,
        "roberta.",
        {
            f"classifier.{name}"
            for name in ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias")
        },
    ),
    ("distilbert", TEXT, "distilbert.", ONE_LAYER | {f"pre_{name}" for name in ONE_LAYER}),
    ("gpt2", TEXT, "transformer.", {"score.weight"}),
    ("vit", IMAGE, "vit.", ONE_LAYER),
    ("dinov2", IMAGE, "dinov2.", ONE_LAYER),
    ("swin", IMAGE, "swin.", ONE_LAYER),
    ("clip", IMAGE, "vision_model.", ONE_LAYER),  # its base_model_prefix names no module
    ("llama", CAUSAL, "model.", set()),
    ("gpt2", CAUSAL, "transformer.", set()),
]


def make(name: str, kind: str) -> torch.nn.Module:
    """Build a model without weights."""
    with torch.device("meta"):
        model: torch.nn.Module = AUTO_CLASSES[kind].from_config(CONFIGS[name]())
    return model


@pytest.mark.parametrize(("name", "kind", "prefix", "expected"), HEADS)
def test_a_model_is_its_body_and_its_head(
    name: str, kind: str, prefix: str, expected: set[str]
) -> None:
    model = make(name, kind)
    names = {key for key, _ in model.named_parameters()}
    assert head(model, kind, fresh=()) == expected
    assert body(model) == {key for key in names if key.startswith(prefix)}
    if kind != CAUSAL:
        assert body(model) | expected == names


def test_what_the_checkpoint_lacks_is_head_also_inside_the_body() -> None:
    model = make("bert", TEXT)
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert head(model, TEXT, fresh=pooler) == ONE_LAYER | pooler
    assert pooler <= body(model)


def test_what_the_model_has_not_is_no_head() -> None:
    assert head(make("bert", TEXT), TEXT, fresh={"cls.predictions.bias"}) == ONE_LAYER


def test_a_language_model_without_its_output_layer_has_a_head() -> None:
    assert head(make("llama", CAUSAL), CAUSAL, fresh={"lm_head.weight"}) == {"lm_head.weight"}


def bare(name: str) -> torch.nn.Module:
    """Build a body without weights."""
    with torch.device("meta"):
        model: torch.nn.Module = transformers.AutoModel.from_config(CONFIGS[name]())
    return model


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_encoders_of_text_can_be_pooled(name: str, pooling: str) -> None:
    require_encoder(bare(name), TEXT, pooling)


@pytest.mark.parametrize("name", ["vit", "deit", "dinov2"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_image_models_with_a_class_token_can_be_pooled(name: str, pooling: str) -> None:
    require_encoder(bare(name), IMAGE, pooling)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gpt2", TEXT),
        ("llama", TEXT),
        ("t5", TEXT),
        ("clip", IMAGE),
        ("convnext", IMAGE),
        ("llama", CAUSAL),
        ("bert", CAUSAL),
    ],
)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_what_is_no_single_sequence_is_not_pooled(name: str, kind: str, pooling: str) -> None:
    with pytest.raises(BackboneError, match=f"pooling = '{pooling}' .*'{name}' is none. Use 'mod"):
        require_encoder(bare(name), kind, pooling)


def test_without_a_class_token_there_is_none_to_take() -> None:
    require_encoder(bare("swin"), IMAGE, "mean")
    with pytest.raises(BackboneError, match="'swin' has patches only. Use 'mean' or 'model'"):
        require_encoder(bare("swin"), IMAGE, "cls")
