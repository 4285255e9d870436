"""The one place where names in the configuration become objects.

What is expensive (backbone, tokenizer, tokenised data) is made once per process and kept.
"""

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from fedpeft_app import __version__
from fedpeft_app.backbone.load import load_model, load_tokenizer
from fedpeft_app.backbone.locate import LocatedModel, locate
from fedpeft_app.config import RunConfig
from fedpeft_app.config.schema import needed_precision, options
from fedpeft_app.data.encoded import EncodedSource, ExampleSet, encoded
from fedpeft_app.data.read import Columns, read
from fedpeft_app.data.sources import Source, find_source
from fedpeft_app.data.splits import Splits, carve
from fedpeft_app.data.tasks.catalogue import TASKS
from fedpeft_app.data.tasks.task import Task
from fedpeft_app.data_plan import columns, shares, splits
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.catalogue import METHODS
from fedpeft_app.methods.method import Method, MethodSettings
from fedpeft_app.mirrors.digest import file_sha256
from fedpeft_app.strategies.roll_call import Presence
from fedpeft_app.training.fit import FitSettings
from fedpeft_app.training.precision import device, resolve_precision
from fedpeft_app.training.worker import Worker, use_assigned_threads

_VOCABULARIES = ("*token*", "vocab*", "merges*", "*.model", "*piece*")  # files of tokenizers
_AGREEING_PACKAGES = ("torch", "transformers", "peft")  # their versions name and shape tensors


def make_task(config: RunConfig) -> Task:
    """Make the run's task."""
    task: Task = TASKS.get(config.task)(**options(config.task_options))
    return task


def make_method(config: RunConfig) -> Method:
    """Make the run's PEFT method."""
    method: Method = METHODS.get(config.method.name)()
    return method


@lru_cache(maxsize=4)
def find_model(name: str, revision: str) -> LocatedModel:
    """Find and fingerprint the backbone, once per process."""
    return locate(name, revision)


@lru_cache(maxsize=4)
def tokenizer_of(located: LocatedModel) -> Any:
    """Load the backbone's tokenizer, once per process."""
    return load_tokenizer(located)


def tokenizer(config: RunConfig) -> Any:
    """Give the run's tokenizer."""
    return tokenizer_of(find_model(config.model.name, config.model.revision))


def padding_token(config: RunConfig) -> int:
    """Give the token that fills batches up; decoders find a text's end by it."""
    pad = tokenizer(config).pad_token_id
    return int(pad) if pad is not None else 0


def open_data(config: RunConfig, name: str) -> EncodedSource:
    """Open a source tokenised for this run's model, making it first where it is missing."""
    source = find_source(name)
    return _tokenized(
        source.fingerprint,
        name,
        columns(config),
        config.task,
        config.task_options,
        config.data.max_length,
        find_model(config.model.name, config.model.revision),
    )


@lru_cache(maxsize=4)
def _tokenized(
    fingerprint: str,
    name: str,
    wanted: Columns,
    task_name: str,
    task_options: str,
    max_length: int,
    located: LocatedModel,
) -> EncodedSource:
    """Open or make a tokenised source, once per process."""
    task: Task = TASKS.get(task_name)(**options(task_options))
    encoder = tokenizer_of(located)
    source: Source = find_source(name)
    key = [fingerprint, wanted, task_name, task_options, max_length, _vocabulary(located)]
    return encoded(
        [str(part) for part in key],
        lambda: read(source, wanted),
        lambda texts: task.encode(encoder, texts, max_length),
    )


def _vocabulary(located: LocatedModel) -> str:
    """Fingerprint a tokenizer by the files that define it."""
    files = {file for pattern in _VOCABULARIES for file in located.path.glob(pattern)}
    return ",".join(file_sha256(file) for file in sorted(files) if file.is_file())


def server_splits(config: RunConfig) -> Splits:
    """Give the run's training, validation and test examples, as every process sees them."""
    return splits(config, open_data(config, config.data.name))


@lru_cache(maxsize=8)
def _shares(config: RunConfig, nodes: int) -> tuple[ExampleSet, ...]:
    """Share the training examples out among simulated nodes, once per process."""
    return tuple(shares(config, server_splits(config).train, nodes))


def node_data(
    config: RunConfig, node_config: Mapping[str, Any]
) -> tuple[int, ExampleSet, tuple[str, ...]]:
    """Give what one node learns from.

    Args:
        config: The run's configuration.
        node_config: Flower's node configuration. With "data-path", the node's own data is
            read from there, whole; otherwise "partition-id" of "num-partitions" parts of
            the run's public data is.

    Returns:
        The node's partition, its examples, and the label names.
    """
    number = int(node_config.get("partition-id", 0))
    if path := str(node_config.get("data-path", "")):
        source = open_data(config, path)
        return number, source.splits["train"], source.label_names
    labels = open_data(config, config.data.name).label_names
    parts = _shares(config, int(node_config.get("num-partitions", 1)))
    return number, parts[number if len(parts) > 1 else 0], labels


def method_settings(config: RunConfig) -> MethodSettings:
    """Collect what the method is told."""
    return MethodSettings(
        rank=config.method.rank,
        alpha=config.method.alpha,
        dropout=config.method.dropout,
        targets=config.method.targets,
        layers=config.method.layers,
        width=config.method.width,
        prompt_length=config.method.prompt_length,
        options=options(config.method.options),
    )


@lru_cache(maxsize=2)
def adapted_model(config: RunConfig, labels: tuple[str, ...]) -> AdaptedModel:
    """Load the backbone and make it adaptable, once per process."""
    method = make_method(config)
    backbone = load_model(
        find_model(config.model.name, config.model.revision),
        kind=make_task(config).model_kind,
        labels=labels,
        dtype=config.model.dtype,
        dropout=config.model.dropout,
        seed=config.seed,
    )
    adapted = adapt(backbone, method, method_settings(config), config.seed)
    adapted.backbone.model.config.pad_token_id = padding_token(config)
    adapted.model.to(device())
    return adapted


def fit_settings(config: RunConfig) -> FitSettings:
    """Collect how every node trains; zero rates become the method's own."""
    train, method = config.train, make_method(config)
    return FitSettings(
        epochs=train.local_epochs,
        max_steps=train.max_steps * (config.rounds if config.mode == "local" else 1),
        batch_size=train.batch_size,
        accumulation=train.gradient_accumulation,
        optimizer=train.optimizer,
        learning_rate=train.learning_rate or method.learning_rate,
        head_learning_rate=train.head_learning_rate or method.head_learning_rate,
        weight_decay=train.weight_decay,
        schedule=train.lr_schedule,
        warmup=train.warmup_fraction,
        max_grad_norm=train.max_grad_norm,
        precision=resolve_precision(
            needed_precision(config.model.dtype) or train.precision, device()
        ),
        rounds=1 if config.mode == "local" else config.rounds,
        seed=config.seed,
    )


def make_worker(config: RunConfig, node_config: Mapping[str, Any]) -> tuple[Worker, Presence]:
    """Make one node's worker, warm after the first call in a process.

    Returns:
        The worker, and what the node says at the roll call.
    """
    use_assigned_threads()
    number, examples, labels = node_data(config, node_config)
    held_share = config.data.node_validation_fraction if config.strategy.fraction_evaluate else 0.0
    train, held_out = carve(examples, held_share, config.seed, "node-validation", number)
    adapted = adapted_model(config, labels)
    worker = Worker(
        adapted=adapted,
        task=make_task(config),
        pad=padding_token(config),
        partition=number,
        train=train,
        held_out=held_out,
        settings=fit_settings(config),
        evaluate_batch_size=config.evaluate.batch_size,
    )
    presence = Presence(
        partition=number, examples=len(train), labels=labels, agreed=agreement(adapted)
    )
    return worker, presence


def agreement(adapted: AdaptedModel) -> dict[str, str]:
    """Say what server and nodes must have in common."""
    packages = {name: ".".join(version(name).split(".")[:2]) for name in _AGREEING_PACKAGES}
    return {
        "fedpeft": __version__,
        **packages,
        "backbone": adapted.spec.backbone,
        "adapter": adapted.spec.fingerprint,
    }
