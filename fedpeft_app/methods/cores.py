"""Fed-SB: of every low-rank update only a small square core trains, and travels.

ΔW = s·B·R·A, where B `(out, r)` and A `(r, in)` are frozen, R `(r, r)` is trained and zero at
first, and s = α / r. What travels is r² numbers a layer, whatever the width of the model.

Guarantee:
    Every node has the same A and B, and ΔW is linear in R, so the mean of cores is the mean of
    updates, whatever the weights: Σ p_k·s·B·R_k·A = s·B·(Σ p_k·R_k)·A. So with all that is
    linear in deltas: sums under masks, server momentum, added noise. The columns of B and the
    rows of A are orthonormal up to rounding, so ‖ΔW‖ is s·‖R‖ within one percent: whoever clips
    cores, perturbs them or measures their distances does so to the updates.

Not covered:
    That A and B suit the task. Fed-SB finds them in a first update, computed on private examples,
    which every node then sees; here they come of the frozen weights or of the run's seed.

References:
    Singhal et al. 2025, arXiv 2502.15436 (Fed-SB).
    Ponkshe et al. 2024, arXiv 2411.19557 (LoRA-SB: why the factors should be orthonormal).
    Bałazy et al. 2024, arXiv 2405.17604 (LoRA-XS: factors from the SVD of the frozen weight).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from fedpeft_app.adapters.decomposition import thin_svd
from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.lora import adapt_low_rank, linear_layers
from fedpeft_app.methods.method import Adaptation, MethodSettings, Tensors, require_option
from fedpeft_app.methods.targets import is_transposed
from fedpeft_app.methods.wrap import ADAPTER
from fedpeft_app.registry import near_miss

_A = f".lora_A.{ADAPTER}"  # PEFT leaves its name in the keys of what a module of ours holds
_CORE, _PROJECTION = f"{_A}.core.weight", f"{_A}.projection.weight"


class Cores:
    """Train a core in every layer; `method.options` takes `init`, a key of `FACTORS`."""

    name = "lora-sb"
    learning_rate = 1e-1  # on R8, at ranks 8 and 32, mean of 3 seeds: .948; 3e-2 gave .945
    head_learning_rate = 1e-2
    peft = True
    merges = True

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Wrap the model by PEFT, set the factors of every layer, and put cores between them.

        Args:
            model: A transformers model; it is changed in place.
            head: Names of the head's parameters.
            settings: Rank, scaling, dropout, targets, layers and the option `init`.

        Raises:
            BackboneError: If PEFT refuses, an option is unknown, a target is an embedding or
                narrower than the rank, or weights that are quantised are to be decomposed.
        """
        factors = _chosen_factors(self.name, model, settings.options)
        plain = replace(settings, options={})
        made = adapt_low_rank(self.name, {}, (".lora_A.", ".lora_B."), model, head, plain)
        for layer in linear_layers(self.name, made.model):
            _put_core(layer, factors)
        return replace(made, restate=as_plain_lora)


class CoredProjection(torch.nn.Module):
    """Stands where a layer of PEFT has A, and computes R·A.

    Args:
        projection: A, `(r, in)`.
    """

    def __init__(self, projection: torch.nn.Linear) -> None:
        super().__init__()
        rank, where = projection.out_features, projection.weight.device
        self.projection = projection
        self.core = torch.nn.Linear(rank, rank, bias=False, device=where)
        torch.nn.init.zeros_(self.core.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Apply A, then R: `(…, in)` to `(…, r)`."""
        outputs: torch.Tensor = self.core(self.projection(inputs))
        return outputs

    @property
    def weight(self) -> torch.Tensor:
        """R·A, `(r, in)`, which is what PEFT merges."""
        return self.core.weight @ self.projection.weight


def as_plain_lora(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Restate cores as a LoRA of the same rank and scaling, with R·A for its A.

    Args:
        tensors: What PEFT saves of a model with cores.
        config: The content of adapter_config.json.
    """
    plain = dict(tensors)
    for name in tensors:
        if name.endswith(_CORE):
            layer = name.removesuffix(_CORE)
            plain[f"{layer}.lora_A.weight"] = plain.pop(name) @ plain.pop(f"{layer}{_PROJECTION}")
    return plain, config


Factors = tuple[torch.Tensor, torch.Tensor]  # B (out, r) and A (r, in), float64


def singular_vectors(layer: LoraLayer, rank: int) -> Factors:
    """Take the first singular vectors of the frozen weight.

    A decomposition may choose their signs; here every row of A is largest where it is positive.

    Args:
        layer: A layer as PEFT made it.
        rank: How many, at most the layer's rows and its columns.
    """
    base = layer.get_base_layer()
    weight = base.weight.detach().cpu().double()
    left, _, right = thin_svd((weight.T if is_transposed(base) else weight).numpy())
    b, a = torch.from_numpy(left[:, :rank]), torch.from_numpy(right[:rank])
    signs = a.gather(1, a.abs().argmax(dim=1, keepdim=True)).sign()
    return b * signs.T, a * signs


def random_vectors(layer: LoraLayer, rank: int) -> Factors:
    """Draw orthonormal vectors from PyTorch's generator, which the run's seed has set.

    Args:
        layer: A layer as PEFT made it.
        rank: How many, at most the layer's rows and its columns.
    """
    b, a = (
        torch.linalg.qr(torch.randn(size, rank, dtype=torch.float64))[0]
        for size in (layer.out_features, layer.in_features)
    )
    return b, a.T


FACTORS: Mapping[str, Callable[[LoraLayer, int], Factors]] = {
    "svd": singular_vectors,
    "orthogonal": random_vectors,
}


def _chosen_factors(name: str, model: Any, options: Mapping[str, Any]) -> str:
    """Read the option `init`, and refuse what is unknown or does not suit the model."""
    require_option(name, options, "init")
    chosen = options.get("init", "svd")  # on R8 at rank 8, 2 seeds: .934, random ones .925
    if not isinstance(chosen, str) or chosen not in FACTORS:
        raise BackboneError(
            f"Expected init of method.name = '{name}' to be one of: {', '.join(FACTORS)}, got "
            f"{chosen!r} in method.options.{near_miss(str(chosen), FACTORS)}"
        )
    if chosen == "svd" and getattr(model, "quantization_method", None) is not None:
        raise BackboneError(
            f"method.name = '{name}' starts from an SVD of the frozen weights, and these are "
            f'quantised. Set method.options = \'{{"init": "orthogonal"}}\'.'
        )
    return chosen


def _put_core(layer: LoraLayer, factors: str) -> None:
    """Set both factors, unless the model is there to be looked at only, and put R behind A."""
    projection = layer.lora_A[ADAPTER]
    if not projection.weight.is_meta:
        b, a = FACTORS[factors](layer, layer.r[ADAPTER])
        layer.lora_B[ADAPTER].weight.data.copy_(_rounded(b))
        projection.weight.data.copy_(_rounded(a))
    layer.lora_A[ADAPTER] = CoredProjection(projection)


def _rounded(factor: torch.Tensor) -> torch.Tensor:
    """Keep eight bits of every number, which nodes agree on whatever they compute with.

    The roll call compares every bit. On MiniLM, factors found by one thread and by two differ by
    up to 2e-12 in float64, so that one number in 10¹⁰ would round differently; found in float32,
    one in fifty did.
    """
    return factor.bfloat16()
