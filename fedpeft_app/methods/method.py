"""The protocol that every PEFT method follows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSettings:
    """What a method is told.

    Attributes:
        rank: Rank r of LoRA and its kin, from 1.
        alpha: LoRA scaling numerator, > 0.
        dropout: Dropout before the adapter, in [0, 1).
        targets: "auto" (the method's own choice), "attention", "mlp", "both", "all-linear",
            or module names separated by commas.
        layers: "all", "first:K", "last:K", or numbers and ranges from 0 ("0-3,5").
        width: Neurons of a bottleneck adapter; 0 = a share of the hidden size.
        prompt_length: Prompt tokens, per layer for deep prompts, from 1.
        options: Further arguments, passed on unchanged.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str = "auto"
    layers: str = "all"
    width: int = 0
    prompt_length: int = 10
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """What a method made of a model.

    Attributes:
        model: The model, with `requires_grad` on exactly the parameters to train.
        ranks: Module name → rank; empty where the method has no ranks.
        scaling: Factor of the low-rank update; 1.0 where there is none.
    """

    model: Any
    ranks: Mapping[str, int] = field(default_factory=dict)
    scaling: float = 1.0


class Method(Protocol):
    """One way to make a frozen model adaptable.

    Attributes:
        name: Its name in the configuration.
        learning_rate: Peak rate that suits the body's trainable tensors.
        head_learning_rate: Peak rate that suits the head.
        peft: Whether the result is a PEFT model, exported as a PEFT folder; otherwise
            it is exported as a plain model folder.
    """

    name: str
    learning_rate: float
    head_learning_rate: float
    peft: bool

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Make a freshly loaded model adaptable, in place.

        Args:
            model: A transformers model.
            head: Names of the parameters that must be trained because no pre-trained
                weight backs them.
            settings: The run's settings of the method.

        Returns:
            The adapted model, with its ranks and scaling.

        Raises:
            BackboneError: If the method does not fit the model.
        """
        ...
