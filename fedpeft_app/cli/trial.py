"""Whether method and initial adapter fit the model, tried on a model without weights."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpeft_app.adapters import AdapterSpec, TensorSpec
from fedpeft_app.backbone.locate import LocatedModel
from fedpeft_app.backbone.positions import require_positions, require_whole_patches
from fedpeft_app.cli.fits import fitted_before, remember_fit
from fedpeft_app.config import RunConfig
from fedpeft_app.config.schema import MethodSection
from fedpeft_app.data_plan import make_task
from fedpeft_app.errors import ConfigError, Fault, FedPeftError, UnknownNameError
from fedpeft_app.methods.architectures import BLOCKS
from fedpeft_app.runs.initial import adapter_file, peft_key, require_fitting

if TYPE_CHECKING:
    from fedpeft_app.methods.method import Adaptation


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What was found out on a model without weights.

    Attributes:
        spec: What travels; its backbone is not known yet.
        parameters: Of the whole model, head included, without what the method adds.
        personal: Whether nodes keep parameters of their own.
    """

    spec: AdapterSpec
    parameters: int
    personal: bool


@contextlib.contextmanager
def blamed(key: str, value: str) -> Iterator[None]:
    """Name the key whose value is at fault.

    Args:
        key: The dotted key.
        value: Its value.

    Raises:
        ConfigError: In place of any error of ours.
    """
    try:
        yield
    except FedPeftError as error:
        raise ConfigError([Fault(key=key, value=value, problem=str(error))]) from error


def try_method(config: RunConfig, located: LocatedModel | None) -> None:
    """Put the method on an empty model, so that what does not fit surfaces now.

    Args:
        config: A checked configuration.
        located: Its model; None where there is none, and so nothing to try.

    Raises:
        FedPeftError: If it does not fit.
    """
    if located is None:
        return
    model = json.loads((located.path / "config.json").read_text(encoding="utf-8"))
    if fitted_before(config, model):
        return
    if _fits_surely(config, model):
        require_positions(model, config.data.max_length)
        return
    from fedpeft_app.backbone.empty import config_of
    from fedpeft_app.methods.soft_prompts import prompt_tokens

    with contextlib.suppress(UnknownNameError):  # preflight says so already
        kind = make_task(config).model_kind
        made = _adapted_empty(config, located, labels=2).adaptation.model
        if kind == "image-classification":
            require_whole_patches(config_of(located).to_dict(), config.data.image_size)
        else:
            settings = config_of(located).to_dict()
            require_positions(settings, config.data.max_length, prompt_tokens(made))
        remember_fit(config, model)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Empty:
    """A model without weights that has been adapted.

    Attributes:
        adaptation: What the method made of it.
        head: Names of its head's parameters.
        parameters: How many it had before.
    """

    adaptation: "Adaptation"
    head: frozenset[str]
    parameters: int


def _adapted_empty(config: RunConfig, located: LocatedModel, labels: int) -> _Empty:
    """Put the method on a model without weights."""
    from fedpeft_app.assembly import make_method, method_settings
    from fedpeft_app.backbone.empty import config_of, empty_model
    from fedpeft_app.methods.adapted import require_head

    model, head = empty_model(
        config_of(located),
        make_task(config).model_kind,
        labels=labels,
        pooling=config.model.pooling,
        dtype=config.model.dtype,
        gradient_checkpointing=config.train.gradient_checkpointing,
    )
    require_head(model, head, config.method.head)
    parameters = sum(value.numel() for value in model.parameters())
    adaptation = make_method(config).adapt(model, head, method_settings(config))
    return _Empty(adaptation=adaptation, head=head, parameters=parameters)


def is_known_to_fit(config: RunConfig, model: Mapping[str, Any]) -> bool:
    """Say whether a method need not be tried, which takes seconds.

    Args:
        config: A checked configuration.
        model: The model's config.json.
    """
    return _fits_surely(config, model) or fitted_before(config, model)


def _fits_surely(config: RunConfig, model: Mapping[str, Any]) -> bool:
    """Say whether a method fits by what it is."""
    chosen, usual = (
        section.model_dump(exclude={"name", "rank", "alpha", "dropout", "head", "init_from"})
        for section in (config.method, MethodSection())
    )
    return (
        config.task == "text-classification"
        and config.model.pooling == "model"
        and config.method.name in ("lora", "head", "full")
        and config.method.rank <= 64  # no layer of a pre-trained model is narrower
        and model.get("model_type") in BLOCKS
        and "vocab_size" in model  # a model of text
        and chosen == usual
        and config.model.dtype == "float32"
        and not config.train.gradient_checkpointing
    )


def try_initial(config: RunConfig, located: LocatedModel | None) -> None:
    """Find the adapter that a run starts from, if it starts from one, and see whether it fits.

    Args:
        config: A checked configuration.
        located: Its model; None where there is none, and so nothing to fit.

    Raises:
        FedPeftError: If there is none, or it is for another method, rank, model or labels.
    """
    if not config.method.init_from:
        return
    folder = Path(config.method.init_from)
    with blamed("method.init-from", config.method.init_from):
        adapter_file(folder)
    if located is None:
        return
    from fedpeft_app.run_data import open_data

    with contextlib.suppress(UnknownNameError):  # preflight says so already
        labels = open_data(config, config.data.name).label_names
        spec = _spec_of(config, _adapted_empty(config, located, labels=len(labels)))
        with blamed("method.init-from", config.method.init_from):
            require_fitting(folder, spec, labels)


def tried_spec(config: RunConfig, located: LocatedModel, labels: int = 2) -> AdapterSpec:
    """Describe what would travel; arguments as for `tried`."""
    return tried(config, located, labels).spec


def tried(config: RunConfig, located: LocatedModel, labels: int) -> Tried:
    """Put the method on the model without weights, and look.

    Args:
        config: A checked configuration.
        located: Its model.
        labels: Outputs of a classifier's head.

    Raises:
        FedPeftError: If the method does not fit the model.
    """
    empty = _adapted_empty(config, located, labels=labels)
    own_head = config.method.head == "personal" and bool(empty.head)
    return Tried(
        spec=_spec_of(config, empty),
        parameters=empty.parameters,
        personal=own_head or bool(empty.adaptation.personal),
    )


def try_examples_apart(config: RunConfig, nodes: int) -> None:
    """Compute gradients of single examples as a node does at the roll call, and let the model go.

    Args:
        config: A checked configuration whose data can be shared out.
        nodes: Simulated nodes.

    Raises:
        PrivacyError: If nothing gives right ones; says which tensor is off.
        FedPeftError: If the model cannot be loaded.
    """
    from fedpeft_app.assembly import forget_models, make_worker

    try:
        make_worker(config, {"partition-id": 0, "num-partitions": nodes}).require_sound_privacy()
    finally:
        forget_models()  # Ray's actors are about to load models of their own


def _spec_of(config: RunConfig, empty: _Empty) -> AdapterSpec:
    """Describe what would travel of an adapted model without weights."""
    adaptation = empty.adaptation
    stays = tuple(empty.head) if config.method.head != "train" else ()
    tensors = [
        TensorSpec(name=name, shape=tuple(value.shape), frozen=name in adaptation.carried)
        for name, value in adaptation.model.named_parameters()
        if (value.requires_grad or name in adaptation.carried)
        and name not in adaptation.personal
        and not peft_key(name).endswith(stays)
    ]
    return AdapterSpec(
        method=config.method.name,
        backbone="",
        tensors=tuple(tensors),
        ranks=adaptation.ranks,
        scaling=adaptation.scaling,
    )
