"""The protocol that every PEFT method follows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedpeft_app.errors import BackboneError

Tensors = dict[str, npt.NDArray[np.float32]]  # name → array, as in adapter_model.safetensors
Restate = Callable[[Tensors, dict[str, Any]], tuple[Tensors, dict[str, Any]]]


def as_saved(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Leave what PEFT saved as it is.

    Args:
        tensors: The tensors of adapter_model.safetensors.
        config: The content of adapter_config.json.
    """
    return tensors, config


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
        portable: Module of `fedpeft_app.portable` that put the method's own modules in, and
            that an exported folder therefore needs; empty where PEFT or nobody did.
        layout: The JSON arguments of that module's `attach(model, **layout)`.
        restate: Turns what PEFT saves into what PEFT loads on the model as it was.
        carried: Names of parameters that travel but never train: zero at first, and written by
            the server.
        personal: Names of parameters that train but never travel: each node keeps its own.
    """

    model: Any
    ranks: Mapping[str, int] = field(default_factory=dict)
    scaling: float = 1.0
    portable: str = ""
    layout: Mapping[str, Any] = field(default_factory=dict)
    restate: Restate = as_saved
    carried: frozenset[str] = frozenset()
    personal: frozenset[str] = frozenset()


class Method(Protocol):
    """One way to make a frozen model adaptable."""

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        ...

    @property
    def learning_rate(self) -> float:
        """Peak rate that suits the body's trainable tensors."""
        ...

    @property
    def head_learning_rate(self) -> float:
        """Peak rate that suits the head."""
        ...

    @property
    def peft(self) -> bool:
        """Whether PEFT has the method: where `Adaptation.portable` is empty, as a PEFT model."""
        ...

    @property
    def merges(self) -> bool:
        """Whether the adapter can be folded into the weights of a plain model."""
        ...

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Make a freshly loaded model adaptable, in place; the head trains with it.

        Args:
            model: A transformers model. It may be on the meta device, to be looked at only:
                then whatever depends on the weights' values is left out.
            head: Names of the parameters that must be trained because no pre-trained
                weight backs them; empty for language models.
            settings: The run's settings of the method.

        Returns:
            The adapted model, and what the rest of the run must know of it.

        Raises:
            BackboneError: If the method does not fit the model or the settings.
        """
        ...


def refuse_unused(name: str, settings: MethodSettings, *unused: str) -> None:
    """Refuse settings that a method would silently pass over.

    Args:
        name: The method's.
        settings: What the run asks for.
        unused: Names of the settings that mean nothing to the method.

    Raises:
        BackboneError: If one of them is not at its default.
    """
    default = MethodSettings()
    for key in unused:
        if (given := getattr(settings, key)) != getattr(default, key):
            raise BackboneError(
                f"method.{key} = {given!r} means nothing to method.name = '{name}'. "
                f"Leave it at {getattr(default, key)!r}, or take another method."
            )


def require_option(name: str, options: Mapping[str, Any], known: str) -> None:
    """Refuse options of a method that has one only.

    Args:
        name: The method's.
        options: `method.options`.
        known: The one.

    Raises:
        BackboneError: If there is another.
    """
    if strange := sorted(options.keys() - {known}):
        raise BackboneError(
            f"Expected '{known}' in method.options of method.name = '{name}' and nothing else, "
            f"got '{strange[0]}'. Remove it."
        )
