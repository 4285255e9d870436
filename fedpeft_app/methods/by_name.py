"""Methods that add nothing to the model and only choose what trains, by name.

References:
    Ben Zaken et al. 2022, arXiv 2106.10199 (BitFit: biases).
    Sun et al. 2022, arXiv 2210.01708 (FedPEFT: bias, and the head alone, in federation).
"""

from collections.abc import Callable
from typing import Any

import torch

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.method import Adaptation, MethodSettings, refuse_unused
from fedpeft_app.methods.targets import block_of, chosen_blocks

_NOT_READ = ("dropout", "targets", "options")


class Head:
    """Train the task head on a frozen body (linear probing): the cheapest baseline."""

    name = "head"
    learning_rate = 1e-2
    head_learning_rate = 1e-2
    peft = False
    merges = True

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Freeze everything but the head.

        Args:
            model: A transformers model; it is changed in place.
            head: Names of the head's parameters.
            settings: Not used.

        Raises:
            BackboneError: If the model has no head, or settings are given that mean nothing.
        """
        refuse_unused(self.name, settings, "layers", *_NOT_READ)
        if not head:
            raise BackboneError(
                f"method.name = 'head' trains a fresh head, and {type(model).__name__} has none: "
                f"all of it is pre-trained. Use another method."
            )
        return _train(model, lambda name: name in head)


class Full:
    """Train every parameter: the baseline that parameter-efficient methods are held to."""

    name = "full"
    learning_rate = 1e-4
    head_learning_rate = 1e-2
    peft = False
    merges = True

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Freeze nothing.

        Args:
            model: A transformers model; it is changed in place.
            head: Not used: the head trains with the rest.
            settings: Not used.

        Raises:
            BackboneError: If the model is quantised, or settings are given that mean nothing.
        """
        refuse_unused(self.name, settings, "layers", *_NOT_READ)
        if integers := [n for n, p in model.named_parameters() if not p.is_floating_point()]:
            raise BackboneError(
                f"method.name = 'full' trains every parameter, and '{integers[0]}' is quantised. "
                f"Set model.quantization = 'none', or use 'lora'."
            )
        return _train(model, lambda name: True)


class Bias:
    """Train every parameter whose name contains "bias", and the head.

    Biases of attention keys are among them, as in the papers, though their gradient is zero:
    they shift all scores of a query alike, and the softmax takes that out.
    """

    name = "bias"
    learning_rate = 2e-3
    head_learning_rate = 1e-2
    peft = False
    merges = True

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Freeze everything but the biases and the head.

        Args:
            model: A transformers model; it is changed in place.
            head: Names of the head's parameters.
            settings: With `layers` other than "all", biases outside the chosen blocks
                (embeddings, final norm) are frozen too.

        Raises:
            BackboneError: If the body has no biases there, or is not float32.
        """
        refuse_unused(self.name, settings, *_NOT_READ)
        blocks = chosen_blocks(model, head, settings.layers)
        body = {name: value for name, value in model.named_parameters() if name not in head}
        biases = {
            name
            for name in body
            if "bias" in name and (settings.layers == "all" or block_of(name, blocks))
        }
        if not biases:
            raise BackboneError(
                f"method.name = 'bias' needs biases, and {type(model).__name__} has none in the "
                f"layers '{settings.layers}' (Llama and its kin have none at all). Use 'ln'."
            )
        if any(value.dtype != torch.float32 for value in body.values()):
            raise BackboneError(
                "method.name = 'bias' trains float32 biases, which layers of half precision or "
                "quantised layers cannot add. Set model.dtype = 'float32' and "
                "model.quantization = 'none', or use 'ln' or 'lora'."
            )
        return _train(model, lambda name: name in head or name in biases)


def _train(model: Any, chosen: Callable[[str], bool]) -> Adaptation:
    """Let exactly the chosen parameters train."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(chosen(name))
    return Adaptation(model=model)
