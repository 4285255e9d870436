"""Wherever a model may start behind its frozen layers, it gives what it gives from its start."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from test_method_contract import (
    ACCEPTED,
    ALL,
    Lesson,
    Positions,
    backbone,
    label,
    served,
    settings,
    train,
)
from torch.nn.utils.rnn import pad_sequence

from fedpeft_app.data.encoded import ExampleSet, example_set
from fedpeft_app.data.tasks.task import Batch
from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.training.cut import Cut, find_cut

BEFORE_ALL = "its first layer is trained, or what stands before it"


@dataclass(frozen=True, kw_only=True)
class Judged(Lesson):
    """A lesson that can be judged, too, and whose tokens are those of the examples."""

    def collate(self, examples: ExampleSet, positions: Positions, *_: Any) -> Batch:
        if examples.shape:
            return super().collate(examples, positions)
        rows = [torch.from_numpy(examples.row(int(position))).long() for position in positions]
        shown = [torch.ones_like(row) for row in rows]
        return {
            "input_ids": pad_sequence(rows, batch_first=True),
            "attention_mask": pad_sequence(shown, batch_first=True),
        }

    def outputs(self, model: Any, batch: Batch) -> torch.Tensor:
        found: torch.Tensor = model(**batch).logits
        return found if found.dim() == 2 else found[:, 0]


def lesson(animal: str) -> Any:
    return Judged(inputs=ALL[animal].inputs)


def examples(animal: str) -> ExampleSet:
    """As many examples as the lesson has, of its kind; their content is not looked at."""
    if "pixel_values" in ALL[animal].inputs:
        return example_set([torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()] * 3)
    return example_set([(1,) * n for n in ALL[animal].inputs["attention_mask"].sum(1).tolist()])


def made(name: str, animal: str, layers: str) -> AdaptedModel:
    told = replace(settings(name), layers=layers)
    return adapt(backbone(animal), find_method(name), told, seed=0)


def cut_of(name: str, animal: str, layers: str = "all") -> Cut | str:
    return find_cut(made(name, animal, layers), lesson(animal), examples(animal))


@pytest.mark.parametrize("layers", ["all", "last:1"])
@pytest.mark.parametrize("kind", ACCEPTED, ids=label)
def test_what_is_known_before_training_serves_after_it(kind: tuple[str, str], layers: str) -> None:
    name, animal = kind
    try:
        adapted = made(name, animal, layers)
    except BackboneError:
        assert layers == "last:1"  # the method knows no layers, or has no use for one
        return
    task, inputs = lesson(animal), ALL[animal].inputs
    cut = find_cut(adapted, task, examples(animal))
    if isinstance(cut, str):
        return
    with torch.no_grad():
        rows = cut.compute(adapted.model, task, inputs)
    adapted.pour(served(adapted))
    train(adapted, animal)
    with torch.no_grad():
        whole = task.outputs(adapted.model, inputs)
        with cut.started_from(adapted.model) as given:
            given.give(rows)
            ours = task.outputs(adapted.model, inputs)
        again = task.outputs(adapted.model, inputs)
    torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-5)
    assert torch.equal(again, whole)  # afterwards the model is as it was


@pytest.mark.parametrize("name", ["lora", "dora", "bottleneck", "ia3", "lora-residual"])
@pytest.mark.parametrize("animal", ["BERT", "ViT", "GPT-2", "Llama", "pooled BERT"])
def test_layers_below_the_first_adapted_one_are_skipped(name: str, animal: str) -> None:
    try:
        cut = cut_of(name, animal, "last:1")
    except BackboneError:
        pytest.skip("the method does not fit the model")
    assert isinstance(cut, Cut)
    assert (cut.layers, cut.of, cut.head) == (1, 2, False)


@pytest.mark.parametrize("animal", ["ViT", "pooled BERT", "pooled ViT"])
def test_a_head_alone_trains_on_one_row_an_example(animal: str) -> None:
    cut = cut_of("head", animal)
    assert isinstance(cut, Cut)
    assert (cut.layers, cut.rows, cut.head) == (2, 1, True)


@pytest.mark.parametrize(("dropout", "alone"), [(0.0, True), (0.1, False)])
def test_dropout_before_the_head_is_kept(*, dropout: float, alone: bool) -> None:
    adapted = made("head", "BERT", "all")
    adapted.model.dropout.p = dropout
    cut = find_cut(adapted, lesson("BERT"), examples("BERT"))
    assert isinstance(cut, Cut)
    assert cut.head == alone


def test_a_head_that_reads_every_token_starts_behind_the_last_layer() -> None:
    cut = cut_of("head", "GPT-2")
    assert isinstance(cut, Cut)
    assert (cut.layers, cut.of, cut.head) == (2, 2, False)


@pytest.mark.parametrize(
    ("name", "animal"),
    [
        ("lora", "BERT"),
        ("bias", "ViT"),
        ("full", "GPT-2"),
        ("prompt", "ViT"),  # in every layer
        ("prompt-shallow", "ViT"),
        ("prefix", "BERT"),
        ("p-tuning", "BERT"),
        ("ln", "BERT"),
    ],
)
def test_what_changes_before_the_first_layer_leaves_nothing_to_skip(name: str, animal: str) -> None:
    assert cut_of(name, animal) == BEFORE_ALL
