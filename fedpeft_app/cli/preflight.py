"""What can be found out about a run before anything starts, without loading a model."""

import contextlib
import json
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpeft_app.backbone.locate import LocatedModel, locate
from fedpeft_app.backbone.positions import require_positions, require_whole_patches
from fedpeft_app.config import RunConfig
from fedpeft_app.config.schema import MethodSection, needed_precision, options
from fedpeft_app.data.read import read
from fedpeft_app.data.sources import find_source
from fedpeft_app.data_plan import (
    columns,
    criterion,
    make_task,
    shares,
    splits,
    unencoded,
)
from fedpeft_app.errors import ConfigError, Fault, FedPeftError, RunFolderError, UnknownNameError
from fedpeft_app.methods.architectures import BLOCKS
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.mirrors import cache_dir
from fedpeft_app.names import REGISTRIES
from fedpeft_app.runs.directory import runs_parent
from fedpeft_app.runs.initial import adapter_file
from fedpeft_app.strategies.catalogue import make_strategy


def preflight(config: RunConfig, nodes: int) -> LocatedModel:
    """Find the model, read the data and share it out, downloading what is missing.

    Args:
        config: A checked configuration.
        nodes: Simulated nodes.

    Returns:
        The located model.

    Raises:
        ConfigError: If a plug-in named by a path cannot be imported.
        FedPeftError: If the model has no weights, a file lacks a column, a download is
            corrupt, …; every problem found is in the message.
    """
    problems: list[FedPeftError] = []
    located: list[LocatedModel] = []
    _require_writable(runs_parent(config.output.dir), "output.dir")
    _require_writable(cache_dir(), "FEDPEFT_HOME")
    steps: tuple[Callable[[], object], ...] = (
        lambda: _import_plugins(config),
        lambda: _build_strategy(config),
        lambda: _require_gpu_for_fp16(config),
        lambda: _require_gpu_for_quantization(config),
        lambda: located.append(_fitting_model(config)),
        lambda: _require_nodes(config, nodes),
        lambda: _share_data(config, nodes, located[0] if located else None),
        lambda: _find_initial(config),
        lambda: _try_method(config, located[0] if located else None),
    )
    for step in steps:
        try:
            step()
        except FedPeftError as error:
            problems.append(error)
    if problems:
        raise _joined(problems)
    return located[0]


def _joined(problems: Sequence[FedPeftError]) -> FedPeftError:
    """Make one error of many; steps that meet the same problem tell it once."""
    told = dict.fromkeys(map(str, problems))
    if len(told) == 1:
        return problems[0]
    lines = "\n".join(textwrap.indent(text, "  ") for text in told)
    return FedPeftError(f"{len(told)} problems:\n{lines}")


def _fitting_model(config: RunConfig) -> LocatedModel:
    """Find the model, and refuse one that is not made for the task."""
    located = locate(config.model.name, config.model.revision)
    settings = json.loads((located.path / "config.json").read_text(encoding="utf-8"))
    if not _is_known_to_fit(config, settings) and config.model.pooling == "model":
        from fedpeft_app.backbone.anatomy import require_kind
        from fedpeft_app.backbone.empty import config_of

        with contextlib.suppress(UnknownNameError):  # _import_plugins says so already
            require_kind(config_of(located), make_task(config).model_kind)
    return located


def _require_writable(folder: Path, setting: str) -> None:
    """Make a folder, and refuse one that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunFolderError(
            f"Cannot write to {folder}: {error.strerror}. Set {setting}."
        ) from error


def _build_strategy(config: RunConfig) -> None:
    """Make the strategy once, so that wrong options surface now."""
    with contextlib.suppress(UnknownNameError):  # _import_plugins says so already
        make_strategy(config.strategy.name, options(config.strategy.options))


def _require_gpu_for_fp16(config: RunConfig) -> None:
    """Refuse fp16 where there is no GPU."""
    if "fp16" in (config.train.precision, needed_precision(config.model.dtype)):
        from fedpeft_app.training.precision import device, resolve_precision

        resolve_precision("fp16", device())


def _require_gpu_for_quantization(config: RunConfig) -> None:
    """Refuse 8- and 4-bit weights where there is no GPU, or no bitsandbytes."""
    if config.model.quantization != "none":
        from fedpeft_app.backbone.quantize import quantized

        quantized(config.model.quantization)


def _try_method(config: RunConfig, located: LocatedModel | None) -> None:
    """Put the method on an empty model, so that what does not fit surfaces now."""
    if located is None:
        return
    settings = json.loads((located.path / "config.json").read_text(encoding="utf-8"))
    if _is_known_to_fit(config, settings):
        require_positions(settings, config.data.max_length)
        return
    from fedpeft_app.assembly import make_method, method_settings
    from fedpeft_app.backbone.empty import config_of, empty_model
    from fedpeft_app.methods.adapted import require_head
    from fedpeft_app.methods.soft_prompts import prompt_tokens

    with contextlib.suppress(UnknownNameError):  # _import_plugins says so already
        method, kind = make_method(config), make_task(config).model_kind
        model, head = empty_model(config_of(located), kind, pooling=config.model.pooling)
        require_head(model, head, config.method.head)
        made = method.adapt(model, head, method_settings(config)).model
        if kind == "image-classification":
            require_whole_patches(model.config.to_dict(), config.data.image_size)
        else:
            require_positions(model.config.to_dict(), config.data.max_length, prompt_tokens(made))


def _is_known_to_fit(config: RunConfig, settings: Mapping[str, Any]) -> bool:
    """Say whether a method surely fits; trying it takes seconds."""
    chosen, usual = (
        section.model_dump(exclude={"name", "rank", "alpha", "dropout", "head", "init_from"})
        for section in (config.method, MethodSection())
    )
    return (
        config.task == "text-classification"
        and config.model.pooling == "model"
        and config.method.name in ("lora", "head", "full")
        and settings.get("model_type") in BLOCKS
        and "vocab_size" in settings  # a model of text
        and chosen == usual
    )


def _require_nodes(config: RunConfig, nodes: int) -> None:
    """Refuse fewer nodes than the run waits for."""
    minimum = config.strategy.min_nodes
    if config.mode != "central" and nodes < minimum:
        problem = f"the run has {nodes} nodes; use --nodes {minimum} or more, or lower this."
        raise ConfigError([Fault(key="strategy.min-nodes", value=minimum, problem=problem)])


def _share_data(config: RunConfig, nodes: int, located: LocatedModel | None) -> None:
    """Read a run's data and share it out, so that what is wrong with it is known now.

    Images must be decoded for that, and conversations written by the model's template, which
    is kept for the run. Texts to classify hide nothing, and importing torch takes seconds.
    """
    try:
        task = make_task(config)
    except UnknownNameError:  # _import_plugins says so already
        return
    criterion(config, task)
    source = find_source(config.data.name, config.data.subset)
    examples, names = read(source, columns(config), task.reads)
    train = splits(config, unencoded(examples, names)).train
    with contextlib.suppress(UnknownNameError):  # as above
        shares(config, train, nodes)
    plain = config.task == "text-classification" and config.task_options == "{}"
    if located is not None and not plain:
        from fedpeft_app.run_data import bound_task, open_data

        bound_task(config, open_data(config, config.data.name).label_names)


def _find_initial(config: RunConfig) -> None:
    """Find the adapter that a run starts from, if it starts from one."""
    if config.method.init_from:
        adapter_file(Path(config.method.init_from))


def _import_plugins(config: RunConfig) -> None:
    """Import plug-ins that are named by a path, so that typing errors surface now."""
    names = {
        "task": config.task,
        "method.name": config.method.name,
        "data.partitioner": config.data.partitioner,
        "strategy.name": config.strategy.name,
    }
    faults = []
    for key, name in names.items():
        if ":" in name:
            try:
                find_method(name) if key == "method.name" else REGISTRIES[key].get(name)
            except FedPeftError as error:
                faults.append(Fault(key=key, value=name, problem=str(error)))
    if faults:
        raise ConfigError(faults)
