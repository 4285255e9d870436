"""LoRA beside a frozen residual that the server writes: a layer computes W + s·BA + UV.

V `(ρ, in)` and U `(out, ρ)` are zero at first. Nodes never train them: they come with the state
from the server, whose strategies add there what A and B cannot hold (FedEx-LoRA: what the mean
of factors misses; FLoRA: all that was learnt so far). So every node, one that joins late
included, has the same weights without any of them being rewritten.

The residual is not multiplied by the scaling s, and no dropout lies before it: it counts as
weights do.

References:
    Singhal et al. 2024, arXiv 2410.09432 (FedEx-LoRA).
    Wang et al. 2024, arXiv 2409.05976 (FLoRA).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from peft.tuners.lora import LoraLayer

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.lora import adapt_low_rank, linear_layers
from fedpeft_app.methods.method import Adaptation, MethodSettings, Tensors, require_option
from fedpeft_app.methods.wrap import ADAPTER

_SHARE = 4  # times r: the rank of Σ p(B − B̄)(A − Ā), which the mean factors of 5 nodes miss
_V, _U = "lora_residual_A", "lora_residual_B"  # PEFT saves what is called "lora_…"
_PREFIX = "base_model.model."  # what PEFT puts before the names of the model's modules


class Residual:
    """Low-rank adaptation beside a residual; `method.options` takes `residual`, its rank ρ.

    ρ is 4·rank unless it is set. A layer's is never above its rows or columns, where UV can be
    any matrix: a number as large as the model is wide makes every sum exact.
    """

    name = "lora-residual"
    learning_rate = 2e-3  # as for LoRA
    head_learning_rate = 1e-2
    peft = True
    merges = True

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Wrap the model by PEFT, and put a residual beside the factors of every layer.

        Args:
            model: A transformers model; it is changed in place.
            head: Names of the head's parameters.
            settings: Rank, scaling, dropout, targets, layers and the option `residual`.

        Raises:
            BackboneError: If PEFT refuses, an option is unknown or no rank, or a target is an
                embedding.
        """
        rank = _chosen_rank(self.name, settings)
        made = adapt_low_rank(self.name, {}, (), model, head, replace(settings, options={}))
        for layer in linear_layers(self.name, made.model):
            _put_residual(layer, rank)
        names = (path for path, _ in made.model.named_parameters())
        carried = frozenset(path for path in names if f".{_V}." in path or f".{_U}." in path)
        return replace(made, carried=carried, restate=as_one_lora)


class BesideResidual:
    """What a layer of PEFT computes in place of plain LoRA; PEFT calls such things variants.

    Names of arguments are PEFT's: `x` is what the layer gets, `result` what the frozen one made
    of it.
    """

    @staticmethod
    def forward(
        layer: Any, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """Give Wx + s·BAx + UVx, with dropout before A alone."""
        a, b, v, u = (getattr(layer, name)[active_adapter] for name in ("lora_A", "lora_B", _V, _U))
        update = b(a(layer.lora_dropout[active_adapter](x))) * layer.scaling[active_adapter]
        residual = u(v(x))
        total: torch.Tensor = result + update + residual
        return total

    @staticmethod
    def merge_safe(layer: Any, adapter: str, weight: torch.Tensor) -> torch.Tensor:
        """Give W + s·BA + UV, stored as the layer stores weights."""
        return weight + _change(layer, adapter).to(weight.dtype)

    @staticmethod
    def merge_unsafe(layer: Any, adapter: str, weight: torch.Tensor) -> None:
        """Add s·BA + UV to the weight, in place."""
        weight.data += _change(layer, adapter).to(weight.dtype)

    @staticmethod
    def unmerge(layer: Any, adapter: str, weight: torch.Tensor) -> torch.Tensor:
        """Take s·BA + UV out of the weight again."""
        return weight - _change(layer, adapter).to(weight.dtype)


def as_one_lora(tensors: Tensors, config: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Restate factors and residual as one LoRA: s·BA + UV = s·[B, U/s]·[A; V].

    Components of the residual that are zero are left out, so ranks may differ between layers;
    where the server wrote nothing, the LoRA is the plain one.

    Args:
        tensors: What PEFT saves of a model with residuals.
        config: The content of adapter_config.json.
    """
    scaling = config["lora_alpha"] / config["r"]
    whole, ranks = dict(tensors), {}
    for name in tensors:
        if name.endswith(f".{_V}.weight"):
            path = name.removesuffix(f".{_V}.weight")
            v, u = whole.pop(name), whole.pop(f"{path}.{_U}.weight")
            used = v.any(axis=1) & u.any(axis=0)
            a, b = f"{path}.lora_A.weight", f"{path}.lora_B.weight"
            whole[a] = np.concatenate([tensors[a], v[used]])
            whole[b] = np.concatenate([tensors[b], u[:, used] / np.float32(scaling)], axis=1)
            ranks[path.removeprefix(_PREFIX)] = len(whole[a])
    return whole, {**config, **_ranked(ranks, scaling)}


def _ranked(ranks: Mapping[str, int], scaling: float) -> dict[str, Any]:
    """Write ranks into a configuration, with an alpha for each that keeps the scaling."""
    rank = max(ranks.values())
    others = {f"^{re.escape(path)}": own for path, own in ranks.items() if own != rank}
    return {
        "r": rank,
        "lora_alpha": scaling * rank,
        "rank_pattern": others,
        "alpha_pattern": {pattern: scaling * own for pattern, own in others.items()},
    }


def _chosen_rank(name: str, settings: MethodSettings) -> int:
    """Read the option `residual`."""
    require_option(name, settings.options, "residual")
    chosen = settings.options.get("residual", _SHARE * settings.rank)
    if not isinstance(chosen, int) or isinstance(chosen, bool) or chosen < 1:
        raise BackboneError(
            f"Expected residual of method.name = '{name}' to be a rank, a whole number from 1, "
            f"got {chosen!r} in method.options. A number as large as the model is wide makes "
            f"every sum exact."
        )
    return chosen


def _put_residual(layer: LoraLayer, rank: int) -> None:
    """Give a layer two factors that are zero and stay out of training."""
    inputs, outputs = layer.in_features, layer.out_features
    rank = min(rank, inputs, outputs)
    where = layer.lora_A[ADAPTER].weight.device
    for name, (width, height) in ((_V, (inputs, rank)), (_U, (rank, outputs))):
        factor = torch.nn.Linear(width, height, bias=False, device=where, dtype=torch.float32)
        torch.nn.init.zeros_(factor.weight)
        layer.add_module(name, torch.nn.ModuleDict({ADAPTER: factor.requires_grad_(False)}))
    layer.lora_variant[ADAPTER] = BesideResidual()


def _change(layer: Any, adapter: str) -> torch.Tensor:
    """Give s·BA + UV, stored as the layer stores weights."""
    residual = getattr(layer, _U)[adapter].weight @ getattr(layer, _V)[adapter].weight
    update: torch.Tensor = layer.get_delta_weight(adapter)
    change: torch.Tensor = update + (residual.T if layer.fan_in_fan_out else residual)
    return change
