"""The protocol that every task follows."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from fedpeft_app.data.encoded import ExampleSet

Batch = dict[str, torch.Tensor]
Metrics = dict[str, float]


class Task(Protocol):
    """What a model is trained to do.

    Attributes:
        model_kind: Which kind of model it needs (a key of `backbone.load.AUTO_CLASSES`).
    """

    model_kind: str

    def encode(self, tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """Tokenise texts.

        Args:
            tokenizer: The backbone's tokenizer.
            texts: Raw texts.
            max_length: Tokens kept of each text, special tokens included.

        Returns:
            Token ids per text, not padded.
        """
        ...

    def collate(self, examples: ExampleSet, positions: npt.NDArray[np.int64], pad: int) -> Batch:
        """Build one batch, padded on the right to its longest example.

        Args:
            examples: Tokenised examples.
            positions: Which of them, `(batch,)`, at least one.
            pad: Padding token id; masked, and for a decoder the id its config names.

        Returns:
            The model's inputs and "labels", all `(batch, …)`.
        """
        ...

    def loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """Give the mean loss over a batch.

        Args:
            model: The model, in training mode.
            batch: What `collate` gave.

        Returns:
            A scalar, float32.
        """
        ...

    def metrics(self, logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Metrics:
        """Judge outputs against labels.

        Args:
            logits: Outputs, one row per example.
            labels: Label index per example.

        Returns:
            Name → value; always has "loss" and "accuracy".
        """
        ...
