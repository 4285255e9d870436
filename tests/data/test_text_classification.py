"""Text classification: padding, loss and metrics, by hand and against scikit-learn."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score

from fedpeft_app.data.encoded import example_set
from fedpeft_app.data.tasks.catalogue import TASKS
from fedpeft_app.data.tasks.text_classification import TextClassification

TASK = TextClassification()


def padding_with(token: int | None, max_length: int = 64) -> TextClassification:
    return TASK.bind(SimpleNamespace(pad_token_id=token), max_length=max_length)


def test_the_catalogue_knows_it() -> None:
    assert TASKS.get("text-classification") is TextClassification


def test_encode_cuts_with_special_tokens_inside_the_limit(tiny_model: Path) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tiny_model))
    pad, unknown, cls, sep = (
        tokenizer.convert_tokens_to_ids(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    )
    wheat = tokenizer.convert_tokens_to_ids("wheat")
    bound = TASK.bind(tokenizer, max_length=5)
    rows = [row.tolist() for row in bound.encode(["wheat", "wheat strange wheat wheat"])]
    assert rows == [[cls, wheat, sep], [cls, wheat, unknown, wheat, sep]]
    assert all(pad not in row for row in rows)


def test_collate_pads_on_the_right_to_the_longest_of_the_batch() -> None:
    examples = example_set([[5, 6, 7], [8], [9, 10], [1] * 9], np.array([2, 0, 1, 0]))
    batch = padding_with(99).collate(examples, np.array([2, 0, 1]))
    assert batch["input_ids"].tolist() == [[9, 10, 99], [5, 6, 7], [8, 99, 99]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [1, 2, 0]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@pytest.mark.parametrize(("multiple", "width"), [(1, 3), (2, 4), (4, 4), (5, 5), (8, 6)])
def test_collate_pads_to_a_multiple_but_not_beyond_the_longest_there_can_be(
    multiple: int, width: int
) -> None:
    bound = padding_with(99, max_length=6)
    batch = bound.collate(example_set([[5, 6, 7], [8]]), np.array([0, 1]), multiple=multiple)
    assert batch["input_ids"].tolist() == [[5, 6, 7, *[99] * (width - 3)], [8, *[99] * (width - 1)]]
    assert batch["attention_mask"].sum(dim=1).tolist() == [3, 1]


def test_collate_counts_positions_within_a_selection() -> None:
    examples = example_set([[1], [2], [3]], np.array([0, 1, 2])).select(np.array([2, 1]))
    batch = TASK.collate(examples, np.array([0]))
    assert (batch["input_ids"].tolist(), batch["labels"].tolist()) == ([[3]], [2])


def test_loss_is_the_mean_cross_entropy_in_float32() -> None:
    def model(**inputs: Any) -> SimpleNamespace:
        assert "labels" not in inputs  # the model's own loss is not asked for
        return SimpleNamespace(logits=torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=torch.bfloat16))

    batch = {"input_ids": torch.tensor([[1], [2]]), "labels": torch.tensor([0, 1])}
    loss = TASK.loss(model, batch)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(2))
    assert TASK.losses(model, batch).tolist() == pytest.approx([math.log(2)] * 2)


def test_metrics_by_hand() -> None:
    # Softmax of (0, ln 3) is (1/4, 3/4); of (ln 3, 0) it is (3/4, 1/4).
    ln3 = math.log(3)
    logits = np.array([[0, ln3], [0, ln3], [ln3, 0], [ln3, 0]], dtype=np.float32)
    metrics = TASK.metrics(logits, np.array([1, 1, 0, 1]))
    assert metrics == {
        "loss": pytest.approx(-(3 * math.log(3 / 4) + math.log(1 / 4)) / 4),
        "accuracy": 3 / 4,
        # label 0: precision 1/2, recall 1 → 2/3; label 1: precision 1, recall 2/3 → 4/5
        "macro-f1": pytest.approx((2 / 3 + 4 / 5) / 2),
        # of three (positive, negative) pairs two are ordered right, one ties
        "auroc": pytest.approx(2.5 / 3),
    }


@pytest.mark.parametrize("count", [2, 3, 5])
@given(data=st.data())
@settings(max_examples=30)
def test_metrics_agree_with_scikit_learn(count: int, data: st.DataObject) -> None:
    sixtyfourths = st.integers(-512, 512).map(lambda number: number / 64)
    logits = data.draw(hnp.arrays(np.float32, (12, count), elements=sixtyfourths))
    labels = data.draw(hnp.arrays(np.int64, 12, elements=st.integers(0, count - 1)))
    metrics = TASK.metrics(logits, labels)
    probabilities = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    predicted = logits.argmax(axis=1)
    assert metrics["loss"] == pytest.approx(log_loss(labels, probabilities, labels=range(count)))
    assert metrics["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    expected = f1_score(labels, predicted, average="macro", zero_division=0.0)
    assert metrics["macro-f1"] == pytest.approx(expected)
    probabilities = probabilities.round(12)  # what is equal but for rounding is a tie
    complete = len(set(labels.tolist())) == count
    assert ("auroc" in metrics) == complete
    if complete and count == 2:
        assert metrics["auroc"] == pytest.approx(roc_auc_score(labels, probabilities[:, 1]))
    elif complete:
        one_against_rest = [
            roc_auc_score(labels == label, probabilities[:, label]) for label in range(count)
        ]
        assert metrics["auroc"] == pytest.approx(np.mean(one_against_rest))


def test_auroc_of_equal_probabilities_is_a_tie_whatever_the_rounding() -> None:
    # Label 0 has the same probability in all rows, but sums in another order round differently.
    logits = np.array([[1.2, -1.2, 5.0], [1.2, 5.0, -1.2], [1.2, -1.2, 5.0]], dtype=np.float32)
    # label 0 ties with both: 1/2; label 1 beats both: 1; label 2 beats one and ties one: 3/4
    assert TASK.metrics(logits, np.array([2, 1, 0]))["auroc"] == pytest.approx(3 / 4)


@pytest.mark.parametrize(("count", "labels"), [(3, [0, 1, 0]), (2, [1, 1, 1]), (2, [0, 0, 0])])
def test_auroc_needs_every_label(count: int, labels: list[int]) -> None:
    logits = np.zeros((3, count), dtype=np.float32)
    assert "auroc" not in TASK.metrics(logits, np.array(labels))


def test_large_logits_overflow_nothing() -> None:
    logits = np.array([[3e38, -3e38], [-3e38, 3e38]], dtype=np.float32)
    metrics = TASK.metrics(logits, np.array([0, 1]))
    assert metrics == {"loss": 0.0, "accuracy": 1.0, "macro-f1": 1.0, "auroc": 1.0}
