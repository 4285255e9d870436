"""LoRA through PEFT: low-rank updates of chosen linear layers, plus the trained head.

Reference:
    Hu et al. 2021, arXiv 2106.09685, equation 3: h = W₀x + (α / r)·BAx.
"""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.method import Adaptation, MethodSettings


class Lora:
    """Low-rank adaptation; `method.options` are further arguments of `peft.LoraConfig`."""

    name = "lora"
    learning_rate = 2e-3  # with the head at 1e-2: .943 on R8, mean of 3 seeds
    head_learning_rate = 1e-2  # a head trained at the body's rate lags far behind
    peft = True

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Wrap the model by PEFT; the head goes into `modules_to_save`.

        Args:
            model: A transformers model; it is changed in place.
            head: Names of the head's parameters.
            settings: Rank, scaling and targets.

        Returns:
            The PEFT model, with rank and scaling as PEFT applied them.

        Raises:
            BackboneError: If PEFT refuses the settings, a target names no module outside
                the head, or the initialisation would rewrite the frozen model.
        """
        _require_untouched_base(settings.options)
        targets = _targets(settings.targets)
        candidates = ", ".join(linear_modules(model, head))
        try:
            adapted = _wrap(model, head, targets, settings)
        except Exception as error:  # peft raises many kinds, NotImplementedError among them
            raise BackboneError(
                f"LoRA does not fit {type(model).__name__} with method.targets = "
                f"'{settings.targets}' and method.options = {dict(settings.options)}: "
                f"{str(error).rstrip('.')}. method.targets takes 'all-linear', or some of: "
                f"{candidates}."
            ) from error
        ranks, scaling = _ranks(adapted)
        if isinstance(targets, list) and (lost := _without_module(targets, ranks)):
            raise BackboneError(
                f"method.targets names '{lost[0]}', which is no module of "
                f"{type(model).__name__} that LoRA adapts. Take some of: {candidates}."
            )
        return Adaptation(model=adapted, ranks=ranks, scaling=scaling)


def _wrap(
    model: Any, head: frozenset[str], targets: str | list[str] | None, settings: MethodSettings
) -> Any:
    """Let PEFT put its layers in, without its advice on what it sets right by itself."""
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        modules_to_save=head_modules(model, head),
        task_type=_TASK_TYPES.get(type(model).__name__.rpartition("For")[2]),
        **settings.options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 on transformers 5
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # set by peft for GPT-2
        return peft.get_peft_model(model, config)


def _require_untouched_base(options: Mapping[str, Any]) -> None:
    """Refuse initialisations that rewrite frozen weights, each machine by its own SVD."""
    chosen = str(options.get("init_lora_weights", "")).lower()
    if chosen.startswith(_REWRITES_BASE):
        raise BackboneError(
            f"init_lora_weights = '{chosen}' rewrites the frozen weights in place, which nodes "
            f"would have to do bit for bit alike. Use true, false, 'gaussian' or 'orthogonal'."
        )


_REWRITES_BASE = ("pissa", "olora", "corda", "eva", "loftq", "lora_ga")
_TASK_TYPES = {"SequenceClassification": "SEQ_CLS"}


def _targets(targets: str) -> str | list[str] | None:
    """Translate `method.targets` for PEFT; None lets PEFT choose by architecture."""
    if targets == "auto":
        return None
    if targets == "all-linear":
        return targets
    return [target.strip() for target in targets.split(",") if target.strip()]


def _without_module(targets: list[str], adapted: Iterable[str]) -> list[str]:
    """List the targets that no adapted module's name ends with; PEFT passes over them."""
    names = [f".{name}" for name in adapted]
    return [target for target in targets if not any(n.endswith(f".{target}") for n in names)]


def head_modules(model: Any, head: frozenset[str]) -> list[str]:
    """Name the modules that hold the head's parameters, outermost outside the body.

    Args:
        model: A transformers model.
        head: Names of the head's parameters.

    Returns:
        Sorted module names for PEFT's `modules_to_save`.
    """
    body = f"{model.base_model_prefix}."
    modules = {
        name.rpartition(".")[0] if name.startswith(body) else name.partition(".")[0]
        for name in head
    }
    return sorted(modules)


def linear_modules(model: Any, head: frozenset[str] = frozenset()) -> list[str]:
    """List the distinct last names of a model's linear layers, as `method.targets` takes them.

    Args:
        model: A transformers model.
        head: Names of the head's parameters, whose layers are left out.
    """
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D")
        and f"{name}.weight" not in head
    }
    return sorted(linear)


def _ranks(model: Any) -> tuple[Mapping[str, int], float]:
    """Read rank per module and the common scaling back from the layers PEFT made."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    scalings = {float(layer.scaling["default"]) for layer in layers.values()}
    if len(scalings) != 1:
        raise BackboneError(f"Expected one LoRA scaling for all layers, got {sorted(scalings)}.")
    return {name: int(layer.r["default"]) for name, layer in layers.items()}, scalings.pop()
