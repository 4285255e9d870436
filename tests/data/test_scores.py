"""What all classifiers share: many labels, weights, predictions; by hand."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from fedpeft_app.data.encoded import example_set
from fedpeft_app.data.tasks.scores import Scores
from fedpeft_app.data.tasks.text_classification import TextClassification
from fedpeft_app.errors import DataError

LN3 = math.log(3)  # a score of ln 3 is a probability of 3/4
MARKS = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], np.uint8)
MANY = np.array([[LN3, -LN3], [LN3, -LN3], [-LN3, LN3], [LN3, LN3]], np.float32)


def test_metrics_of_many_labels_by_hand() -> None:
    metrics = Scores(many=True).metrics(MANY, MARKS)
    # right: 2 of 2, 1 of 2, 2 of 2, 0 of 2 marks
    assert metrics["accuracy"] == 2 / 4
    assert metrics["loss"] == pytest.approx(-(5 * math.log(3 / 4) + 3 * math.log(1 / 4)) / 8)
    # label 0: 2 hits, 1 too many; label 1: 1 hit, 1 too many, 1 missed
    assert metrics["micro-f1"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert metrics["macro-f1"] == pytest.approx((4 / 5 + 2 / 4) / 2)
    # label 0: of 4 pairs 2 right, 2 tied; label 1: 1 right, 2 tied, 1 wrong
    assert metrics["auroc"] == pytest.approx((3 / 4 + 2 / 4) / 2)


def test_metrics_of_many_labels_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    marks = generator.integers(0, 2, (50, 4)).astype(np.uint8)
    scores = generator.normal(size=(50, 4)).astype(np.float32)
    metrics = Scores(many=True).metrics(scores, marks)
    for average in ("micro", "macro"):
        expected = f1_score(marks, scores > 0, average=average)
        assert metrics[f"{average}-f1"] == pytest.approx(expected)
    assert metrics["auroc"] == pytest.approx(roc_auc_score(marks, scores, average="macro"))


def test_auroc_of_many_labels_needs_each_label_there_and_missing() -> None:
    always = np.array([[1, 0], [1, 1]], np.uint8)
    assert "auroc" not in Scores(many=True).metrics(MANY[:2], always)
    assert "auroc" not in Scores(many=True).metrics(MANY[:2], 1 - always)


def test_loss_of_many_labels_is_binary_and_in_float32() -> None:
    scores = torch.tensor(MANY).bfloat16()
    losses = Scores(many=True).losses(scores, torch.tensor(MARKS))
    assert losses.dtype == torch.float32
    alone = [Scores(many=True).metrics(MANY[[at]], MARKS[[at]])["loss"] for at in range(4)]
    assert losses.tolist() == pytest.approx(alone, rel=1e-2)


@pytest.mark.parametrize("many", [False, True])
def test_metric_names_are_what_metrics_gives(*, many: bool) -> None:
    scores = Scores(many=many)
    labels = MARKS if many else np.array([0, 1, 1, 0])
    assert set(scores.metrics(MANY, labels)) == set(scores.metric_names)


def test_a_weight_multiplies_the_loss_of_its_label() -> None:
    scores = Scores(weights={"rare": 5.0}).bind(("common", "rare"))
    flat = torch.zeros(4, 2)  # every example costs ln 2
    losses = scores.losses(flat, torch.tensor([0, 0, 0, 1]))
    assert losses.tolist() == pytest.approx([math.log(2)] * 3 + [5 * math.log(2)])


def test_a_weight_of_many_labels_multiplies_what_marked_ones_add() -> None:
    scores = Scores(many=True, weights={"rare": 5.0}).bind(("common", "rare"))
    losses = scores.losses(torch.zeros(1, 2), torch.tensor([[1, 1]]))
    assert losses.tolist() == pytest.approx([(1 + 5) / 2 * math.log(2)])


def test_weights_for_unknown_labels_are_refused() -> None:
    with pytest.raises(DataError, match=r"names 'rar', but the labels are \['common', 'rare'\]"):
        Scores(weights={"rar": 5.0}).bind(("common", "rare"))


@pytest.mark.parametrize("weight", [0, -1.0, math.inf, math.nan])
def test_weights_are_finite_and_above_0(weight: float) -> None:
    with pytest.raises(ValueError, match=r"class_weights\['a'\] must be a finite number above 0"):
        Scores(weights={"a": weight})


def test_predictions_by_hand() -> None:
    labels = ("a", "b")
    one = Scores().bind(labels).predictions(np.array([[0, LN3]], np.float32))
    assert (one[0].answer, one[0].probability) == ("b", pytest.approx(3 / 4))
    several = Scores(many=True).bind(labels)
    many = several.predictions(MANY)
    assert [found.answer for found in many] == ["a", "a", "b", "a,b"]
    assert [found.probability for found in many] == pytest.approx([9 / 16] * 4)
    assert Scores(many=True, separator="|").bind(labels).predictions(MANY)[3].answer == "a|b"
    none = several.predictions(-np.abs(MANY[:1]))
    assert (none[0].answer, none[0].probability) == ("", pytest.approx(9 / 16))


def test_a_text_may_have_many_labels() -> None:
    task = TextClassification(multi_label=True, separator="|")
    assert (task.reads.labels, task.reads.separator) == ("many", "|")
    bound = task.bind(SimpleNamespace(pad_token_id=None), labels=("a", "b"))
    batch = bound.collate(example_set([[5], [6, 7]], MARKS[:2]), np.array([1, 0]))
    assert batch["labels"].tolist() == [[1, 1], [1, 0]]
    assert batch["input_ids"].tolist() == [[6, 7], [5, 0]]

    def model(**inputs: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(2, 2))

    assert bound.loss(model, batch).item() == pytest.approx(math.log(2))
