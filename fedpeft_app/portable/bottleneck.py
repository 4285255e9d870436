"""Bottleneck adapters: small residual networks beside or behind modules of a frozen model.

This file needs torch only: exported folders carry a copy of it. To load such a folder, build
the model, call `attach` with the folder's arguments, then load the adapter's tensors by name
(`strict=False`).

References:
    Houlsby et al. 2019, arXiv 1902.00751, figure 2 (behind attention and MLP).
    Pfeiffer et al. 2021, arXiv 2005.00247, section 3 (behind the MLP).
    He et al. 2022, arXiv 2110.04366, section 4.6 (beside the MLP).
    Sun et al. 2022, arXiv 2210.01708 (one adapter shared by all blocks).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

CHILD = "bottleneck"  # an adapter is a child of its module, so that no frozen name changes


class Bottleneck(torch.nn.Module):
    """h ↦ W₂ GELU(W₁ h + b₁) + b₂, zero at the start.

    Args:
        size: Width of what comes in and goes out.
        width: Neurons in between, from 1.
        device: Where its float32 parameters lie.
    """

    def __init__(self, size: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.down = torch.nn.Linear(size, width, device=device, dtype=torch.float32)
        self.up = torch.nn.Linear(width, size, device=device, dtype=torch.float32)
        torch.nn.init.zeros_(self.up.weight)
        torch.nn.init.zeros_(self.up.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute the change of hidden states, `(…, size)`, in their own precision."""
        inner = torch.nn.functional.gelu(self.down(hidden.to(self.down.weight.dtype)))
        change: torch.Tensor = self.up(inner)
        return change.to(hidden.dtype)


def attach(
    model: torch.nn.Module,
    *,
    places: Mapping[str, Sequence[int]],
    form: str,
    shared: bool = False,
) -> None:
    """Put bottleneck adapters into a model, in place.

    Args:
        model: Any model.
        places: Full name of a module → (size, width) of its adapter.
        form: What an adapter h ↦ A(h) does to its module f. "behind": f(x) + A(f(x)).
            "beside": f(x) + A(x). "before-sum", for an f(y, x) that adds x: f(y, x + A(x)).
        shared: One adapter for all modules, whose sizes must agree, in place of one each.
    """
    one: Bottleneck | None = None
    for name, (size, width) in places.items():
        module = model.get_submodule(name)
        if one is None or not shared:
            one = Bottleneck(size, width, next(module.parameters()).device)
            module.add_module(CHILD, one)
        else:  # a reference, no second child: torch.func.functional_call restores children once
            object.__setattr__(module, CHILD, one)
        if form == "before-sum":
            module.register_forward_pre_hook(_change_summand)
        else:
            module.register_forward_hook({"behind": _add_behind, "beside": _add_beside}[form])


# Hooks are functions of this module and find the adapter in theirs: copies of the model, and
# torch.func.functional_call, then see the parameters that are meant.


def _add_behind(module: Any, inputs: tuple[Any, ...], output: Any) -> Any:
    """Add the adapter's view of a module's output to it."""
    first = _first(output)
    return _with_first(output, first + module.bottleneck(first))


def _add_beside(module: Any, inputs: tuple[Any, ...], output: Any) -> Any:
    """Add the adapter's view of a module's input to its output."""
    return _with_first(output, _first(output) + module.bottleneck(inputs[0]))


def _change_summand(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add the adapter's view of a module's second input to that input."""
    hidden, summand, *rest = inputs
    return (hidden, summand + module.bottleneck(summand), *rest)


def _first(output: Any) -> Any:
    """Give the hidden states among a module's outputs."""
    return output[0] if isinstance(output, tuple) else output


def _with_first(output: Any, first: torch.Tensor) -> Any:
    """Replace the hidden states among a module's outputs."""
    return (first, *output[1:]) if isinstance(output, tuple) else first
