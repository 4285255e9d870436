"""A model made adaptable, with strict doors for its trainable tensors.

The tensors that travel are exactly the parameters with `requires_grad`, by name: PEFT's
own state dict adds frozen tensors, duplicates some, drops others and tolerates wrong keys.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.backbone.load import Backbone
from fedpeft_app.errors import AdapterMismatchError
from fedpeft_app.methods.method import Adaptation, Method, MethodSettings
from fedpeft_app.seeds import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedModel:
    """A model whose trainable tensors can be read out and poured in.

    Attributes:
        model: The torch module.
        method: The method that made it.
        backbone: The model before the method, sharing its frozen weights.
        spec: What travels.
        trainable: The trainable parameters, in the order of the spec.
        initial: Their values before any training: a model that is kept is trained again and
            again, so what it holds now says nothing about the start.
    """

    model: Any
    method: Method
    backbone: Backbone
    spec: AdapterSpec
    trainable: tuple[torch.nn.Parameter, ...]
    initial: AdapterState

    def read(self) -> AdapterState:
        """Copy the trainable tensors out of the model."""
        return _read(self.spec, self.trainable)

    def pour(self, state: AdapterState) -> None:
        """Copy a state into the model, in place.

        Args:
            state: What `read` of a model with the same spec gave, or a mean of such.

        Raises:
            AdapterMismatchError: If the state belongs to another adapter.
        """
        if state.spec.fingerprint != self.spec.fingerprint:
            raise AdapterMismatchError(
                f"This state is for adapter {state.spec.fingerprint} ({state.spec.method}), "
                f"the model has {self.spec.fingerprint} ({self.spec.method}). Both sides need "
                f"the same model, method settings, labels and library versions."
            )
        flat = torch.from_numpy(state.vector.copy())  # what came off the wire is read-only
        parts = torch.split(flat, [tensor.size for tensor in self.spec.tensors])
        with torch.no_grad():
            for parameter, part in zip(self.trainable, parts, strict=True):
                parameter.copy_(part.view_as(parameter))


def adapt(backbone: Backbone, method: Method, settings: MethodSettings, seed: int) -> AdaptedModel:
    """Make a freshly loaded model adaptable.

    Args:
        backbone: The loaded model; it is changed in place.
        method: The method.
        settings: Its settings.
        seed: Seeds fresh adapter weights.

    Returns:
        The model with a spec of what travels; its trainable tensors are float32.

    Raises:
        BackboneError: If the method does not fit the model.
        AdapterMismatchError: If a head parameter would not be trained.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "adapter"))
        adaptation = method.adapt(backbone.model, backbone.head, settings)
    trainable = {
        name: parameter
        for name, parameter in adaptation.model.named_parameters()
        if parameter.requires_grad
    }
    for parameter in trainable.values():
        parameter.data = parameter.data.float()  # adapters are float32 on any base
    _widen_head_inputs(adaptation.model, backbone.head)
    spec = _spec(backbone, method.name, adaptation, trainable)
    parameters = tuple(trainable.values())
    return AdaptedModel(
        model=adaptation.model,
        method=method,
        backbone=backbone,
        spec=spec,
        trainable=parameters,
        initial=_read(spec, parameters),
    )


def _read(spec: AdapterSpec, parameters: Iterable[torch.nn.Parameter]) -> AdapterState:
    """Copy parameters into a state."""
    flat = torch.cat([parameter.detach().reshape(-1).cpu() for parameter in parameters])
    return AdapterState(spec=spec, vector=flat.numpy())


def _spec(
    backbone: Backbone,
    method: str,
    adaptation: Adaptation,
    trainable: Mapping[str, torch.nn.Parameter],
) -> AdapterSpec:
    """Describe what travels, the head all there."""
    tensors = tuple(
        TensorSpec(name=name, shape=tuple(parameter.shape), head=_plain(name) in backbone.head)
        for name, parameter in trainable.items()
    )
    _require_head(backbone, tensors)
    return AdapterSpec(
        method=method,
        backbone=backbone.located.fingerprint,
        tensors=tensors,
        ranks=adaptation.ranks,
        scaling=adaptation.scaling,
    )


def _widen_head_inputs(model: Any, head: frozenset[str]) -> None:
    """Let a float32 head take what a half-precision body gives, also without autocast."""
    if all(parameter.dtype == torch.float32 for parameter in model.parameters()):
        return
    for path, module in model.named_modules():
        own = (f"{path}.{name}" for name, _ in module.named_parameters(recurse=False))
        if any(_plain(name) in head for name in own):
            module.register_forward_pre_hook(_float_inputs)


def _float_inputs(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Turn floating-point arguments of a module into float32."""
    return tuple(
        value.float() if torch.is_tensor(value) and value.is_floating_point() else value
        for value in inputs
    )


def _plain(name: str) -> str:
    """Undo the renaming that PEFT does to a saved module's parameter."""
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default.", ".")


def _require_head(backbone: Backbone, tensors: tuple[TensorSpec, ...]) -> None:
    """Refuse an adapter that would leave part of a fresh head untrained."""
    covered = {_plain(tensor.name) for tensor in tensors if tensor.head}
    if lost := sorted(backbone.head - covered):
        raise AdapterMismatchError(
            f"These parameters have no pre-trained weights and would stay untrained: "
            f"{', '.join(lost)}."
        )
