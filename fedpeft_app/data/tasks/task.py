"""The protocol that every task follows."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from fedpeft_app.data.tokens import TokenSet

Batch = dict[str, torch.Tensor]
Metrics = dict[str, float]


class Task(Protocol):
    """What a model is trained to do.

    Attributes:
        model_kind: Which kind of model it needs (a key of `backbone.load.AUTO_CLASSES`).
    """

    model_kind: str

    def encode(self, tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """Tokenise texts, cut at `max_length` tokens."""
        ...

    def collate(self, examples: TokenSet, positions: npt.NDArray[np.int64], pad: int) -> Batch:
        """Build one batch, padded to its longest example with token `pad`."""
        ...

    def loss(self, model: Any, batch: Batch) -> torch.Tensor:
        """Give the mean loss over a batch, a scalar."""
        ...

    def metrics(self, logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Metrics:
        """Judge outputs against labels; always has "loss" and "accuracy"."""
        ...
