"""How a run's data is read, split and shared out, from labels alone; imports nothing heavy."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedpeft_app.config import RunConfig
from fedpeft_app.config.arguments import typed
from fedpeft_app.config.readings import options
from fedpeft_app.criterion import Criterion
from fedpeft_app.data.columns import Columns
from fedpeft_app.data.encoded import EncodedSource, ExampleSet, example_set
from fedpeft_app.data.examples import Examples
from fedpeft_app.data.partition import PartitionSettings, kept_partition
from fedpeft_app.data.splits import Splits, SplitSettings, make_splits
from fedpeft_app.data.tasks.catalogue import TASKS
from fedpeft_app.data.tasks.task import Task
from fedpeft_app.errors import ConfigError, DataError, Fault
from fedpeft_app.mirrors.digest import file_sha256
from fedpeft_app.registry import near_miss


def make_task(config: RunConfig) -> Task:
    """Make the run's task, not yet bound to its model.

    Raises:
        UnknownNameError: If there is no such task.
        ConfigError: If `task.options` does not suit it.
    """
    factory = TASKS.get(config.task)
    given = options(config.task_options)
    problem = _unknown_options(factory, config.task, given)
    if not problem:
        try:
            task: Task = factory(**typed(factory, given))
        except (TypeError, ValueError) as error:
            problem = f"{error}."
        else:
            return task
    raise ConfigError([Fault(key="task.options", value=config.task_options, problem=problem)])


def chosen_metric(config: RunConfig, task: Task) -> str:
    """Name the metric that chooses the best round, whether or not the task measures it."""
    return config.evaluate.select_by or task.headline


def criterion(config: RunConfig, task: Task) -> Criterion:
    """Say what chooses the best round.

    Raises:
        ConfigError: If the task does not measure it; with what it does.
    """
    chosen = chosen_metric(config, task)
    if chosen not in task.metric_names:
        problem = (
            f"{config.task} does not measure it, only: {', '.join(task.metric_names)}."
            f"{near_miss(chosen, task.metric_names)}"
        )
        raise ConfigError([Fault(key="evaluate.select-by", value=chosen, problem=problem)])
    return Criterion(metric=chosen, lower_is_better=chosen in task.lower_is_better)


def encoding(config: RunConfig, task: Task) -> list[str]:
    """Say what of a task shapes the examples that it stores.

    Args:
        config: The run's configuration.
        task: Its task.

    Returns:
        Its name, those of its options, and, as a plug-in's code may change from run to run, a
        digest of the module (not of what that imports).
    """
    given = options(config.task_options)
    chosen = {key: given[key] for key in sorted(given) if key in task.encoding_options}
    code = ""
    if config.task not in TASKS.builtin:
        code = file_sha256(Path(inspect.getfile(type(task))))
    return [config.task, json.dumps(chosen, sort_keys=True), code]


def _unknown_options(factory: Any, name: str, given: Mapping[str, Any]) -> str:
    """Name options that a task does not have, or nothing."""
    parameters = inspect.signature(factory).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return ""
    unknown = [key for key in given if key not in parameters]
    if not unknown:
        return ""
    return (
        f"unknown option '{unknown[0]}' of {name}. Known: {', '.join(parameters) or 'none'}."
        f"{near_miss(unknown[0], parameters)}"
    )


def columns(config: RunConfig) -> Columns:
    """Collect the column names a source is read with."""
    data = config.data
    natural = data.partitioner == "natural" and config.mode != "central"
    return Columns(
        text=data.text_column,
        image=data.image_column,
        prompt=data.prompt_column,
        response=data.response_column,
        messages=data.messages_column,
        label=data.label_column,
        group=data.partition_column if natural else "",
        labels=_named_labels(data.labels),
    )


def _named_labels(text: str) -> tuple[str, ...]:
    """Read label names: between commas, or a JSON list, in which a name may hold one."""
    names: object = text.split(",")
    if text.lstrip().startswith("["):
        try:
            names = json.loads(text)
        except ValueError:
            names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        problem = 'must be names between commas, or a JSON list such as ["no", "yes, but"].'
        raise ConfigError([Fault(key="data.labels", value=text, problem=problem)])
    return tuple(name.strip() for name in names if name.strip())


def unencoded(examples: Mapping[str, Examples], names: tuple[str, ...]) -> EncodedSource:
    """Stand in for an encoded source where only labels and groups matter."""
    groups = sorted({group for split in examples.values() for group in split.groups})
    splits = {
        name: replace(
            example_set([()] * len(split.inputs), split.labels),
            groups=np.searchsorted(groups, split.groups).astype(np.int64),
            group_names=tuple(groups),
        )
        for name, split in examples.items()
    }
    return EncodedSource(splits=splits, label_names=names, fingerprint="")


def splits(config: RunConfig, source: EncodedSource) -> Splits:
    """Give the run's training, validation and test examples, as every process sees them."""
    return make_splits(source, _split_settings(config), config.seed)


def _split_settings(config: RunConfig) -> SplitSettings:
    """Say how splits are made."""
    return SplitSettings(
        max_examples=config.data.max_examples,
        max_test_examples=config.data.max_test_examples,
        test_fraction=config.data.test_fraction,
        validation_fraction=config.data.validation_fraction,
        held_by_server=config.evaluate.server,
    )


def shares(config: RunConfig, train: ExampleSet, nodes: int) -> list[ExampleSet]:
    """Share the training examples out among simulated nodes.

    Args:
        config: The run's configuration.
        train: Its training examples.
        nodes: Number of nodes; the central baseline counts as one.

    Raises:
        DataError: If there are too few, or they cannot be shared out as asked.
    """
    count = 1 if config.mode == "central" else nodes
    _require_enough(config, len(train), count)
    settings = PartitionSettings(
        name=config.data.partitioner,
        dirichlet_alpha=config.data.dirichlet_alpha,
        classes_per_node=config.data.classes_per_node,
        min_examples=config.data.min_examples,
    )
    groups = train.groups[train.indices] if len(train.groups) else np.zeros(0, np.int64)
    parts = kept_partition(train.strata, groups, count, settings, config.seed)
    return [train.select(part) for part in parts]


def _require_enough(config: RunConfig, examples: int, nodes: int) -> None:
    """Refuse fewer training examples than the nodes must hold, however they are spread."""
    least = config.data.min_examples
    if nodes == 1 or examples >= nodes * least:
        return
    takers = _split_settings(config).takers
    others = f", or change what may keep others from training: {takers}" if takers else ""
    raise DataError(
        f"Expected at least {nodes * least} training examples for {nodes} nodes, each with "
        f"data.min-examples = {least}, got {examples}. Use fewer nodes, a smaller "
        f"minimum or more data{others}."
    )


def require_held_out(config: RunConfig, parts: Sequence[ExampleSet]) -> None:
    """Refuse a share to choose a round by that is no example on any node.

    Args:
        config: The run's configuration.
        parts: The examples of each node.

    Raises:
        ConfigError: If nodes evaluate, and every node's share rounds to nothing.
    """
    share = config.data.node_validation_fraction
    most = max(len(part) - round(config.data.node_test_fraction * len(part)) for part in parts)
    if config.strategy.fraction_evaluate and not round(share * most):
        problem = (
            f"of the {most} examples of the largest node, and of all others, this holds out none "
            f"to evaluate on. Set a larger share, or strategy.fraction-evaluate = 0."
        )
        key = "data.node-validation-fraction"
        raise ConfigError([Fault(key=key, value=share, problem=problem)])
