"""Visual prompts: trained tokens between an image's class token and its patches.

This file needs torch only: exported folders carry a copy of it. To load such a folder, build
the model, call `attach` with the folder's arguments, then load the adapter's tensors by name
(`strict=False`).

Reference:
    Jia et al. 2022, arXiv 2203.12119, equations 4 to 6 (VPT).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

CHILD = "visual_prompts"  # prompts are a child of their block, so that no frozen name changes


class VisualPrompts(torch.nn.Module):
    """The prompts of one block.

    Args:
        length: Number of tokens, from 1.
        size: Width of a token.
        patch: Pixels of a patch; the prompts start in ±√(6 / (3·patch + size)), as the rows of
            the layer that embeds patches of three channels would.
        device: Where the float32 tokens lie.
    """

    def __init__(self, length: int, size: int, patch: int, device: torch.device) -> None:
        super().__init__()
        tokens = torch.empty(length, size, device=device, dtype=torch.float32)
        bound = math.sqrt(6 / (3 * patch + size))
        self.tokens = torch.nn.Parameter(torch.nn.init.uniform_(tokens, -bound, bound))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Give the prompts once per image of `(batch, tokens, size)`, in its precision."""
        return self.tokens.to(hidden.dtype).expand(hidden.shape[0], -1, -1)


def attach(
    model: torch.nn.Module,
    *,
    blocks: Sequence[str],
    length: int,
    size: int,
    patch: int,
    deep: bool,
) -> None:
    """Put prompts into an image transformer with a class token, in place.

    After the last block they are taken out again, so that whatever follows sees the class
    token and the patches, as it always did.

    Args:
        model: A model whose blocks take and give `(batch, tokens, size)`.
        blocks: Full names of all of its blocks, in order.
        length: Prompts per block, from 1.
        size: Width of a token.
        patch: Pixels of a patch.
        deep: Whether every block has prompts of its own, which replace those before it;
            otherwise the first block's pass through all.
    """
    modules: list[Any] = [model.get_submodule(name) for name in blocks]
    for number, block in enumerate(modules):
        if number and not deep:
            break
        device = next(block.parameters()).device
        block.add_module(CHILD, VisualPrompts(length, size, patch, device))
        block.register_forward_pre_hook(_replace if number else _insert)
    last = modules[-1]
    last.prompt_length = length
    last.register_forward_hook(_take_out)


# Hooks are functions of this module and find the prompts in theirs: copies of the model, and
# torch.func.functional_call, then see the parameters that are meant.


def _insert(block: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put a block's prompts behind the class token."""
    hidden, *rest = inputs
    prompts = block.visual_prompts(hidden)
    return (torch.cat([hidden[:, :1], prompts, hidden[:, 1:]], dim=1), *rest)


def _replace(block: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put a block's prompts in the place of the block's before it."""
    hidden, *rest = inputs
    prompts = block.visual_prompts(hidden)
    end = 1 + prompts.shape[1]
    return (torch.cat([hidden[:, :1], prompts, hidden[:, end:]], dim=1), *rest)


def _take_out(block: Any, inputs: tuple[Any, ...], output: Any) -> Any:
    """Cut the prompts out of what the last block gives."""
    hidden = output[0] if isinstance(output, tuple) else output
    kept = torch.cat([hidden[:, :1], hidden[:, 1 + block.prompt_length :]], dim=1)
    return (kept, *output[1:]) if isinstance(output, tuple) else kept
