"""Methods that add nothing to the model and only choose what trains, by name."""

from typing import Any

from fedpeft_app.methods.method import Adaptation, MethodSettings


class Head:
    """Train the task head on a frozen body (linear probing): the cheapest baseline."""

    name = "head"
    learning_rate = 1e-2
    head_learning_rate = 1e-2
    peft = False

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Freeze everything but the head.

        Args:
            model: A transformers model; it is changed in place.
            head: Names of the head's parameters.
            settings: Not used.
        """
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in head)
        return Adaptation(model=model)


class Full:
    """Train every parameter: the baseline that parameter-efficient methods are held to."""

    name = "full"
    learning_rate = 1e-4
    head_learning_rate = 1e-2
    peft = False

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Freeze nothing.

        Args:
            model: A transformers model; it is changed in place.
            head: Not used: the head trains with the rest.
            settings: Not used.
        """
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return Adaptation(model=model)
