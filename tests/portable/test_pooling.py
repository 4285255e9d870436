"""Pooled classifiers: what they average, and that padding and prefixes are no part of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import LABELS

from fedpeft_app.adapters import AdapterState
from fedpeft_app.backbone.load import Backbone, load_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.adapted import adapt
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.methods.method import MethodSettings
from fedpeft_app.portable.pooling import PooledForSequenceClassification

# Two texts of three tokens, hidden states of size two; the last token of the second is padding.
HIDDEN = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]], [[2.0, 2.0], [4.0, 6.0], [9.0, 9.0]]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


class Fixed(torch.nn.Module):
    """A body that gives the same hidden states whatever it is given.

    Attributes:
        given: The names of what it was given last.
    """

    def __init__(self, hidden: torch.Tensor = HIDDEN, **config: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=2, **config)
        self.pooler: torch.nn.Module | None = torch.nn.Linear(2, 2)
        self.dtype, self.hidden = hidden.dtype, hidden
        self.given: set[str] = set()

    def forward(self, **inputs: Any) -> SimpleNamespace:
        self.given = set(inputs)
        return SimpleNamespace(last_hidden_state=self.hidden)


def pooled(pooling: str, body: Fixed | None = None) -> PooledForSequenceClassification:
    """Make a classifier that gives the pooled token itself."""
    model = PooledForSequenceClassification(body or Fixed(), 2, pooling)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.eye(2))
    return model


def logits(model: Any, **inputs: Any) -> list[list[float]]:
    with torch.no_grad():
        found: list[list[float]] = model(**inputs).logits.tolist()
    return found


def test_the_mean_is_over_tokens_that_are_no_padding() -> None:
    assert logits(pooled("mean"), attention_mask=MASK) == [[3.0, 2.0], [3.0, 4.0]]


def test_without_a_mask_all_tokens_count() -> None:
    assert logits(pooled("mean")) == [[3.0, 2.0], [5.0, pytest.approx(17 / 3)]]


def test_cls_is_the_first_token() -> None:
    assert logits(pooled("cls"), attention_mask=MASK) == [[1.0, 2.0], [2.0, 2.0]]


def test_a_prefix_in_the_mask_has_no_token() -> None:
    mask = torch.cat([torch.ones(2, 5, dtype=MASK.dtype), MASK], dim=1)
    assert logits(pooled("mean"), attention_mask=mask) == [[3.0, 2.0], [3.0, 4.0]]


def test_a_text_of_padding_alone_gives_numbers() -> None:
    assert logits(pooled("mean"), attention_mask=torch.zeros_like(MASK)) == [[0.0, 0.0]] * 2


def test_the_bodys_own_pooler_is_dropped() -> None:
    body = Fixed()
    model = pooled("mean", body)
    assert body.pooler is None
    assert [name for name, _ in model.named_parameters()] == [
        "classifier.weight",
        "classifier.bias",
    ]


def test_labels_and_wishes_about_the_output_do_not_reach_the_body() -> None:
    body = Fixed()
    inputs = {"input_ids": MASK, "attention_mask": MASK, "token_type_ids": MASK}
    wishes = {"output_attentions": None, "output_hidden_states": None, "return_dict": True}
    logits(pooled("mean", body), **inputs, **wishes, labels=MASK[:, 0])
    assert body.given == set(inputs)


@pytest.mark.parametrize(("config", "deviation"), [({"initializer_range": 0.3}, 0.3), ({}, 0.02)])
def test_the_head_starts_as_the_bodys_layers_did(
    config: dict[str, float], deviation: float
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = PooledForSequenceClassification(Fixed(**config), 5000, "mean").classifier
    assert float(head.weight.detach().std()) == pytest.approx(deviation, rel=0.05)
    assert not head.bias.any()


# ------------------------------------------------------------------ on a real encoder


def load(folder: Path, pooling: str, **settings: Any) -> Backbone:
    return load_model(
        locate(str(folder)),
        kind="sequence-classification",
        labels=LABELS,
        pooling=pooling,
        **settings,
    )


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_logits_do_not_depend_on_padding(tiny_model: Path, pooling: str) -> None:
    model = load(tiny_model, pooling).model
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 3, 0, 0]])
    with torch.no_grad():
        together = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
        alone = model(input_ids=ids[1:, :3], attention_mask=torch.ones(1, 3).long()).logits
    assert torch.allclose(together[1:], alone, atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_it_computes_what_its_name_says(tiny_model: Path, pooling: str) -> None:
    model = load(tiny_model, pooling).model
    body = transformers.BertModel.from_pretrained(str(tiny_model), add_pooling_layer=False).eval()
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        hidden = body(input_ids=ids).last_hidden_state
        token = hidden[:, 0] if pooling == "cls" else hidden.mean(1)
        expected = token @ model.classifier.weight.T + model.classifier.bias
        assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_the_head_is_one_layer_and_the_label_names_are_kept(tiny_model: Path, pooling: str) -> None:
    backbone = load(tiny_model, pooling)
    assert backbone.head == {"classifier.weight", "classifier.bias"}
    assert backbone.pooling == pooling
    assert backbone.model.config.id2label == dict(enumerate(LABELS))
    assert not [name for name, _ in backbone.model.named_parameters() if "pooler" in name]
    without_pooler = transformers.BertModel.from_pretrained(
        str(tiny_model), add_pooling_layer=False
    ).num_parameters()
    assert backbone.parameters == without_pooler + 3 * 32 + 3


def test_the_head_is_a_function_of_the_seed(tiny_model: Path) -> None:
    first, again, other = (load(tiny_model, "mean", seed=seed).model for seed in (1, 1, 2))
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)


def test_a_half_precision_body_has_a_float32_head(tiny_model: Path) -> None:
    model = load(tiny_model, "mean", dtype="bfloat16").model
    assert model.dtype == torch.bfloat16
    assert model.classifier.weight.dtype == torch.float32
    assert model.device.type == "cpu"


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_trained_prefixes_leave_padding_out_too(
    tiny_model: Path, pooling: str, method: str
) -> None:
    settings = MethodSettings(prompt_length=3)
    adapted = adapt(load(tiny_model, pooling), find_method(method), settings, seed=0)
    vector = np.random.default_rng(0).standard_normal(adapted.spec.size).astype(np.float32)
    adapted.pour(AdapterState(spec=adapted.spec, vector=vector))
    model, ids = adapted.model.eval(), torch.tensor([[2, 5, 6, 7, 3], [2, 9, 3, 0, 0]])
    with torch.no_grad():
        together = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
        alone = model(input_ids=ids[1:, :3], attention_mask=torch.ones(1, 3).long()).logits
    assert torch.allclose(together[1:], alone, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_gradient_is_asked_below_the_first_adapted_block(
    tiny_model: Path, pooling: str, *, checkpointing: bool
) -> None:
    settings = MethodSettings(rank=2, layers="last:1")
    backbone = load(tiny_model, pooling, gradient_checkpointing=checkpointing)
    adapted = adapt(backbone, find_method("lora"), settings, seed=0)
    asked = {}

    def note(name: str) -> Any:
        return lambda module, inputs, output: asked.update({name: output.requires_grad})

    body = backbone.model.body
    parts = (body.get_input_embeddings(), *body.encoder.layer)
    assert [len(part._forward_hooks) for part in parts] == [0, 0, 0]
    for name, part in zip(("embeddings", "first", "last"), parts, strict=True):
        part.register_forward_hook(note(name))
    adapted.model.train()(input_ids=torch.tensor([[2, 5, 6, 3]]))
    assert asked == {"embeddings": False, "first": False, "last": True}


def test_what_peft_asks_of_a_model_reaches_the_body(tiny_model: Path) -> None:
    plain, saving = (
        load(tiny_model, "mean", gradient_checkpointing=checkpointing).model
        for checkpointing in (False, True)
    )
    assert (plain.is_gradient_checkpointing, saving.is_gradient_checkpointing) == (False, True)
    ids, embed = torch.tensor([[2, 5, 6, 3]]), plain.get_input_embeddings()
    embed.weight.requires_grad_(False)
    plain.enable_input_require_grads()
    assert embed(ids).requires_grad
    plain.disable_input_require_grads()
    assert not embed(ids).requires_grad


def decoder(folder: Path) -> str:
    config = transformers.GPT2Config(
        vocab_size=9, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=1
    )
    transformers.GPT2Model(config).save_pretrained(folder)
    return "sequence-classification"


def two_towers(folder: Path) -> str:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = {"vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = transformers.CLIPConfig(
        text_config={**small, **words}, vision_config={**small, "image_size": 4, "patch_size": 2}
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    return "image-classification"


@pytest.mark.parametrize("save", [decoder, two_towers])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_what_is_no_encoder_is_refused(tmp_path: Path, save: Any, pooling: str) -> None:
    kind = save(tmp_path)
    with pytest.raises(BackboneError, match=f"model.pooling = '{pooling}' is for encoders"):
        load_model(locate(str(tmp_path)), kind=kind, labels=LABELS, pooling=pooling)
