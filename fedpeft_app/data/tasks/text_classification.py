"""Text classification: one label per text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.tasks.task import Batch, Metrics

_BINARY = 2  # labels for which one score orders the examples


class TextClassification:
    """Single-label classification of texts by a sequence classifier; arguments as in `Task`."""

    model_kind = "sequence-classification"

    def encode(self, tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """Tokenise texts, cut at `max_length` tokens, special tokens included."""
        encoded = tokenizer(
            list(texts),
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def collate(self, examples: ExampleSet, positions: npt.NDArray[np.int64], pad: int) -> Batch:
        """Build one batch, padded to its longest example."""
        rows = [examples.row(int(position)) for position in positions]
        width = max(len(row) for row in rows)
        ids = np.full((len(rows), width), pad, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(examples.selected_labels[positions]),
        }

    def loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """Give the mean cross-entropy over a batch, computed in float32."""
        return cross_entropy(self.logits(model, batch).float(), batch["labels"])

    def logits(self, model: Any, batch: Batch) -> torch.Tensor:
        """Run the model.

        Args:
            model: A sequence classifier.
            batch: What `collate` gave.

        Returns:
            Logits, `(batch, labels)`.
        """
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        output: torch.Tensor = model(**inputs).logits
        return output

    def metrics(self, logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Metrics:
        """Judge logits `(examples, labels)`: loss, accuracy, macro-F1; AUROC for two labels."""
        from sklearn.metrics import f1_score, roc_auc_score  # slow to import; nodes do not judge

        scores = logits.astype(np.float64)
        shifted = scores - scores.max(axis=1, keepdims=True)
        log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        predicted = scores.argmax(axis=1)
        result = {
            "loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
            "accuracy": float((predicted == labels).mean()),
            "macro-f1": float(f1_score(labels, predicted, average="macro", zero_division=0.0)),
        }
        if logits.shape[1] == _BINARY and len(np.unique(labels)) == _BINARY:
            result["auroc"] = float(roc_auc_score(labels, log_probabilities[:, 1]))
        return result
