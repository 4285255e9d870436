"""LN tuning through PEFT: the gains and shifts of the normalisation layers.

Reference:
    Zhao et al. 2023, arXiv 2312.11420.
"""

from typing import Any

import peft
import torch

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.method import Adaptation, MethodSettings, refuse_unused
from fedpeft_app.methods.targets import block_of, chosen_blocks
from fedpeft_app.methods.wrap import adapted_modules, wrap_layers

_KINDS = ("LayerNorm", "RMSNorm")  # endings of the classes' names; every architecture has its own


class LayerNorms:
    """Train every LayerNorm or RMSNorm, and the head."""

    name = "ln"
    learning_rate = 2e-3
    head_learning_rate = 1e-2
    peft = True
    merges = True

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Wrap the model by PEFT.

        Args:
            model: A transformers model; it is changed in place.
            head: Names of the head's parameters.
            settings: With `layers` other than "all", the norms outside the chosen blocks
                (after the embeddings, before the head) stay frozen.

        Raises:
            BackboneError: If there is no such layer, or PEFT refuses.
        """
        refuse_unused(self.name, settings, "dropout", "targets")
        blocks = chosen_blocks(model, head, settings.layers)
        targets = [
            name
            for name, module in model.named_modules()
            if type(module).__name__.endswith(_KINDS)
            and not any(parameter.startswith(f"{name}.") for parameter in head)
            and (settings.layers == "all" or block_of(name, blocks))
        ]
        if not targets:
            raise BackboneError(
                f"method.name = 'ln' needs LayerNorm or RMSNorm layers, and "
                f"{type(model).__name__} has none in the layers '{settings.layers}'. Use 'lora'."
            )
        wrapped = wrap_layers(peft.LNTuningConfig, model, head, self.name, settings, targets)
        if any(value.dtype != torch.float32 for value in model.parameters()):
            for name in adapted_modules(wrapped):
                layer = wrapped.get_base_model().get_submodule(name)
                layer.register_forward_pre_hook(_in_float32)
                layer.register_forward_hook(_as_the_base)
        return Adaptation(model=wrapped)


def _in_float32(layer: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give a float32 norm what the half-precision layer before it made."""
    return (inputs[0].float(), *inputs[1:])


def _as_the_base(layer: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    """Give the layer after it what the frozen norm would have given."""
    return output.to(layer.base_layer.weight.dtype)
