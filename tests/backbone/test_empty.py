"""Models without weights: the same names and shapes as those with, and no memory."""

from pathlib import Path
from typing import Any

import pytest
import transformers
from tiny_configs import CAUSAL, CONFIGS, IMAGE, TEXT

from fedpeft_app.backbone.empty import config_of, empty_model, known_config
from fedpeft_app.backbone.known import KNOWN
from fedpeft_app.backbone.load import AUTO_CLASSES, load_model
from fedpeft_app.backbone.locate import LocatedModel, locate
from fedpeft_app.errors import BackboneError

CASES = [
    ("bert", TEXT, "model"),
    ("bert", TEXT, "mean"),
    ("distilbert", TEXT, "cls"),
    ("gpt2", TEXT, "model"),
    ("vit", IMAGE, "model"),
    ("vit", IMAGE, "cls"),
    ("clip", IMAGE, "model"),
    ("llama", CAUSAL, "model"),
]


def shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def saved(name: str, kind: str, folder: Path) -> LocatedModel:
    """Save a tiny model: a body, or what a language model is."""
    makes = AUTO_CLASSES[kind] if kind == CAUSAL else transformers.AutoModel
    makes.from_config(CONFIGS[name]()).save_pretrained(folder)
    return locate(str(folder))


@pytest.mark.parametrize(("name", "kind", "pooling"), CASES)
def test_an_empty_model_has_the_names_and_shapes_of_the_loaded_one(
    name: str, kind: str, pooling: str, tmp_path: Path
) -> None:
    located = saved(name, kind, tmp_path)
    loaded = load_model(located, kind=kind, labels="abc", pooling=pooling)
    model, head = empty_model(config_of(located), kind, labels=3, pooling=pooling)
    assert shapes(model) == shapes(loaded.model)
    assert head == loaded.head


def test_it_takes_no_memory() -> None:
    model, _ = empty_model(known_config("vit-base-patch16-224-in21k"), IMAGE, labels=100)
    assert {value.device.type for value in model.parameters()} == {"meta"}


@pytest.mark.parametrize("name", KNOWN)
def test_known_architectures_can_be_built(name: str) -> None:
    model, _ = empty_model(known_config(name), KNOWN[name].kind)
    assert type(model).__name__ in KNOWN[name].config["architectures"]


def test_an_architecture_with_several_heads_gets_the_usual_one() -> None:
    """DeiT has one with a teacher too; a config that names neither is enough."""
    model, head = empty_model(CONFIGS["deit"](), IMAGE, labels=3)
    assert type(model).__name__ == "DeiTForImageClassification"
    assert head == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(("name", "kind"), [("gpt2", TEXT), ("clip", IMAGE), ("llama", CAUSAL)])
def test_what_cannot_be_pooled_is_refused_without_its_weights(name: str, kind: str) -> None:
    with pytest.raises(BackboneError, match="is for encoders with one sequence of hidden states"):
        empty_model(CONFIGS[name](), kind, pooling="mean")


@pytest.mark.parametrize(("name", "kind"), [("vit", TEXT), ("bert", IMAGE), ("vit", CAUSAL)])
def test_a_model_of_another_kind_is_refused(name: str, kind: str) -> None:
    with pytest.raises(BackboneError, match=f"needs a model for {kind}, and a '{name}' is none"):
        empty_model(CONFIGS[name](), kind)


@pytest.mark.parametrize("text", ['{"model_type": "no-such"}', "{}"])
def test_a_config_that_transformers_does_not_know_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BackboneError, match="Cannot read the config in "):
        config_of(locate(str(tmp_path)))
