"""A model made adaptable, with strict doors for its trainable tensors.

The tensors that travel are exactly parameters with `requires_grad` that no node keeps for itself,
and those that the method says the server writes, by name: PEFT's own state dict adds frozen
tensors, duplicates some, drops others and tolerates wrong keys.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.backbone.load import Backbone
from fedpeft_app.errors import AdapterMismatchError, BackboneError
from fedpeft_app.methods.method import Adaptation, Method, MethodSettings
from fedpeft_app.seeds import derive_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some of a model's own tensors, which can be read out and poured in together.

    Attributes:
        spec: What they are.
        parameters: The model's own parameters, in the order of the spec.
        initial: Their values before any training: a model that is kept is trained again and
            again, so what it holds now says nothing about the start.
    """

    spec: AdapterSpec
    parameters: tuple[torch.nn.Parameter, ...]
    initial: AdapterState

    def read(self) -> AdapterState:
        """Copy the tensors out of the model."""
        return _read(self.spec, self.parameters)

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
            for parameter, part in zip(self.parameters, parts, strict=True):
                parameter.copy_(part.view_as(parameter))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedModel:
    """A model whose own tensors are known: those that travel, and those that stay.

    Attributes:
        model: The torch module.
        method: The method that made it.
        adaptation: What the method says of it.
        backbone: The model before the method, sharing its frozen weights.
        shared: What travels: what is trained and sent, and what the server alone writes.
        personal: What is trained but stays on its node; often nothing.
        drawn: The random tensors that never train (a frozen head, the projections of VeRA), by
            name: every node must have the same.
    """

    model: Any
    method: Method
    adaptation: Adaptation
    backbone: Backbone
    shared: Part
    personal: Part
    drawn: Mapping[str, torch.Tensor]

    @property
    def spec(self) -> AdapterSpec:
        """What travels."""
        return self.shared.spec

    @property
    def initial(self) -> AdapterState:
        """What travels, before any training."""
        return self.shared.initial

    @property
    def trainable(self) -> tuple[torch.nn.Parameter, ...]:
        """Every parameter that trains, in the order of `tensors`."""
        return tuple(value for value, _ in self._trained())

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """What trains, that which travels first."""
        return tuple(tensor for _, tensor in self._trained())

    @property
    def frozen(self) -> str:
        """Sixteen hex digits over what is drawn; empty if nothing is."""
        if not self.drawn:
            return ""
        digest = hashlib.sha256()
        for name, tensor in self.drawn.items():
            digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def read(self) -> AdapterState:
        """Copy out what travels."""
        return self.shared.read()

    def pour(self, state: AdapterState) -> None:
        """Copy in what travels; raises as `Part.pour` does."""
        self.shared.pour(state)

    def _trained(self) -> Iterator[tuple[torch.nn.Parameter, TensorSpec]]:
        """Walk over what trains, and leave out what the server alone writes."""
        for part in (self.shared, self.personal):
            for value, tensor in zip(part.parameters, part.spec.tensors, strict=True):
                if not tensor.frozen:
                    yield value, tensor


def adapt(
    backbone: Backbone, method: Method, settings: MethodSettings, seed: int, head: str = "train"
) -> AdaptedModel:
    """Make a freshly loaded model adaptable.

    Args:
        backbone: The loaded model; it is changed in place.
        method: The method.
        settings: Its settings.
        seed: Seeds fresh adapter weights.
        head: "train" (trained and sent), "frozen" (stays as it was drawn), or "personal"
            (trained, never sent).

    Returns:
        The model with a spec of what travels; its trainable tensors are float32.

    Raises:
        BackboneError: If the method does not fit the model, or nothing would travel.
        AdapterMismatchError: If a head parameter would be lost.
    """
    require_head(backbone.model, backbone.head, head)
    original = _ids(tensor for _, tensor in _tensors(backbone.model))  # names may change
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "adapter"))
        adaptation = method.adapt(backbone.model, backbone.head, settings)
    trainable = _trainable(adaptation.model, backbone.head, head)
    _require_frozen(method.name, adaptation)
    _widen_head_inputs(adaptation.model, backbone.head)
    shared, personal = (
        _part(backbone, method.name, adaptation, parameters)
        for parameters in _shared_and_personal(adaptation, trainable, backbone.head, head)
    )
    if all(tensor.frozen for tensor in shared.spec.tensors):
        raise BackboneError(
            f"method.name = '{method.name}' with method.head = '{head}' leaves nothing to send. "
            f"Train the head, or use a method that adds to the body."
        )
    return AdaptedModel(
        model=adaptation.model,
        method=method,
        adaptation=adaptation,
        backbone=backbone,
        shared=shared,
        personal=personal,
        drawn=_drawn(adaptation.model, original | _ids(shared.parameters), backbone.head),
    )


def require_head(model: Any, head: frozenset[str], policy: str) -> None:
    """Refuse a policy for a head where there is none.

    Args:
        model: A transformers model.
        head: Names of its head's parameters.
        policy: "train", which fits all, "frozen" or "personal".

    Raises:
        BackboneError: If the model has no fresh head.
    """
    if policy != "train" and not head:
        raise BackboneError(
            f"method.head = '{policy}' speaks of a fresh head, but every parameter of "
            f"{type(model).__name__} is pre-trained. Use 'train'."
        )


def _trainable(model: Any, head: frozenset[str], policy: str) -> dict[str, torch.nn.Parameter]:
    """Apply the head's policy, and give all that trains, float32 on any base."""
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    if lost := sorted(head - {_plain(name) for name in trained}):
        raise AdapterMismatchError(
            f"These parameters have no pre-trained weights and would stay untrained: "
            f"{', '.join(lost)}."
        )
    for name, parameter in list(trained.items()):
        parameter.data = parameter.data.float()
        if policy == "frozen" and _plain(name) in head:
            parameter.requires_grad_(False)
            del trained[name]
    return trained


def _require_frozen(method: str, adaptation: Adaptation) -> None:
    """Refuse a method that would have nodes train what the server alone writes."""
    frozen = {n for n, value in adaptation.model.named_parameters() if not value.requires_grad}
    if strange := sorted(adaptation.carried - frozen):
        raise AdapterMismatchError(
            f"Expected parameters that do not train among what method.name = '{method}' has the "
            f"server write, got '{strange[0]}'. Correct the method."
        )


def _shared_and_personal(
    adaptation: Adaptation,
    trainable: Mapping[str, torch.nn.Parameter],
    head: frozenset[str],
    policy: str,
) -> tuple[dict[str, torch.nn.Parameter], dict[str, torch.nn.Parameter]]:
    """Divide what is the adapter's into what travels and what stays, in the model's order."""
    stays = {name for name in trainable if policy == "personal" and _plain(name) in head}
    stays |= adaptation.personal & trainable.keys()
    travels = (trainable.keys() | adaptation.carried) - stays
    parameters = dict(adaptation.model.named_parameters())
    return (
        {name: value for name, value in parameters.items() if name in travels},
        {name: value for name, value in parameters.items() if name in stays},
    )


def _part(
    backbone: Backbone,
    method: str,
    adaptation: Adaptation,
    parameters: Mapping[str, torch.nn.Parameter],
) -> Part:
    """Describe parameters and keep their first values."""
    spec = AdapterSpec(
        method=method,
        backbone=backbone.located.fingerprint,
        tensors=tuple(
            TensorSpec(
                name=name,
                shape=tuple(value.shape),
                head=_plain(name) in backbone.head,
                frozen=name in adaptation.carried,
            )
            for name, value in parameters.items()
        ),
        ranks=adaptation.ranks,
        scaling=adaptation.scaling,
    )
    values = tuple(parameters.values())
    return Part(spec=spec, parameters=values, initial=_read(spec, values))


def _read(spec: AdapterSpec, parameters: tuple[torch.nn.Parameter, ...]) -> AdapterState:
    """Copy parameters into a state."""
    pieces = [torch.zeros(0), *(value.detach().reshape(-1).cpu() for value in parameters)]
    return AdapterState(spec=spec, vector=torch.cat(pieces).numpy())


def _tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Walk over parameters and buffers, by every name that they have."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _ids(tensors: Iterable[torch.Tensor]) -> set[int]:
    """Tell tensors apart by what they are, whatever they are called."""
    return {id(tensor) for tensor in tensors}


def _drawn(model: Any, known: set[int], head: frozenset[str]) -> dict[str, torch.Tensor]:
    """Collect what nodes have from neither checkpoint nor server: it was drawn on this machine.

    What trains, and so comes from the server or was drawn to train, is not meant.
    """
    return {
        name: tensor
        for name, tensor in _tensors(model)
        if not tensor.requires_grad
        and ".original_module." not in name
        and (_plain(name) in head or id(tensor) not in known)
    }


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
    """Undo the renaming that PEFT does to the parameters of the model it wraps."""
    name = name.removeprefix("base_model.model.").removeprefix("base_model.")
    return name.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")
