"""Class scores → loss, metrics and predictions; what all classifiers share."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from fedpeft_app.data.columns import Reads
from fedpeft_app.data.encoded import ExampleSet, Values, example_set
from fedpeft_app.data.labels import Labels
from fedpeft_app.data.tasks.task import Batch, Metrics, Outputs, Positions, Prediction
from fedpeft_app.errors import DataError

if TYPE_CHECKING:
    import torch

ONE_LABEL = ("loss", "accuracy", "macro-f1", "auroc")
MANY_LABELS = ("loss", "accuracy", "micro-f1", "macro-f1", "auroc")
_PAIR = 2  # labels for which one score orders the examples
_DIGITS = 12  # of a probability that are sure in double precision
Floats = npt.NDArray[np.float64]


class Scores:
    """How class scores are trained and judged.

    Args:
        many: Whether an example has any number of labels instead of one.
        separator: Between several labels in one cell of text; a list needs none.
        weights: Weight of each label in the loss, by name; the others have weight 1. They
            are given, not counted: weights counted from a node's own labels would differ
            from node to node, and the mean of updates would serve no common loss.

    Raises:
        ValueError: If the separator is empty, or a weight is not a finite number above 0.
    """

    def __init__(
        self,
        *,
        many: bool = False,
        separator: str = ",",
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if not separator:
            raise ValueError("separator must not be empty")
        self.many = many
        self._separator = separator
        self.metric_names = MANY_LABELS if many else ONE_LABEL
        self.headline = "micro-f1" if many else "accuracy"  # few have all of many labels right
        self._weights = _checked(weights or {})
        self._labels: tuple[str, ...] = ()
        self._scale: tuple[float, ...] = ()  # a weight a label; none at all where all are 1

    def reads(self, field: str) -> Reads:
        """Say what a classifier of a field needs of a source."""
        labels: Literal["one", "many"] = "many" if self.many else "one"
        return Reads(inputs=((field,),), labels=labels, separator=self._separator)

    def bind(self, labels: Sequence[str]) -> Self:
        """Give a copy that knows the labels.

        Args:
            labels: Label names in the order of the scores; empty where they are not known yet.

        Raises:
            DataError: If a weight is for a label that there is not.
        """
        unknown = sorted(set(self._weights) - set(labels))
        if labels and unknown:
            raise DataError(
                f"task.options: class_weights names {', '.join(map(repr, unknown))}, but the "
                f"labels are {list(labels)}."
            )
        bound = copy.copy(self)
        bound._labels = tuple(labels)
        if self._weights:
            bound._scale = tuple(self._weights.get(label, 1.0) for label in labels)
        return bound

    def losses(self, scores: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        """Give losses in float32: cross-entropy, or for many labels the mean of a binary one each.

        Args:
            scores: `(batch, labels)`.
            labels: Label index, `(batch,)`, or marks, `(batch, labels)`.

        Returns:
            Each example's own, `(batch,)`. Weights multiply it; of many labels, a weight
            multiplies what marked ones add.
        """
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

        scale = torch.tensor(self._scale, device=scores.device) if self._scale else None
        if self.many:
            each = binary_cross_entropy_with_logits(
                scores.float(), labels.float(), pos_weight=scale, reduction="none"
            )
            return each.mean(dim=1)
        # PyTorch's own mean divides by the weights of those labels that a batch happens to hold.
        return cross_entropy(scores.float(), labels, weight=scale, reduction="none")

    def metrics(self, outputs: Outputs, labels: Labels) -> Metrics:
        """Judge scores `(examples, labels)`; arguments as in `Task`.

        Returns:
            Loss (without weights), accuracy (of many labels: all of an example's right),
            macro-F1, of many labels also micro-F1, and AUROC: of two labels, or the mean
            over labels, each against the rest, where every label occurs and is missing.
        """
        scores = outputs.astype(np.float64)
        return _of_many(scores, labels) if self.many else _of_one(scores, labels)

    def predictions(self, outputs: Outputs) -> list[Prediction]:
        """Turn scores `(examples, labels)` into labels with their probability."""
        scores = outputs.astype(np.float64)
        if self.many:
            probabilities = np.exp(-np.logaddexp(0.0, -scores))
            return [_marked(row, self._labels, self._separator) for row in probabilities]
        probabilities = np.exp(_log_softmax(scores))
        best = probabilities.argmax(axis=1)
        return [
            Prediction(answer=self._labels[index], probability=float(row[index]))
            for index, row in zip(best, probabilities, strict=True)
        ]


def label_tensor(examples: ExampleSet, positions: Positions) -> "torch.Tensor":
    """Give the labels of some examples as a tensor."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(examples.selected_labels[positions]))


def scored(
    rows: Sequence[Values],
    collate: Callable[[ExampleSet, Positions], Batch],
    outputs: Callable[[Any, Batch], "torch.Tensor"],
    model: Any,
    batch_size: int,
) -> Outputs:
    """Run a model over a few encoded inputs, in their order."""
    import torch

    examples = example_set(rows)
    where = next(model.parameters()).device
    found = []
    for start in range(0, len(rows), batch_size):
        positions = np.arange(start, min(start + batch_size, len(rows)), dtype=np.int64)
        batch = {key: value.to(where) for key, value in collate(examples, positions).items()}
        with torch.inference_mode():
            found.append(outputs(model, batch).float().cpu().numpy())
    return np.concatenate(found)


def _checked(weights: Mapping[str, float]) -> dict[str, float]:
    """Refuse weights that are none."""
    for label, weight in weights.items():
        if not 0 < weight < math.inf:
            raise ValueError(
                f"class_weights['{label}'] must be a finite number above 0, got {weight!r}"
            )
    return dict(weights)


def _of_one(scores: Floats, labels: Labels) -> Metrics:
    """Judge scores of which one label is right."""
    from sklearn.metrics import f1_score, roc_auc_score  # slow to import; training needs it not

    log_probabilities = _log_softmax(scores)
    predicted = scores.argmax(axis=1)
    result = {
        "loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        "accuracy": float((predicted == labels).mean()),
        "macro-f1": float(f1_score(labels, predicted, average="macro", zero_division=0.0)),
    }
    count = scores.shape[1]
    if len(np.unique(labels)) == count:
        judged = scores[:, 1] - scores[:, 0] if count == _PAIR else _rounded(log_probabilities)
        result["auroc"] = float(roc_auc_score(labels, judged, multi_class="ovr"))
    return result


def _of_many(scores: Floats, labels: Labels) -> Metrics:
    """Judge scores each of which is right or wrong for itself."""
    from sklearn.metrics import f1_score, roc_auc_score  # as above

    marks = labels.astype(bool)
    predicted = scores > 0
    losses = np.logaddexp(0.0, np.where(marks, -scores, scores))
    result = {
        "loss": float(losses.mean()),
        "accuracy": float((predicted == marks).all(axis=1).mean()),
        "micro-f1": float(f1_score(marks, predicted, average="micro", zero_division=0.0)),
        "macro-f1": float(f1_score(marks, predicted, average="macro", zero_division=0.0)),
    }
    if marks.any(axis=0).all() and not marks.all(axis=0).any():
        result["auroc"] = float(roc_auc_score(marks, scores, average="macro"))
    return result


def _marked(probabilities: Floats, labels: Sequence[str], separator: str) -> Prediction:
    """Give the labels more likely than not, and the probability of exactly these."""
    chosen = probabilities > 0.5
    answer = separator.join(label for label, taken in zip(labels, chosen, strict=True) if taken)
    exactly = np.where(chosen, probabilities, 1.0 - probabilities).prod()
    return Prediction(answer=answer, probability=float(exactly))


def _rounded(log_probabilities: Floats) -> Floats:
    """Give probabilities of which those that differ by rounding alone are equal.

    Ranks have no tolerance: an order that only rounding made would count as much as a real one.
    """
    rounded: Floats = np.exp(log_probabilities).round(_DIGITS)
    return rounded


def _log_softmax(scores: Floats) -> Floats:
    """Give the logarithms of the probabilities, without overflow."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_probabilities: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probabilities
