"""Let PEFT put its layers into a model, and check that it did what was asked."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import peft
from peft.tuners.tuners_utils import BaseTunerLayer

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.method import MethodSettings

ADAPTER = "default"  # the name that PEFT gives an adapter, and looks for in a folder
_BESIDE_THE_POINT = (  # what PEFT warns of and then does right
    ".*fan_in_fan_out",  # set as GPT-2's Conv1D needs it
    "Unsupported layer type",  # the sizes of a norm, which nobody asks for
    "Failed to load the CUDA extension",  # BOFT has the same in Python
    "Setting boft_n_butterfly_factor",  # with one butterfly, as is its default
)
_PREFIX = "base_model.model."  # what PEFT puts before the names of the model's modules
_TASK_TYPES = {
    "SequenceClassification": "SEQ_CLS",
    "CausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}
_SET_BY = {  # argument of a PEFT configuration → the key that sets it; method.name sets the rest
    "r": "method.rank",
    "lora_alpha": "method.alpha",
    "alpha": "method.alpha",
    "lora_dropout": "method.dropout",
    "vera_dropout": "method.dropout",
    "target_modules": "method.targets and method.layers",
    "num_virtual_tokens": "method.prompt-length",
    "modules_to_save": "method.head",
    "task_type": "task",
}


def wrap(
    make_config: Callable[..., Any],
    model: Any,
    head: frozenset[str],
    name: str,
    settings: MethodSettings,
    **arguments: Any,
) -> Any:
    """Wrap a model by PEFT; the head goes into `modules_to_save`.

    Args:
        make_config: The class of the PEFT configuration.
        model: A transformers model; it is changed in place.
        head: Names of the head's parameters.
        name: The method's, for messages.
        settings: Its `options` are further arguments of the configuration.
        arguments: What the method sets in the configuration, and options must not.

    Returns:
        The PEFT model.

    Raises:
        BackboneError: If PEFT refuses the model or the options.
    """
    arguments |= {
        "modules_to_save": head_modules(model, head) or None,
        "task_type": task_type(model),
    }
    _require_unset(settings.options, arguments, name)
    try:
        config = make_config(**arguments, **settings.options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 on transformers 5
            for message in _BESIDE_THE_POINT:
                warnings.filterwarnings("ignore", message)
            wrapped = peft.get_peft_model(model, config)
            model.disable_input_require_grads()  # as in backbone.load: PEFT asks again
            return wrapped
    except Exception as error:  # peft raises many kinds, NotImplementedError among them
        raise BackboneError(
            f"method.name = '{name}' does not fit {type(model).__name__} with method.targets = "
            f"'{settings.targets}' and method.options = {dict(settings.options)}: "
            f"{str(error).rstrip('.')}. Change them, or take another method: docs/methods.md "
            f"says which fits what."
        ) from error


def _require_unset(options: Mapping[str, Any], arguments: Mapping[str, Any], name: str) -> None:
    """Refuse options for what other keys set."""
    for key in sorted(options.keys() & arguments.keys()):
        setter = _SET_BY.get(key, f"method.name = '{name}'")
        raise BackboneError(
            f"method.options = {dict(options)} names '{key}', which is set by {setter}. "
            f"Leave it out of the options."
        )


def wrap_layers(
    make_config: Callable[..., Any],
    model: Any,
    head: frozenset[str],
    name: str,
    settings: MethodSettings,
    targets: Sequence[str],
    **arguments: Any,
) -> Any:
    """Wrap a model by PEFT, adapting exactly some of its layers.

    Args:
        make_config: The class of the PEFT configuration, which takes `target_modules`.
        model: As for `wrap`, and so on.
        head: As there.
        name: As there.
        settings: As there.
        targets: Full names of the modules to adapt.
        arguments: As there; `target_modules` is worked out where it is not among them.

    Raises:
        BackboneError: If PEFT refuses, or adapts others than these.
    """
    arguments = {"target_modules": shortest_names(model, head, targets), **arguments}
    wrapped = wrap(make_config, model, head, name, settings, **arguments)
    adapted = adapted_modules(wrapped)
    if strange := sorted(set(targets) ^ set(adapted)):
        raise BackboneError(
            f"Expected PEFT to adapt {len(targets)} modules of {type(model).__name__}, it adapted "
            f"{len(adapted)}; '{strange[0]}' is one of those that differ. Choose modules by "
            f"method.targets and method.layers, not by method.options."
        )
    return wrapped


def adapted_modules(wrapped: Any) -> list[str]:
    """List the modules that PEFT adapted, by their names in the model as it was."""
    return [
        name.removeprefix(_PREFIX)
        for name, module in wrapped.named_modules()
        if isinstance(module, BaseTunerLayer)
    ]


def task_type(model: Any) -> str | None:
    """Tell PEFT what a model is for; it has no task type for images."""
    if takes_images(model):
        return None
    return next(
        (task for ending, task in _TASK_TYPES.items() if type(model).__name__.endswith(ending)),
        None,
    )


def takes_images(model: Any) -> bool:
    """Say whether a model's input is an image."""
    body = getattr(model, model.base_model_prefix, model)
    return bool(getattr(body, "main_input_name", "input_ids") == "pixel_values")


def head_modules(model: Any, head: frozenset[str]) -> list[str]:
    """Name the outermost modules whose parameters all belong to the head.

    Args:
        model: A transformers model.
        head: Names of the head's parameters.

    Returns:
        Sorted module names for PEFT's `modules_to_save`.
    """
    rest = [name for name, _ in model.named_parameters() if name not in head]
    found = set()
    for name in head:
        parts = name.split(".")[:-1]
        paths = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
        whole = (path for path in paths if not any(r.startswith(f"{path}.") for r in rest))
        found.add(next(whole, paths[-1]))  # a fresh tensor among old ones: they train with it
    return sorted(found)


def shortest_names(model: Any, head: frozenset[str], targets: Sequence[str]) -> list[str]:
    """Name modules by their last names, where those fit no other module.

    PEFT takes every module whose name ends with a target: in BERT "output.dense" is the MLP's
    and the attention's last layer alike, so such modules need their full names.

    Args:
        model: A transformers model.
        head: Names of the head's parameters; PEFT never adapts what it saves as a whole.
        targets: Full names.

    Returns:
        Sorted names for PEFT's `target_modules`.
    """
    saved = tuple(f"{module}." for module in head_modules(model, head))
    last = {name.rpartition(".")[2] for name in targets}
    fitting = {
        name
        for name, _ in model.named_modules()
        if name.rpartition(".")[2] in last and not f"{name}.".startswith(saved)
    }
    return sorted(last if fitting == set(targets) else targets)
