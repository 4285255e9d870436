"""A classifier on pooled tokens of an encoder, in place of the architecture's own head.

This file needs torch and transformers only: exported folders carry a copy of it.
"""

from typing import Any

import torch
from transformers.modeling_outputs import SequenceClassifierOutput

_NOT_FOR_THE_BODY = {"labels", "output_attentions", "output_hidden_states", "return_dict"}
_STD = 0.02  # BERT's initializer_range, for the few configs without one


class PooledForSequenceClassification(torch.nn.Module):
    """One linear layer on the mean of the last layer's tokens, or on its first token.

    Args:
        body: An encoder that gives `last_hidden_state`, as `AutoModel` loads it. Its own
            pooler, if it has one, is dropped.
        num_labels: Outputs of the head.
        pooling: "mean" (over the tokens that are no padding) or "cls" (the first token).
    """

    base_model_prefix = "body"

    def __init__(self, body: Any, num_labels: int, pooling: str) -> None:
        super().__init__()
        if getattr(body, "pooler", None) is not None:
            body.pooler = None
        self.body = body
        self.config = body.config
        self.pooling = pooling
        self.classifier = torch.nn.Linear(self.config.hidden_size, num_labels)
        std = getattr(self.config, "initializer_range", _STD)
        torch.nn.init.normal_(self.classifier.weight, std=std)
        torch.nn.init.zeros_(self.classifier.bias)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **inputs: Any,
    ) -> SequenceClassifierOutput:
        """Classify a batch.

        Args:
            input_ids: Token ids, `(batch, tokens)`; images come as `pixel_values`.
            attention_mask: 1 for tokens, 0 for padding, `(batch, prefix + tokens)`.
            past_key_values: Trained prefixes of every layer (prefix tuning).
            inputs: What else the encoder takes. Labels are not used (the loss is the
                caller's), nor are wishes about the form of the output.

        Returns:
            `logits`, `(batch, num_labels)`.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            **{name: value for name, value in inputs.items() if name not in _NOT_FOR_THE_BODY},
        }
        given = {name: value for name, value in given.items() if value is not None}
        hidden = self.body(**given).last_hidden_state
        return SequenceClassifierOutput(logits=self.classifier(self._pool(hidden, attention_mask)))

    def _pool(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Reduce `(batch, tokens, hidden)` to `(batch, hidden)`."""
        if self.pooling == "cls":
            return hidden[:, 0]
        if mask is None:
            return hidden.mean(1)
        weights = mask[:, -hidden.shape[1] :, None].to(hidden.dtype)  # prefixes have no token
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.classifier.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the body's weights."""
        dtype: torch.dtype = self.body.dtype
        return dtype

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether the body computes activations twice: PEFT asks, and takes silence for a yes."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.modules())

    def enable_input_require_grads(self) -> None:
        """Let the embeddings ask for gradients; PEFT does so where activations come twice."""
        self.body.enable_input_require_grads()

    def disable_input_require_grads(self) -> None:
        """Undo that."""
        self.body.disable_input_require_grads()

    def get_input_embeddings(self) -> torch.nn.Module:
        """Give the body's token embeddings, which prompt tuning looks for."""
        embeddings: torch.nn.Module = self.body.get_input_embeddings()
        return embeddings
