"""Masks that are built whatever they hold: the same outputs, and vmap gets through."""

from typing import Any

import pytest
import torch
import transformers
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from fedpeft_app.backbone.masks import masks_always_built

SMALL: dict[str, Any] = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}
MODELS = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SMALL)),
    "llama": lambda: transformers.LlamaModel(transformers.LlamaConfig(**SMALL)),
}
IDS = torch.tensor([[3, 4, 5], [6, 7, 8]])


def hidden(model: Any, mask: torch.Tensor | None) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, attention_mask=mask).last_hidden_state
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mask", [None, [[1, 1, 1], [1, 1, 1]], [[1, 1, 1], [1, 1, 0]]])
def test_outputs_are_the_same(name: str, attention: str, mask: Any) -> None:
    model = MODELS[name]().eval()
    model.set_attn_implementation(attention)
    given = None if mask is None else torch.tensor(mask)
    plain = hidden(model, given)
    with masks_always_built():
        torch.testing.assert_close(hidden(model, given), plain)


@pytest.mark.parametrize("name", MODELS)
def test_vmap_gets_through(name: str) -> None:
    model = MODELS[name]().eval()

    def first(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model(
            input_ids=ids[None], attention_mask=mask[None]
        ).last_hidden_state
        return found[0, 0]

    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    each = torch.func.vmap(first)
    with pytest.raises(RuntimeError, match="data-dependent control flow"):
        each(IDS, mask)
    with masks_always_built(), pytest.warns(UserWarning, match="There is a performance drop"):
        found = each(IDS, mask)
    torch.testing.assert_close(found, hidden(model, mask)[:, 0])


def test_it_is_undone_whatever_happens() -> None:
    before = dict(ALL_MASK_ATTENTION_FUNCTIONS)
    with pytest.raises(RuntimeError, match="on purpose"), masks_always_built():
        raise RuntimeError("on purpose")
    assert dict(ALL_MASK_ATTENTION_FUNCTIONS) == before
