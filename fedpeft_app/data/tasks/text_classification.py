"""Text classification: one label per text, or any number of them."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fedpeft_app.data.encoded import ExampleSet, Values
from fedpeft_app.data.labels import Labels
from fedpeft_app.data.tasks.padding import padded, padded_width, padding_token
from fedpeft_app.data.tasks.scores import Scores, label_tensor, scored
from fedpeft_app.data.tasks.task import Batch, Metrics, Outputs, Positions, Prediction, Usage

if TYPE_CHECKING:
    import torch

_AT_ONCE = 1024  # texts a tokenizer gets at a time: it has threads of its own


class TextClassification:
    """Classification of texts by a sequence classifier; methods as in `Task`.

    Args:
        multi_label: Whether a text has any number of labels.
        separator: Between several labels in one cell of text; a list needs none.
        class_weights: Weight of labels in the loss, by name; see `Scores`.

    Raises:
        ValueError: If an argument makes no sense.
    """

    model_kind = "sequence-classification"
    encoding_options = ("multi_label", "separator")
    lower_is_better = frozenset({"loss"})

    def __init__(
        self,
        *,
        multi_label: bool = False,
        separator: str = ",",
        class_weights: Mapping[str, float] | None = None,
    ) -> None:
        self._scores = Scores(many=multi_label, separator=separator, weights=class_weights)
        self.metric_names = self._scores.metric_names
        self.headline = self._scores.headline
        self.reads = self._scores.reads("text")
        self._tokenizer: Any = None
        self._pad = 0
        self._max_length = 64

    def bind(self, processor: Any, *, labels: Sequence[str] = (), max_length: int = 64) -> Self:
        """Take the tokenizer, its padding token and the labels."""
        bound = copy.copy(self)
        bound._tokenizer = processor
        bound._pad = padding_token(processor)
        bound._max_length = max_length
        bound._scores = self._scores.bind(labels)
        return bound

    @property
    def usage(self) -> Usage:
        """Say whether labels exclude one another."""
        return Usage(many=self._scores.many)

    def encode(self, inputs: Sequence[str], threads: int = 1) -> Iterator[Values]:
        """Tokenise texts, cut at the longest length, special tokens included."""
        for start in range(0, len(inputs), _AT_ONCE):
            encoded = self._tokenizer(
                list(inputs[start : start + _AT_ONCE]),
                truncation=True,
                max_length=self._max_length,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            yield from (np.array(row, dtype=np.int32) for row in encoded["input_ids"])

    def collate(
        self,
        examples: ExampleSet,
        positions: Positions,
        generator: np.random.Generator | None = None,
        multiple: int = 1,
    ) -> Batch:
        """Build one batch, padded on the right to its longest example."""
        import torch

        rows = [examples.row(int(position)) for position in positions]
        width = padded_width(max(map(len, rows)), multiple, self._max_length)
        shown = [np.ones_like(row) for row in rows]
        return {
            "input_ids": torch.from_numpy(padded(rows, self._pad, width)),
            "attention_mask": torch.from_numpy(padded(shown, 0, width)),
            "labels": label_tensor(examples, positions),
        }

    def loss(self, model: Any, batch: Batch) -> "torch.Tensor":
        """Give the mean cross-entropy over a batch, computed in float32."""
        return self.losses(model, batch).mean()

    def losses(self, model: Any, batch: Batch) -> "torch.Tensor":
        """Give the cross-entropy of each example, computed in float32."""
        return self._scores.losses(self.outputs(model, batch), batch["labels"])

    def weight(self, batch: Batch) -> float:
        """Count the examples of a batch."""
        return float(len(batch["labels"]))

    def outputs(self, model: Any, batch: Batch) -> "torch.Tensor":
        """Give the logits, `(batch, labels)`."""
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        logits: torch.Tensor = model(**inputs).logits
        return logits

    def metrics(self, outputs: Outputs, labels: Labels) -> Metrics:
        """Judge logits `(examples, labels)`; see `Scores.metrics`."""
        return self._scores.metrics(outputs, labels)

    def predict(self, model: Any, inputs: Sequence[str], batch_size: int) -> list[Prediction]:
        """Give the label, or the labels, of each text."""
        rows = list(self.encode(inputs))
        found = scored(rows, self.collate, self.outputs, model, batch_size)
        return self._scores.predictions(found)
