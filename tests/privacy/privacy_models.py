"""Small models of which engines get something wrong, and losses for them."""

from collections.abc import Callable
from typing import Any

import torch
import transformers

from fedpeft_app.privacy.per_sample import Batch, Engine, Rows

VOCABULARY, PAD = 20, 0
TOKENS: Batch = {  # three texts of 4, 3 and 2 tokens, and what is learnt of them
    "input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 9, 0], [10, 11, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]),
    "labels": torch.tensor([[3, 4, 5, 6], [7, 8, 9, -100], [10, 11, -100, -100]]),
}


def llama(**settings: Any) -> Any:
    """A language model of 16 hidden units in training mode, without dropout."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=24,
        pad_token_id=PAD,
        initializer_range=0.3,
        **settings,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).train()


class Net(torch.nn.Module):
    """A frozen layer, dropout, and a layer that trains: x ↦ W₂ tanh(W₁ x)."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.frozen = torch.nn.Linear(3, 4).requires_grad_(requires_grad=False)
            self.dropout = torch.nn.Dropout(dropout)
            self.trained = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.trained(self.dropout(torch.tanh(self.frozen(x))))
        return found.squeeze(1)


def points(count: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(count, 3, generator=generator), "y": torch.arange(count).float()}


def squares(model: Any, batch: Batch) -> torch.Tensor:
    """Squared errors."""
    found: torch.Tensor = (model(batch["x"]) - batch["y"]).square()
    return found


def spoiling(engine: Engine, spoil: Callable[[torch.nn.Module, Rows], Rows]) -> Engine:
    """An engine that gives something else."""
    from contextlib import contextmanager

    @contextmanager
    def spoilt(model: torch.nn.Module, losses: Any) -> Any:
        with engine(model, losses) as gradients:
            yield lambda batch: spoil(model, gradients(batch))

    return spoilt
