"""A method: one that fedpeft has, with another choice of layers."""

from dataclasses import replace
from typing import Any

from fedpeft_app.methods.by_name import Bias
from fedpeft_app.methods.method import Adaptation, MethodSettings


class LastBiases:
    """Train the biases of the last block, and the head: cheap, and nearest to the output."""

    name = "last-biases"
    learning_rate = 1e-2
    head_learning_rate = 1e-1
    peft = False
    merges = True

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Freeze everything else; `bias` refuses what has no biases, or none that could train."""
        layers = "last:1" if settings.layers == "all" else settings.layers
        return Bias().adapt(model, head, replace(settings, layers=layers))
