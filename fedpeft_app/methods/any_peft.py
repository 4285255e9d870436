"""Any other method of PEFT by the name of its type ("peft:LOHA"), where it round-trips."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner

from fedpeft_app.errors import BackboneError, UnknownNameError
from fedpeft_app.methods.method import Adaptation, MethodSettings, refuse_unused
from fedpeft_app.methods.targets import find_targets, require_ranks
from fedpeft_app.methods.wrap import ADAPTER, wrap_layers
from fedpeft_app.registry import near_miss

PREFIX = "peft:"
_OWN: Mapping[str, str] = {  # PEFT's name → the method here that knows it better
    "LORA": "lora",
    "ADALORA": "adalora",
    "IA3": "ia3",
    "LN_TUNING": "ln",
    "VERA": "vera",
    "PROMPT_TUNING": "prompt",
    "PREFIX_TUNING": "prefix",
    "P_TUNING": "p-tuning",
}
_REFUSED: Mapping[str, str] = {  # what the checks below cannot see; tried with PEFT 0.21
    "POLY": "it needs to be told a task with every batch",
    "SHADOW": "its forward pass fails on the models of transformers 5",
    "ADAMSS": "it sets out from the weights' values, which are not there when a run is checked",
    "FROD": "it sets out from the weights' values, which are not there when a run is checked",
    "SHIRA": "it does not round-trip, for PEFT saves indices that the model holds as no tensor",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyPeft:
    """A method of PEFT that adapts linear layers; `method.options` are its config's arguments.

    Attributes:
        name: "peft:" and the name of PEFT's type.
        kind: The name of PEFT's type.
        learning_rate: As for LoRA.
        head_learning_rate: Likewise.
        peft: PEFT has it.
        merges: Whether PEFT's class can merge; a few refuse when they are asked to.
    """

    name: str
    kind: str
    learning_rate: float = 2e-3
    head_learning_rate: float = 1e-2
    peft: bool = True
    merges: bool = True

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Wrap the model by PEFT, and see that what trains is what PEFT saves.

        Args:
            model: A transformers model; it is changed in place.
            head: Names of the head's parameters.
            settings: Targets and layers; rank and alpha where the method's config has `r` and
                `alpha`.

        Raises:
            BackboneError: If PEFT refuses, would not save what trains, or has changed frozen
                weights.
        """
        refuse_unused(self.name, settings, "dropout")
        config = _config_class(self.name, self.kind)
        sizes = {"r": settings.rank, "alpha": settings.alpha}
        defaults = {field.name: field.default for field in dataclasses.fields(config)}
        targets = find_targets(model, head, settings)
        if defaults.get("r"):
            require_ranks(self.name, model, dict.fromkeys(targets, settings.rank))
        before = _copies(model, targets)
        wrapped = wrap_layers(
            config,
            model,
            head,
            self.name,
            settings,
            targets,
            **{
                key: value
                for key, value in sizes.items()
                if defaults.get(key)  # OFT's r is 0: not used
            },
        )
        _require_same(self.name, wrapped, before)
        _require_round_trip(self.name, wrapped)
        return Adaptation(model=wrapped, scaling=_scaling(wrapped))


def any_peft(name: str) -> AnyPeft:
    """Make the method of a name such as "peft:LOHA", in capitals or not.

    Raises:
        UnknownNameError: If PEFT has no such type, or a method here stands for it.
    """
    kind = name.removeprefix(PREFIX).upper()
    known = sorted(str(kind.value) for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
    if kind in _OWN:
        raise UnknownNameError(f"method '{name}' is built in. Use '{_OWN[kind]}'.")
    if kind not in known:
        raise UnknownNameError(
            f"unknown method '{name}'. PEFT {peft.__version__} has: {', '.join(known)}."
            f"{near_miss(kind, known)}"
        )
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[kind]
    return AnyPeft(name=f"{PREFIX}{kind}", kind=kind, merges=issubclass(tuner, BaseTuner))


def _config_class(name: str, kind: str) -> Any:
    """Give the class of the configuration, if the method can adapt chosen layers and a head."""
    config = PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    fields = {field.name for field in dataclasses.fields(config)}
    lacks = {"target_modules", "modules_to_save"} - fields
    if lacks or kind in _REFUSED:
        reason = _REFUSED.get(kind) or f"{config.__name__} takes no {min(lacks, default='')}"
        raise BackboneError(
            f"method.name = '{name}' is not for federation: {reason}. Use another method."
        )
    return config


def _scaling(wrapped: Any) -> float:
    """Give alpha / r where the configuration has both: adapters of another one do not fit."""
    config = wrapped.peft_config[ADAPTER]
    alpha, rank = getattr(config, "alpha", None), getattr(config, "r", None)
    return float(alpha) / float(rank) if alpha and rank else 1.0


def _copies(model: Any, targets: list[str]) -> dict[str, torch.Tensor]:
    """Copy the weights of the layers that PEFT is going to wrap."""
    return {
        f"{target}.{name}": value.detach().clone()
        for target in targets
        for name, value in model.get_submodule(target).named_parameters()
    }


def _require_same(name: str, wrapped: Any, before: Mapping[str, torch.Tensor]) -> None:
    """Refuse a method that rewrites what is frozen."""
    layers = dict(wrapped.get_base_model().named_parameters())
    for path, value in before.items():
        layer, _, leaf = path.rpartition(".")
        now = layers.get(f"{layer}.base_layer.{leaf}", layers.get(path))
        if now is None or (not now.is_meta and not torch.equal(now, value)):
            raise BackboneError(
                f"method.name = '{name}' rewrites the frozen '{path}', which every node would "
                f"have to do alike and an exported adapter would not carry. Use 'pissa' or 'lora'."
            )


def _require_round_trip(name: str, wrapped: Any) -> None:
    """Refuse a method whose saved form lacks, renames or reshapes something that trains."""
    parameters = {_bare(path): value for path, value in wrapped.named_parameters()}
    buffers = {_bare(path): value for path, value in wrapped.named_buffers()}
    trained = {path: value for path, value in parameters.items() if value.requires_grad}
    saved = peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    entries = {_bare(path): value for path, value in saved.items()}
    lost = [
        p for p, value in trained.items() if p not in entries or entries[p].shape != value.shape
    ]
    strange = [path for path in entries if path not in parameters | buffers]
    problems = [
        *(f"saves no '{path}' as it is trained" for path in lost[:1]),
        *(f"saves '{path}', which the model does not hold" for path in strange[:1]),
        *["saves two tensors under one name"][: len(saved) - len(entries)],
    ]
    if problems:
        raise BackboneError(
            f"method.name = '{name}' does not round-trip: PEFT {peft.__version__} "
            f"{' and '.join(problems)}. What federates must come back as it was saved. "
            f"Use another method."
        )


def _bare(name: str) -> str:
    """Drop what PEFT adds to names in a model and leaves out in a file."""
    return f"{name}.".replace(".modules_to_save.", ".").replace(f".{ADAPTER}.", ".").strip(".")
