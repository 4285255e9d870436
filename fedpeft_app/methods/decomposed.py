"""LoRA that starts from a part of the frozen weights.

That part, s·B₀A₀, is taken out of the frozen weight: W_res = W − s·B₀A₀. It is a multiple of
the projection of W onto a subspace that W alone determines (PiSSA: once, its r largest singular
directions; OLoRA: s times, the span of its first r columns), so every node has the same W_res
up to rounding, whatever its seed or the signs its decomposition chose; A and B come from the
server.

References:
    Meng et al. 2024, arXiv 2404.02948, equations 2 to 4 (PiSSA).
    Büyükakyüz 2024, arXiv 2406.01775 (OLoRA).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft.tuners.lora import LoraLayer

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.lora import adapt_low_rank
from fedpeft_app.methods.method import Adaptation, MethodSettings, Tensors
from fedpeft_app.methods.targets import find_targets, is_transposed
from fedpeft_app.methods.wrap import ADAPTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposed:
    """Low-rank adaptation of a part of the weights; `method.options` as for LoRA.

    Attributes:
        name: "pissa" or "olora", which is also PEFT's name of the initialisation.
        learning_rate: As for LoRA.
        head_learning_rate: Likewise.
        peft: PEFT has it.
        merges: W_res + s·BA is a plain weight.
    """

    name: str
    learning_rate: float = 2e-3
    head_learning_rate: float = 1e-2
    peft: bool = True
    merges: bool = True

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Wrap the model by PEFT, which takes the part out of the frozen weights.

        Args:
            model: A transformers model; its weights are changed in place.
            head: Names of the head's parameters.
            settings: Rank, scaling, dropout, targets and layers.

        Raises:
            BackboneError: If PEFT refuses, a layer stores its weight transposed and PEFT
                would get that wrong, or the weights are quantised.
        """
        if self.name == "olora" and any(is_transposed(module) for module in model.modules()):
            raise BackboneError(
                f"method.name = '{self.name}' does not fit {type(model).__name__}: PEFT starts "
                f"OLoRA wrongly where layers store weights transposed (Conv1D). Use 'pissa'."
            )
        if getattr(model, "quantization_method", None) is not None:
            raise BackboneError(
                f"method.name = '{self.name}' rewrites the frozen weights, which quantised ones "
                f"cannot follow exactly. Set model.quantization = 'none', or use 'lora'."
            )
        self._require_matrices(model, find_targets(model, head, settings))
        looked_at_only = any(parameter.is_meta for parameter in model.parameters())
        arguments = {"init_lora_weights": True if looked_at_only else self.name}
        made = adapt_low_rank(self.name, arguments, (), model, head, settings)
        return Adaptation(
            model=made.model,
            ranks=made.ranks,
            scaling=made.scaling,
            restate=AddTakenPart(taken={} if looked_at_only else _factors(made.model)),
        )

    def _require_matrices(self, model: Any, targets: list[str]) -> None:
        """Refuse embeddings, whose rows PEFT does not decompose."""
        for target in targets:
            if isinstance(model.get_submodule(target), torch.nn.Embedding):
                raise BackboneError(
                    f"method.name = '{self.name}' decomposes linear layers, and method.targets "
                    f"names the embedding '{target}'. Leave it out, or use 'lora'."
                )


def pissa() -> Decomposed:
    """Train the principal singular values and vectors."""
    return Decomposed(name="pissa")


def olora() -> Decomposed:
    """Train an orthonormal part of the weights."""
    return Decomposed(name="olora")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddTakenPart:
    """Restate an adapter of W_res as one of W: W_res + s·BA = W + s·[B, −B₀]·[A; A₀].

    Attributes:
        taken: A₀ and B₀, as PEFT names them in adapter_model.safetensors.
    """

    taken: Mapping[str, Any]

    def __call__(self, tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
        """Stack the factors: twice the rank, the same scaling."""
        stacked = dict(tensors)
        for name, taken in self.taken.items():
            axis, sign = (0, 1) if name.endswith(".lora_A.weight") else (1, -1)
            stacked[name] = np.concatenate([tensors[name], sign * taken], axis=axis)
        growth = math.sqrt(2) if config["use_rslora"] else 2  # keeps α / r or α / √r
        return stacked, {
            **config,
            "init_lora_weights": True,
            "r": 2 * config["r"],
            "lora_alpha": growth * config["lora_alpha"],
            "rank_pattern": {key: 2 * r for key, r in config["rank_pattern"].items()},
            "alpha_pattern": {key: growth * a for key, a in config["alpha_pattern"].items()},
        }


def _factors(model: Any) -> dict[str, Any]:
    """Copy the factors of every layer out of a PEFT model, named as PEFT saves them."""
    return {
        f"{path}.{factor}.weight": getattr(layer, factor)[ADAPTER]
        .weight.detach()
        .numpy(force=True)
        .copy()
        for path, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
        for factor in ("lora_A", "lora_B")
    }
