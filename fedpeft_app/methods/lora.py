"""LoRA and its variants through PEFT: low-rank updates of linear layers, plus the trained head.

References:
    Hu et al. 2021, arXiv 2106.09685, equation 3: h = W₀x + (α / r)·BAx.
    Kalajdzievski 2023, arXiv 2312.03732 (rsLoRA: α / √r).
    Liu et al. 2024, arXiv 2402.09353 (DoRA: the columns' norms are trained apart).
    Sun et al. 2024, arXiv 2403.12313 (FFA-LoRA: A stays as it was drawn).
    Guo et al. 2024, arXiv 2410.01463 (FedSA-LoRA: A is shared, every node keeps its own B).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import peft
from peft.tuners.lora import LoraLayer

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.method import Adaptation, MethodSettings
from fedpeft_app.methods.targets import find_targets, require_ranks
from fedpeft_app.methods.wrap import ADAPTER, wrap_layers

_REWRITES_BASE = ("pissa", "olora", "corda", "eva", "loftq", "lora_ga", "mica")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Low-rank adaptation; `method.options` are further arguments of `peft.LoraConfig`.

    Attributes:
        name: The variant's name.
        arguments: What the variant sets in `peft.LoraConfig`.
        frozen: Parameters with one of these in their name are not trained.
        personal: Parameters with one of these in their name are trained, and never sent.
        learning_rate: 2e-3 with the head at 1e-2 gave .943 on R8, mean of 3 seeds.
        head_learning_rate: A head trained at the body's rate lags far behind.
        peft: PEFT has it.
        merges: W + (α / r)·BA is a plain weight.
    """

    name: str = "lora"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()
    learning_rate: float = 2e-3
    head_learning_rate: float = 1e-2
    peft: bool = True
    merges: bool = True

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Wrap the model by PEFT.

        Args:
            model: A transformers model; it is changed in place.
            head: Names of the head's parameters.
            settings: Rank, scaling, dropout, targets and layers.

        Returns:
            The PEFT model, with rank and scaling as PEFT applied them.

        Raises:
            BackboneError: If PEFT refuses the settings, a target names no module outside
                the head, or the initialisation would rewrite the frozen model.
        """
        _require_untouched_base(settings.options)
        made = adapt_low_rank(self.name, self.arguments, self.frozen, model, head, settings)
        kept = (
            path
            for path, _ in made.model.named_parameters()
            if any(part in path for part in self.personal)
        )
        return replace(made, personal=frozenset(kept))


def rslora() -> Lora:
    """Scale by α / √r, so that large ranks learn as fast as small ones."""
    return Lora(name="rslora", arguments={"use_rslora": True})


def dora() -> Lora:
    """Train magnitude and direction of the weights apart."""
    return Lora(name="dora", arguments={"use_dora": True})


def lora_orthogonal() -> Lora:
    """Start from factors with orthogonal rows, whose product is zero though none of them is."""
    return Lora(name="lora-orthogonal", arguments={"init_lora_weights": "orthogonal"})


def lora_fa() -> Lora:
    """Train B only, on an A that every node draws from the run's seed: the mean is exact."""
    return Lora(name="lora-fa", frozen=(".lora_A.", ".lora_embedding_A."))


def lora_sa() -> Lora:
    """Share A only: every node keeps a B of its own, which starts from zero."""
    return Lora(name="lora-sa", personal=(".lora_B.", ".lora_embedding_B."))


def adapt_low_rank(
    name: str,
    arguments: Mapping[str, Any],
    frozen: tuple[str, ...],
    model: Any,
    head: frozenset[str],
    settings: MethodSettings,
) -> Adaptation:
    """Put low-rank layers in, as `peft.LoraConfig` understands the arguments.

    Args:
        name: The method's.
        arguments: What it sets in the configuration.
        frozen: Parameters with one of these in their name are not trained.
        model: A transformers model; it is changed in place.
        head: Names of the head's parameters.
        settings: Rank, scaling, dropout, targets, layers and options.

    Raises:
        BackboneError: If PEFT refuses or scales layers differently, or a layer is too narrow.
    """
    targets = find_targets(model, head, settings)
    require_ranks(name, model, dict.fromkeys(targets, settings.rank))
    adapted = wrap_layers(
        peft.LoraConfig,
        model,
        head,
        name,
        settings,
        targets,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        **arguments,
    )
    for path, parameter in adapted.named_parameters():
        if any(part in f"{path}." for part in frozen):
            parameter.requires_grad_(False)
    ranks, scaling = _ranks(adapted)
    require_ranks(name, adapted, ranks)  # options may set some, by rank_pattern
    return Adaptation(model=adapted, ranks=ranks, scaling=scaling)


def linear_layers(name: str, model: Any) -> list[LoraLayer]:
    """List the layers that PEFT adapted, where all of them must be linear.

    Args:
        name: The method's.
        model: What `adapt_low_rank` made.

    Raises:
        BackboneError: If one is an embedding, for which PEFT has other factors.
    """
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    for path, layer in layers.items():
        if ADAPTER not in layer.lora_A:
            raise BackboneError(
                f"method.name = '{name}' is for linear layers, and method.targets names the "
                f"embedding '{path}'. Leave it out, or use 'lora'."
            )
    return list(layers.values())


def _require_untouched_base(options: Mapping[str, Any]) -> None:
    """Refuse initialisations that rewrite frozen weights, and what PEFT saves twice."""
    chosen = str(options.get("init_lora_weights", "")).lower()
    if chosen.startswith(_REWRITES_BASE):
        raise BackboneError(
            f"init_lora_weights = '{chosen}' sets out from the frozen weights, which nodes would "
            f"have to do alike. Use method.name = 'pissa' or 'olora', which are made for that, or "
            f"init_lora_weights true, false, 'gaussian' or 'orthogonal'."
        )
    if options.get("bias") == "all":
        raise BackboneError(
            "bias = 'all' trains the biases of the head twice over, and PEFT cannot save it. "
            "Use 'lora_only', or method.name = 'bias'."
        )


def _ranks(model: Any) -> tuple[Mapping[str, int], float]:
    """Read rank per module and the common scaling back from the layers PEFT made."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    scalings = {float(layer.scaling[ADAPTER]) for layer in layers.values()}
    if len(scalings) != 1:
        raise BackboneError(f"Expected one LoRA scaling for all layers, got {sorted(scalings)}.")
    return {name: int(layer.r[ADAPTER]) for name, layer in layers.items()}, scalings.pop()
