"""Frozen layers run once per example, and training learns what it learns without that."""

import gc
import logging
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_samples import make_adapted, make_examples

from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.tasks.text_classification import TextClassification
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.mirrors import cache_dir
from fedpeft_app.training import frozen
from fedpeft_app.training.evaluate import evaluate
from fedpeft_app.training.fit import FitReport, FitSettings, fit
from fedpeft_app.training.frozen import frozen_skipped
from fedpeft_app.training.made_up import LENGTHS

TASK = TextClassification()
ROOMY = 2**30
EPOCHS = FitSettings(epochs=3, batch_size=8, learning_rate=5e-3, head_learning_rate=5e-2, rounds=2)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FEDPEFT_HOME", str(tmp_path))
    frozen._TOLD.clear()
    yield


@pytest.fixture
def examples() -> ExampleSet:
    return replace(make_examples(30), source="a store")


@pytest.fixture
def adapted(tiny_model: Path) -> AdaptedModel:
    return make_adapted(tiny_model, layers="last:1")


def trained(
    adapted: AdaptedModel, examples: ExampleSet, task: Any = TASK, **settings: Any
) -> tuple[FitReport, np.ndarray]:
    """Train from the start; give what was done, and where it led."""
    adapted.pour(adapted.initial)
    chosen = replace(EPOCHS, **{"frozen_cache_bytes": ROOMY, **settings})
    report = fit(adapted, task, examples, chosen, round_number=1, partition=0)
    return report, adapted.read().vector


def runs_of_first_layer(adapted: AdaptedModel) -> list[int]:
    """Count the examples that the first layer really sees, from now on."""
    seen: list[int] = []
    layer = adapted.backbone.model.bert.encoder.layer[0]
    layer.attention.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    return seen


def test_training_learns_the_same(adapted: AdaptedModel, examples: ExampleSet) -> None:
    without, expected = trained(adapted, examples, frozen_cache_bytes=0)
    report, found = trained(adapted, examples)
    assert (without.layers_skipped, report.layers_skipped) == (0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert report.loss == pytest.approx(without.loss, rel=1e-5)
    assert report.steps == without.steps


def test_in_bfloat16_it_learns_the_same_but_for_rounding(
    adapted: AdaptedModel, examples: ExampleSet
) -> None:
    _, expected = trained(adapted, examples, precision="bf16", frozen_cache_bytes=0)
    _, found = trained(adapted, examples, precision="bf16")
    moved = np.linalg.norm(expected - adapted.initial.vector)
    assert np.linalg.norm(found - expected) < 0.1 * moved
    stored = next((cache_dir() / "activations").glob("*/values.bin"))
    assert stored.stat().st_size == examples.lengths.sum() * 32 * 2  # hidden size, bytes


def test_frozen_layers_run_once_per_example(adapted: AdaptedModel, examples: ExampleSet) -> None:
    trained(adapted, examples)
    seen = runs_of_first_layer(adapted)
    _, first = trained(adapted, examples)
    _, again = trained(adapted, examples)
    assert seen == []
    assert np.array_equal(first, again)


def test_another_process_finds_what_one_computed(
    adapted: AdaptedModel, examples: ExampleSet, tiny_model: Path
) -> None:
    _, expected = trained(adapted, examples)
    other = make_adapted(tiny_model, layers="last:1")
    seen = runs_of_first_layer(other)
    _, found = trained(other, examples)
    assert sum(seen) < len(examples)  # those on which a cut is tried
    assert np.array_equal(found, expected)


def test_evaluation_measures_the_same(adapted: AdaptedModel, examples: ExampleSet) -> None:
    trained(adapted, examples)
    expected = evaluate(adapted, TASK, examples, batch_size=7)
    for batch_size in (7, 30):
        found = evaluate(adapted, TASK, examples, batch_size=batch_size, frozen_cache_bytes=ROOMY)
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_head_alone_trains_without_the_model(tiny_model: Path, examples: ExampleSet) -> None:
    adapted = make_adapted(tiny_model, method="head")
    _, expected = trained(adapted, examples, frozen_cache_bytes=0)
    trained(adapted, examples)
    adapted.backbone.model.bert.forward = None  # it would fail if it ran
    report, found = trained(adapted, examples)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert report.layers_skipped == 2


def test_a_personal_head_trains_on_frozen_layers_too(
    tiny_model: Path, examples: ExampleSet
) -> None:
    found = []
    for limit in (0, ROOMY):
        adapted = make_adapted(tiny_model, head="personal", layers="last:1")
        report, shared = trained(adapted, examples, frozen_cache_bytes=limit)
        found.append(np.concatenate([shared, adapted.personal.read().vector]))
    assert report.layers_skipped == 1
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)


@pytest.mark.parametrize(
    "once",
    [
        {"epochs": 1, "rounds": 1},  # no example comes twice
        {"max_steps": 2},  # not all examples come
        {"frozen_cache_bytes": 0},
    ],
    ids=str,
)
def test_nothing_is_kept_that_would_not_be_used(
    adapted: AdaptedModel, examples: ExampleSet, once: dict[str, int]
) -> None:
    report, _ = trained(adapted, examples, **once)
    assert report.layers_skipped == 0
    assert not (cache_dir() / "activations").exists()


class Varied(TextClassification):
    """Draws random numbers as it collates for training."""

    def collate(
        self, examples: Any, positions: Any, generator: Any = None, multiple: int = 1
    ) -> Any:
        if generator is not None:
            generator.random()
        return super().collate(examples, positions, generator, multiple)


def test_examples_that_training_varies_run_through_all_layers(
    adapted: AdaptedModel, examples: ExampleSet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    report, _ = trained(adapted, examples, task=Varied())
    assert report.layers_skipped == 0
    assert "varies" in caplog.text
    evaluated = frozen_skipped(adapted, Varied(), examples, precision="fp32", limit_bytes=ROOMY)
    with evaluated as start:
        assert start.layers == 1  # nothing is varied there


class LeftPadded(TextClassification):
    """Puts the padding before the text."""

    def collate(
        self, examples: Any, positions: Any, generator: Any = None, multiple: int = 1
    ) -> Any:
        batch = super().collate(examples, positions, generator, multiple)
        flipped = {key: value.flip(1) for key, value in batch.items() if key != "labels"}
        return {**flipped, "labels": batch["labels"]}


def test_a_task_that_lays_tokens_out_otherwise_runs_through_all_layers(
    adapted: AdaptedModel, examples: ExampleSet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    report, _ = trained(adapted, examples, task=LeftPadded())
    assert report.layers_skipped == 0
    assert "something else" in caplog.text


class Padded(TextClassification):
    """Pads to a multiple of eight tokens."""

    def collate(
        self, examples: Any, positions: Any, generator: Any = None, multiple: int = 1
    ) -> Any:
        return super().collate(examples, positions, generator, 8)


class Cropped(TextClassification):
    """Leaves out what is behind the sixth token."""

    def collate(
        self, examples: Any, positions: Any, generator: Any = None, multiple: int = 1
    ) -> Any:
        batch = super().collate(examples, positions, generator, multiple)
        shown = {key: value[:, :6] for key, value in batch.items() if key != "labels"}
        return {**shown, "labels": batch["labels"]}


class Probed(TextClassification):
    """Gives outputs of real examples only."""

    def outputs(self, model: Any, batch: Any) -> Any:
        if batch["input_ids"].shape[1] == max(LENGTHS[0]):
            raise LookupError("no such example")
        return super().outputs(model, batch)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (Padded(), "than those of the batch's longest example"),
        (Cropped(), "leaves some out"),
        (Probed(), "LookupError: no such example"),
    ],
    ids=["padded", "cropped", "failing"],
)
def test_a_task_that_is_of_another_kind_runs_through_all_layers(
    tiny_model: Path, caplog: pytest.LogCaptureFixture, task: Any, why: str
) -> None:
    caplog.set_level(logging.INFO)
    adapted = make_adapted(tiny_model, layers="last:1")
    report, _ = trained(adapted, replace(make_examples(30, words=9), source="a store"), task=task)
    assert report.layers_skipped == 0
    assert why in caplog.text


def test_dropout_of_an_adapter_that_has_learnt_hides_no_frozen_layer(
    tiny_model: Path, examples: ExampleSet
) -> None:
    adapted = make_adapted(tiny_model, layers="last:1", adapter_dropout=0.3)
    adapted.pour(replace(adapted.initial, vector=np.full_like(adapted.initial.vector, 0.1)))
    settings = replace(EPOCHS, frozen_cache_bytes=ROOMY)
    report = fit(adapted, TASK, examples, settings, round_number=2, partition=0)
    assert report.layers_skipped == 1


@pytest.mark.parametrize("made", [{"method": "head"}, {"layers": "last:1"}], ids=str)
def test_a_model_that_was_cut_is_forgotten_with_its_last_holder(
    tiny_model: Path, examples: ExampleSet, made: dict[str, Any]
) -> None:
    adapted = make_adapted(tiny_model, **made)
    trained(adapted, examples)
    model = weakref.ref(adapted.model)
    del adapted
    gc.collect()
    assert model() is None


def test_a_model_of_other_weights_never_meets_these_activations(
    adapted: AdaptedModel, examples: ExampleSet, tiny_model: Path
) -> None:
    trained(adapted, examples)
    other = make_adapted(tiny_model, layers="last:1")
    with torch.no_grad():
        other.backbone.model.bert.encoder.layer[0].output.dense.bias.add_(0.5)
    _, expected = trained(other, examples, frozen_cache_bytes=0)
    _, found = trained(other, examples)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_model_is_whole_again_when_training_fails(
    adapted: AdaptedModel, examples: ExampleSet
) -> None:
    class Failing(TextClassification):
        def loss(self, model: Any, batch: Any) -> Any:
            raise KeyboardInterrupt

    expected = evaluate(adapted, TASK, examples, batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        trained(adapted, examples, task=Failing())
    assert evaluate(adapted, TASK, examples, batch_size=8) == expected
