"""What can be found out about a run before anything starts.

No model is loaded, except where each example is to be protected: what is sound depends on it.
"""

import contextlib
import json
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from fedpeft_app.adapters import AdapterSpec
from fedpeft_app.backbone.locate import LocatedModel, locate
from fedpeft_app.cli.trial import (
    blamed,
    is_known_to_fit,
    tried_spec,
    try_examples_apart,
    try_initial,
    try_method,
)
from fedpeft_app.config import RunConfig, flatten
from fedpeft_app.config.readings import needed_precision, options, planned_ranks
from fedpeft_app.data.encoded import EncodedSource
from fedpeft_app.data.read import read
from fedpeft_app.data.sources import find_source
from fedpeft_app.data_plan import (
    columns,
    criterion,
    make_task,
    require_held_out,
    shares,
    splits,
    unencoded,
)
from fedpeft_app.errors import (
    ConfigError,
    Fault,
    FedPeftError,
    QuorumError,
    RunFolderError,
    UnknownNameError,
)
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.mirrors import cache_dir
from fedpeft_app.names import REGISTRIES
from fedpeft_app.observing import make_observers
from fedpeft_app.runs.directory import runs_parent
from fedpeft_app.strategies.catalogue import STRATEGIES, make_strategy, require_one_mean
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.flower import FlowerAdapter
from fedpeft_app.strategies.sampling import cohort_size
from fedpeft_app.strategies.strategy import Member

_RESIDUAL_WRITERS = {"fedex", "flora"}
_ANY = AdapterSpec(method="any", backbone="", tensors=(), ranks={})
_NOT_LOOKED_AT = (
    "seed",
    "rounds",
    "evaluate.every",
    "evaluate.test",
    "evaluate.batch-size",
    "evaluate.personal-steps",
    "strategy.dropout",
    "strategy.over-selection",
    "strategy.round-timeout",
    "strategy.retries",
    "strategy.quarantine-after",
    "strategy.norm-bound",
    "wire.uplink",
    "wire.downlink",
    "wire.feedback",
    "budget.uplink-mib",
    "budget.minutes",
    "budget.patience",
    "output.keep",
    "output.name",
)
_DECIDES_NOISE = (
    *("rounds", "train.batch-size", "train.gradient-accumulation"),
    *("train.local-epochs", "train.max-steps"),
)


def preflight(config: RunConfig, nodes: int) -> LocatedModel:
    """Find the model, read the data and share it out, downloading what is missing.

    Args:
        config: A checked configuration.
        nodes: Simulated nodes.

    Returns:
        The located model.

    Raises:
        ConfigError: If all that is wrong can be blamed on keys: a plug-in that cannot be
            imported, a model that is not there, …
        FedPeftError: If a file lacks a column, a method does not fit, a download is corrupt, …;
            every problem found is in the message.
    """
    located, problems = _look(config, nodes)
    if located is None or problems:
        raise _joined([error for _, error in problems])
    return located


def preflight_faults(config: RunConfig, nodes: int) -> list[Fault]:
    """List what `preflight` would raise, every problem under a key.

    Args:
        config: A checked configuration.
        nodes: Simulated nodes.
    """
    _, problems = _look(config, nodes)
    faults: list[Fault] = []
    for key, error in problems:
        if isinstance(error, ConfigError):
            faults += error.faults
        else:
            value = flatten(config)[key]
            problem = str(error).removeprefix(f"{key} = {value!r} ")
            faults.append(Fault(key=key, value=value, problem=problem))
    return faults


def is_looked_at(key: str, *, private: bool = False) -> bool:
    """Say whether `preflight` may find another problem when a key has another value.

    Args:
        key: A dotted key of the configuration. The seed, which decides who gets which examples,
            does not count.
        private: Whether the run is, so that noise depends on how long it trains.
    """
    if private and key in _DECIDES_NOISE:
        return True
    if key.startswith("train."):
        return key in ("train.precision", "train.gradient-checkpointing")
    return key not in _NOT_LOOKED_AT


def require_writable(folder: Path, setting: str) -> None:
    """Make a folder, and refuse one that cannot be written.

    Args:
        folder: The folder.
        setting: What it was chosen by.

    Raises:
        RunFolderError: If nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunFolderError(
            f"Cannot write to {folder}: {error.strerror}. Set {setting}."
        ) from error


def _look(
    config: RunConfig, nodes: int
) -> tuple[LocatedModel | None, list[tuple[str, FedPeftError]]]:
    """Take every step; collect problems, each with the key that the step is about."""
    problems: list[tuple[str, FedPeftError]] = []
    located: list[LocatedModel] = []

    def model() -> LocatedModel | None:
        return located[0] if located else None

    require_writable(cache_dir(), "FEDPEFT_HOME")
    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("output.dir", lambda: require_writable(runs_parent(config.output.dir), "output.dir")),
        ("task", lambda: _import_plugins(config)),
        ("observe.to", lambda: make_observers(config)),
        ("train.precision", lambda: _require_gpu_for_fp16(config)),
        ("model.quantization", lambda: _require_gpu_for_quantization(config)),
        ("model.name", lambda: located.append(_fitting_model(config))),
        ("strategy.min-nodes", lambda: _require_nodes(config, nodes)),
        ("data.name", lambda: _share_data(config, nodes, model())),
        ("method.name", lambda: try_method(config, model())),
        ("strategy.name", lambda: _try_strategy(config, nodes, model())),
        ("method.init-from", lambda: try_initial(config, model())),
        ("privacy.mode", lambda: _try_privacy(config, nodes, sound=not problems)),
    )
    for key, step in steps:
        try:
            step()
        except FedPeftError as error:
            problems.append((key, error))
    return model(), problems


def _joined(problems: Sequence[FedPeftError]) -> FedPeftError:
    """Make one error of many; steps that meet the same problem tell it once."""
    if all(isinstance(error, ConfigError) for error in problems):
        found = [
            fault for error in problems if isinstance(error, ConfigError) for fault in error.faults
        ]
        return ConfigError(list({str(fault): fault for fault in found}.values()))
    told = dict.fromkeys(text for error in problems for text in _texts(error))
    if len(told) == 1:
        return problems[0]
    lines = "\n".join(textwrap.indent(text, "  ") for text in told)
    return FedPeftError(f"{len(told)} problems:\n{lines}")


def _texts(error: FedPeftError) -> list[str]:
    """Write an error, or each of its faults."""
    return list(map(str, error.faults)) if isinstance(error, ConfigError) else [str(error)]


def _fitting_model(config: RunConfig) -> LocatedModel:
    """Find the model, and refuse one that is not made for the task."""
    with blamed("model.name", config.model.name):
        located = locate(config.model.name, config.model.revision)
    settings = json.loads((located.path / "config.json").read_text(encoding="utf-8"))
    if not is_known_to_fit(config, settings) and config.model.pooling == "model":
        from fedpeft_app.backbone.anatomy import require_kind
        from fedpeft_app.backbone.empty import config_of

        with contextlib.suppress(UnknownNameError):  # _import_plugins says so already
            require_kind(config_of(located), make_task(config).model_kind)
    return located


def _try_strategy(config: RunConfig, nodes: int, located: LocatedModel | None) -> None:
    """Show the strategy the adapter and ranks, so that what it cannot fold surfaces now.

    Most strategies fold any adapter, and putting one on a model without weights takes seconds.
    """
    with contextlib.suppress(UnknownNameError):  # _import_plugins says so already
        strategy = make_strategy(config.strategy.name, options(config.strategy.options))
        if config.mode != "federated":
            return  # a baseline has its own
        if config.privacy.mode == "user":
            require_one_mean(config.strategy.name, strategy)
        _require_written_residuals(config)
        ranks = planned_ranks(config.method.node_ranks, config.method.rank)
        members = [
            Member(node_id=node, partition=node, examples=1, rank=rank % config.method.rank)
            for node, rank in enumerate(ranks)
        ]
        if isinstance(strategy, Composition | FlowerAdapter):
            strategy.prepare(_ANY, members)
            if isinstance(strategy, Composition):
                _require_enough_replies(config, nodes, strategy)
        elif located is not None:
            strategy.prepare(tried_spec(config, located), members)


def _require_enough_replies(config: RunConfig, nodes: int, strategy: Composition) -> None:
    """Refuse a cohort of which the aggregator could make nothing though everyone replied."""
    chosen = config.strategy
    size = cohort_size(nodes, fraction=chosen.fraction_train, minimum=chosen.min_replies)
    try:
        strategy.rehearse(size)
    except QuorumError as error:
        problem = f"asks {size} of {nodes} nodes. {error}"
        fault = Fault(key="strategy.fraction-train", value=chosen.fraction_train, problem=problem)
        raise ConfigError([fault]) from error


def _require_written_residuals(config: RunConfig) -> None:
    """Refuse residuals that travel in every order, and into which nobody writes."""
    name = config.strategy.name
    idle = name in STRATEGIES.builtin and name not in _RESIDUAL_WRITERS
    if config.method.name == "lora-residual" and idle:
        problem = (
            f"strategy.name = '{name}' writes nothing into its residuals. Use "
            f"{' or '.join(sorted(_RESIDUAL_WRITERS))}, or method.name = 'lora'."
        )
        raise ConfigError([Fault(key="method.name", value="lora-residual", problem=problem)])


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
    _try_shares(config, unencoded(examples, names), nodes)
    plain = config.task == "text-classification" and config.task_options == "{}"
    if located is not None and not plain:
        from fedpeft_app.run_data import bound_task, open_data

        data = open_data(config, config.data.name)
        bound_task(config, data.label_names)
        _try_shares(config, data, nodes)  # answers that are too long have been left out


def _try_shares(config: RunConfig, data: EncodedSource, nodes: int) -> None:
    """Share data out among nodes, for each to train on and, if nodes evaluate, to judge on."""
    with contextlib.suppress(UnknownNameError):  # _import_plugins says so already
        require_held_out(config, shares(config, splits(config, data).train, nodes))


def node_sizes(config: RunConfig, nodes: int) -> list[int]:
    """Count the training examples of each node.

    Args:
        config: A configuration that passed `preflight`.
        nodes: Simulated nodes.
    """
    from fedpeft_app.run_data import node_data

    count = 1 if config.mode == "central" else nodes
    places = [{"partition-id": node, "num-partitions": count} for node in range(count)]
    return [len(node_data(config, place).train) for place in places]


def _try_privacy(config: RunConfig, nodes: int, *, sound: bool) -> None:
    """Refuse what nodes or server would: a δ, noise or method with which they promise nothing.

    Only of a configuration that is sound otherwise: its data and its model are needed.
    """
    if config.privacy.mode == "none" or not sound:
        return
    from fedpeft_app.forecast.privacy import forecast

    forecast(config, 1, node_sizes(config, nodes))
    if config.privacy.mode == "sample":
        with blamed("method.name", config.method.name):
            try_examples_apart(config, nodes)


def _import_plugins(config: RunConfig) -> None:
    """Import plug-ins that are no built-ins, so that typing errors surface now."""
    flat, faults = flatten(config), []
    for key, registry in REGISTRIES.items():
        name = str(flat[key])
        if name not in registry.builtin:
            try:
                find_method(name) if key == "method.name" else registry.get(name)
            except FedPeftError as error:
                faults.append(Fault(key=key, value=name, problem=str(error)))
    if faults:
        raise ConfigError(faults)
