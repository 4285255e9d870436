"""A run's data, encoded for its model and opened once per process; what each node has of it."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fedpeft_app.backbone.locate import LocatedModel, locate
from fedpeft_app.backbone.processor import load_processor
from fedpeft_app.config import RunConfig
from fedpeft_app.data.encoded import EncodedSource, ExampleSet, encoded
from fedpeft_app.data.examples import Examples, image_files
from fedpeft_app.data.folders import stamp
from fedpeft_app.data.sources import Source, find_source
from fedpeft_app.data.splits import Splits, capped, carve
from fedpeft_app.data.tasks.image_input import set_size
from fedpeft_app.data.tasks.task import Task
from fedpeft_app.data_plan import columns, encoding, make_task, shares, splits
from fedpeft_app.errors import DataError, PrivacyError
from fedpeft_app.mirrors.digest import file_sha256
from fedpeft_app.node.identity import node_number
from fedpeft_app.node.settings import chosen_split, require_known, share_of

# Files that decide how examples are encoded: those of tokenizers, and of processors.
_DECISIVE = ("*token*", "vocab*", "merges*", "*.model", "*piece*", "*processor*", "chat_template*")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeData:
    """What one node has.

    Attributes:
        partition: Its own number, from 0.
        train: What it trains on.
        held_out: What it judges on, to choose a round; may be empty.
        test: What it judges on, to report; may be empty.
        labels: Label names in the order of the model's outputs; may be empty.
    """

    partition: int
    train: ExampleSet
    held_out: ExampleSet
    test: ExampleSet
    labels: tuple[str, ...]


@lru_cache(maxsize=4)
def find_model(name: str, revision: str) -> LocatedModel:
    """Find and fingerprint the backbone, once per process."""
    return locate(name, revision)


def processor(config: RunConfig) -> Any:
    """Give the run's tokenizer or image processor."""
    located = find_model(config.model.name, config.model.revision)
    return _processor(located, make_task(config).model_kind, config.data.image_size)


@lru_cache(maxsize=4)
def _processor(located: LocatedModel, kind: str, image_size: int) -> Any:
    """Load the tokenizer or image processor of a model, once per process."""
    loaded = load_processor(located, kind)
    if kind == "image-classification" and image_size:
        set_size(loaded, image_size)  # in the processor, for it is exported with the model
    return loaded


def bound_task(config: RunConfig, labels: Sequence[str] = ()) -> Task:
    """Make the run's task for its model.

    Args:
        config: The run's configuration.
        labels: Label names in order; empty where they are not known yet.

    Raises:
        ConfigError: If `task.options` does not suit the task.
        DataError: If the model or the labels do not.
    """
    return make_task(config).bind(
        processor(config),
        labels=labels,
        max_length=config.data.max_length,
    )


def open_data(config: RunConfig, name: str, threads: int = 0) -> EncodedSource:
    """Open a source encoded for this run's model, making it first where it is missing.

    Args:
        config: The run's configuration.
        name: The source, as `find_source` takes it.
        threads: Threads to decode images with; 0 = as many as there are CPUs.

    Returns:
        The source, looked at once per process and run: to walk a folder of 20,000 files takes
        most of a second, and every message asks.

    Raises:
        FedPeftError: If there is no such source, or something is wrong with it.
    """
    return _opened(config, name, threads)


def look_again() -> None:
    """Forget which data there is: what a node's owner has changed since counts from now on."""
    _opened.cache_clear()


@lru_cache(maxsize=4)
def _opened(config: RunConfig, name: str, threads: int) -> EncodedSource:
    """Open or make an encoded source, once per process and run."""
    task, source = bound_task(config), find_source(name, config.data.subset)
    fingerprint = source.fingerprint
    if source.kind == "tables" and task.model_kind == "image-classification":
        examples, _ = _read(config, task, source)
        fingerprint += stamp(image_files(list(examples.values())))  # changed, the table not
    key = [
        fingerprint,
        columns(config),
        encoding(config, task),
        config.data.max_length,
        config.data.image_size,
        processor_digest(find_model(config.model.name, config.model.revision)),
    ]
    return encoded(
        [str(part) for part in key],
        lambda: _read(config, task, source),
        lambda inputs: task.encode(inputs, threads or os.cpu_count() or 1),
    )


def _read(
    config: RunConfig, task: Task, source: Source
) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """Read a source; where it is encoded already, nobody does, or imports what that takes."""
    from fedpeft_app.data.read import read

    return read(source, columns(config), task.reads)


@lru_cache(maxsize=4)
def processor_digest(located: LocatedModel) -> str:
    """Fingerprint a tokenizer or image processor by the files that define it.

    Returns:
        Sixteen hex digits.
    """
    files = {file for pattern in _DECISIVE for file in located.path.glob(pattern)}
    digests = [file_sha256(file) for file in sorted(files) if file.is_file()]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def server_splits(config: RunConfig) -> Splits:
    """Give the run's training, validation and test examples, as every process sees them."""
    return splits(config, open_data(config, config.data.name))


@lru_cache(maxsize=8)
def _shares(config: RunConfig, nodes: int) -> tuple[ExampleSet, ...]:
    """Share the training examples out among simulated nodes, once per process."""
    return tuple(shares(config, server_splits(config).train, nodes))


def node_data(config: RunConfig, node_config: Mapping[str, Any]) -> NodeData:
    """Give what one node learns from, and what it judges on.

    Args:
        config: The run's configuration.
        node_config: Flower's node configuration. With "data-path", the node's own data is
            read from there, the split that "data-split" names ("train"); otherwise
            "partition-id" of "num-partitions" parts of the run's public data is. "workers" decode
            images; "validation-fraction" holds out that share instead of the run's.

    Returns:
        The node's data. Nothing is held out unless nodes evaluate; validation and test splits
        of its own data are held out then, or a share for each: of all examples to test, of
        the others to validate. `data.max-examples-per-node` caps what is left for training.

    Raises:
        FedPeftError: If its data cannot be read, or its configuration makes no sense.
    """
    number, labels, whole, own = _own_or_share(config, node_config)
    nothing = whole.select(np.zeros(0, dtype=np.int64))
    train, held_out, test = whole, nothing, nothing
    if config.strategy.fraction_evaluate:
        share = config.data.node_test_fraction
        train, test = _held_out(train, own.get("test"), share, config.seed, "node-test", number)
        share = own_setting(
            node_config, "validation-fraction", config.data.node_validation_fraction, below=1.0
        )
        train, held_out = _held_out(
            train, own.get("validation"), share, config.seed, "node-validation", number
        )
    most = config.data.max_examples_per_node
    train = capped(train, most, config.seed, "max-examples-per-node", number)
    return NodeData(partition=number, train=train, held_out=held_out, test=test, labels=labels)


def _held_out(
    examples: ExampleSet,
    own: ExampleSet | None,
    share: float,
    seed: int,
    purpose: str,
    partition: int,
) -> tuple[ExampleSet, ExampleSet]:
    """Give what is left and what is held out: a split of the node's own, or else a share."""
    if own is not None:
        return examples, own
    return carve(examples, share, seed, purpose, partition)


def own_setting(
    node_config: Mapping[str, Any], key: str, usual: float, *, least: float = 0, below: float = 0
) -> float:
    """Read what a node's owner set for this node alone.

    Args:
        node_config: Flower's node configuration.
        key: The key, such as "batch-size".
        usual: What holds if it is not set.
        least: The smallest value allowed.
        below: What it must be less than; 0 = no such limit.

    Raises:
        DataError: If it is not a number in that range.
    """
    value = node_config.get(key, usual)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value < least or (below and value >= below):
        limit = f" and less than {below:g}" if below else ""
        raise DataError(
            f"Expected a number of at least {least:g}{limit} for {key} in this node's "
            f"--node-config, got {value!r}."
        )
    return float(value)


def _own_or_share(
    config: RunConfig, node_config: Mapping[str, Any]
) -> tuple[int, tuple[str, ...], ExampleSet, Mapping[str, ExampleSet]]:
    """Give a node's number, labels, examples, and the splits of its own data if it has any."""
    require_known(node_config)
    path = str(node_config.get("data-path", ""))
    if not path:
        share_of(node_config)  # before an identity is drawn, and before data is opened
    number = node_number(node_config)
    threads = int(own_setting(node_config, "workers", 0))
    if path:
        source = open_data(config, path, threads)
        _require_public_labels(config, source.label_names)
        chosen = chosen_split(node_config, source.splits)
        others = {name: split for name, split in source.splits.items() if name != chosen}
        return number, source.label_names, source.splits[chosen], others
    labels = open_data(config, config.data.name, threads).label_names
    share, count = share_of(node_config)
    parts = _shares(config, count)
    return number, labels, parts[share if len(parts) > 1 else 0], {}


def _require_public_labels(config: RunConfig, found: Sequence[str]) -> None:
    """Refuse label names that nobody but this node knows, where it may not tell them."""
    mode = config.privacy.mode
    if mode != "none" and found and not config.data.labels:
        raise PrivacyError(
            f"Expected data.labels to name all labels, got nothing: this node has data of its "
            f"own, and under privacy.mode = '{mode}' it does not tell which labels they have."
        )
