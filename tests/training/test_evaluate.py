"""Evaluation: the order of examples and the size of batches do not matter."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_samples import PAD, make_adapted, make_examples

from fedpeft_app.adapters import AdapterState
from fedpeft_app.data.encoded import example_set
from fedpeft_app.data.tasks.text_classification import TextClassification
from fedpeft_app.errors import TrainingError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.training.evaluate import evaluate, outputs

TASK = TextClassification()


@pytest.fixture(scope="module")
def adapted(tiny_model: Path) -> AdaptedModel:
    return make_adapted(tiny_model, dropout=0.5)  # dropout must be off in evaluation


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_a_row_belongs_to_its_example(adapted: AdaptedModel, batch_size: int) -> None:
    examples = make_examples(15)
    found = outputs(adapted, TASK, examples, batch_size=batch_size)
    for position in range(15):
        ids = torch.from_numpy(examples.row(position).astype(np.int64))[None]
        with torch.inference_mode():
            alone = adapted.model(input_ids=ids).logits[0].numpy()
        np.testing.assert_allclose(found[position], alone, rtol=0, atol=1e-5)


def test_a_selection_gives_the_rows_of_the_whole(adapted: AdaptedModel) -> None:
    examples, chosen = make_examples(15), np.array([11, 2, 7])
    whole = outputs(adapted, TASK, examples, batch_size=4)
    part = outputs(adapted, TASK, examples.select(chosen), batch_size=4)
    np.testing.assert_allclose(part, whole[chosen], rtol=0, atol=1e-5)


def test_the_padding_token_does_not_matter(adapted: AdaptedModel) -> None:
    tasks = (TASK.bind(SimpleNamespace(pad_token_id=pad)) for pad in (PAD, 7))
    first, second = (outputs(adapted, task, make_examples(15), batch_size=15) for task in tasks)
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-5)


def test_batches_of_any_size_measure_the_same(adapted: AdaptedModel) -> None:
    examples = make_examples(15)
    whole = evaluate(adapted, TASK, examples, batch_size=15)
    parts = evaluate(adapted, TASK, examples, batch_size=4)
    assert parts == pytest.approx(whole, abs=1e-5)
    assert {"loss", "accuracy"} <= set(whole)


def test_progress_rises_to_the_whole(adapted: AdaptedModel) -> None:
    told: list[float] = []
    outputs(adapted, TASK, make_examples(10), batch_size=4, progress=told.append)
    assert told == pytest.approx([0.4, 0.8, 1.0])
    assert told[-1] == 1.0


def test_evaluation_leaves_weights_and_gradients_alone(adapted: AdaptedModel) -> None:
    before = adapted.read()
    outputs(adapted, TASK, make_examples(4), batch_size=4)
    assert adapted.read().vector.tobytes() == before.vector.tobytes()
    assert all(parameter.grad is None for parameter in adapted.model.parameters())


@pytest.mark.parametrize("value", [1e30, float("nan")])
def test_a_state_that_overflows_is_named_as_the_cause(adapted: AdaptedModel, value: float) -> None:
    before = adapted.read()
    broken = AdapterState(spec=before.spec, vector=np.full_like(before.vector, value))
    adapted.pour(broken)
    try:
        with pytest.raises(TrainingError, match=r"for 4 of 4 examples: the state .* for fp32, bec"):
            evaluate(adapted, TASK, make_examples(4), batch_size=4)
    finally:
        adapted.pour(before)


def test_no_examples_are_refused(adapted: AdaptedModel) -> None:
    with pytest.raises(ValueError, match="at least one example"):
        evaluate(adapted, TASK, example_set([]), batch_size=4)
