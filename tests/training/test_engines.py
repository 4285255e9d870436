"""Engines of real tasks on real architectures, each found once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LABELS
from training_samples import make_adapted, make_examples

from fedpeft_app.backbone.load import load_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.data.encoded import ExampleSet, example_set
from fedpeft_app.data.tasks.causal_lm import CausalLM
from fedpeft_app.data.tasks.image_classification import ImageClassification
from fedpeft_app.data.tasks.text_classification import TextClassification
from fedpeft_app.errors import PrivacyError
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.methods.method import MethodSettings
from fedpeft_app.privacy.per_sample import hooked, one_by_one, trained
from fedpeft_app.training import engines
from fedpeft_app.training.engines import ENGINES, engine_of, losses_of
from fedpeft_app.training.fit import training_mode
from fedpeft_app.training.made_up import probes
from fedpeft_app.training.partial import resting, trained_part

CPU = torch.device("cpu")
TEXT = TextClassification()


def adapted_to(folder: Path, kind: str, method: str, **load: Any) -> AdaptedModel:
    labels = () if kind == "causal-lm" else LABELS
    backbone = load_model(locate(str(folder), ""), kind=kind, labels=labels, **load)
    settings = MethodSettings(rank=2, prompt_length=3)
    return adapt(backbone, find_method(method), settings, seed=0)


def images(count: int) -> ExampleSet:
    generator = np.random.default_rng(1)
    rows = [generator.integers(0, 256, (16, 16, 3)).astype(np.uint8) for _ in range(count)]
    return example_set(rows, np.arange(count) % 3)


def image_task(folder: Path) -> ImageClassification:
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(str(folder))
    return ImageClassification(augment="crop-flip").bind(processor, labels=LABELS)


def found(adapted: AdaptedModel, task: Any, examples: ExampleSet, precision: str = "fp32") -> Any:
    """The engine taken, after a look at its gradients of other examples."""
    with training_mode(adapted.model, 0):
        engine = engine_of(adapted, task, examples, precision)
        losses = losses_of(task, "fp32", CPU)
        batch = task.collate(examples, np.arange(len(examples)))
        expected = one_by_one(adapted.model, losses, batch)
        with engine(adapted.model, losses) as gradients:
            rows = gradients(batch)
    for name, got, right in zip(trained(adapted.model), rows, expected, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-5, msg=name)
    return next(name for name, known in ENGINES.items() if known is engine)


@pytest.mark.parametrize(
    ("method", "engine"), [("lora", "hooks"), ("ia3", "vmap"), ("full", "vmap")]
)
@pytest.mark.parametrize("many", [False, True])
def test_texts(tiny_model: Path, method: str, engine: str, *, many: bool) -> None:
    task = TextClassification(multi_label=many, class_weights={LABELS[0]: 3.0}).bind(
        type("Tokenizer", (), {"pad_token_id": 0}), labels=LABELS
    )
    examples = make_examples(5)
    if many:
        marks = np.eye(3, dtype=np.uint8)[examples.labels]
        examples = example_set([examples.row(at) for at in range(5)], marks)
    assert found(make_adapted(tiny_model, method=method), task, examples) == engine


@pytest.mark.parametrize(("method", "engine"), [("lora", "hooks"), ("prompt", "vmap")])
def test_images(tiny_vit: Path, method: str, engine: str) -> None:
    adapted = adapted_to(tiny_vit, "image-classification", method)
    assert found(adapted, image_task(tiny_vit), images(4)) == engine


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # soft prompts
@pytest.mark.parametrize(("method", "engine"), [("lora", "hooks"), ("prompt", "vmap")])
def test_language(tiny_llama: Path, method: str, engine: str) -> None:
    adapted = adapted_to(tiny_llama, "causal-lm", method)
    examples = example_set([[~2, ~9, 10, 3], [~2, 11, 12, 13, 14, 15, 3]])
    assert found(adapted, CausalLM(), examples) == engine


def test_half_precision_weights_are_held_to_what_they_can_give(tiny_llama: Path) -> None:
    adapted = adapted_to(tiny_llama, "causal-lm", "lora", dtype="bfloat16")
    examples = example_set([[~2, ~9, 10, 3]])
    with training_mode(adapted.model, 0):
        assert engine_of(adapted, CausalLM(), examples, "bf16") is hooked


def test_a_model_is_tried_out_once_for_what_trains(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted, tried = make_adapted(tiny_model), []
    choose = engines.choose

    def counted(*arguments: Any, **named: Any) -> str:
        tried.append(len(trained(adapted.model)))
        return choose(*arguments, **named)

    monkeypatch.setattr(engines, "choose", counted)

    def ask(precision: str = "fp32") -> None:
        with training_mode(adapted.model, 0):
            engine_of(adapted, TEXT, make_examples(2), precision)

    ask()
    ask()
    whole = len(adapted.trainable)
    assert tried == [whole]
    with resting(adapted, trained_part(adapted, "a")):
        ask()
    assert len(tried) == 2
    assert tried[1] < whole
    ask("bf16")
    assert len(tried) == 3
    ask()
    assert len(tried) == 3


def test_gradient_checkpointing_is_refused(tiny_llama: Path) -> None:
    adapted = adapted_to(tiny_llama, "causal-lm", "lora", gradient_checkpointing=True)
    with (
        training_mode(adapted.model, 0),
        pytest.raises(PrivacyError, match="Expected gradients of single examples"),
    ):
        engine_of(adapted, CausalLM(), example_set([[~2, ~9, 10, 3]]), "fp32")


def test_probes_are_made_up_and_of_two_sizes_and_lengths(adapted_model: AdaptedModel) -> None:
    first, second = probes(adapted_model, TEXT, make_examples(4, seed=0))
    assert [tuple(batch["input_ids"].shape) for batch in (first, second)] == [(2, 7), (3, 6)]
    assert first["attention_mask"].sum(dim=1).tolist() == [4, 7]
    assert first["labels"].tolist() == [0, 1]
    others = probes(adapted_model, TEXT, make_examples(9, seed=5))
    for mine, theirs in zip((first, second), others, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture
def adapted_model(tiny_model: Path) -> AdaptedModel:
    return make_adapted(tiny_model)
