"""How a run's data is read, split and shared out, from labels alone; imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fedpeft_app.config import RunConfig
from fedpeft_app.data.encoded import EncodedSource, ExampleSet, example_set
from fedpeft_app.data.partition import PartitionSettings, kept_partition
from fedpeft_app.data.read import Columns, Examples
from fedpeft_app.data.splits import Splits, SplitSettings, make_splits


def columns(config: RunConfig) -> Columns:
    """Collect the column names a source is read with."""
    names = tuple(name.strip() for name in config.data.labels.split(",") if name.strip())
    natural = config.data.partitioner == "natural" and config.mode != "central"
    return Columns(
        text=config.data.text_column,
        label=config.data.label_column,
        group=config.data.partition_column if natural else "",
        labels=names,
    )


def untokenized(examples: Mapping[str, Examples], names: tuple[str, ...]) -> EncodedSource:
    """Stand in for a tokenised source where only labels and groups matter."""
    groups = sorted({group for split in examples.values() for group in split.groups})
    splits = {
        name: replace(
            example_set([()] * len(split.texts), split.labels),
            groups=np.searchsorted(groups, split.groups).astype(np.int64),
            group_names=tuple(groups),
        )
        for name, split in examples.items()
    }
    return EncodedSource(splits=splits, label_names=names, fingerprint="")


def splits(config: RunConfig, source: EncodedSource) -> Splits:
    """Give the run's training, validation and test examples, as every process sees them."""
    settings = SplitSettings(
        max_examples=config.data.max_examples,
        test_fraction=config.data.test_fraction,
        validation_fraction=config.data.validation_fraction,
        held_by_server=config.evaluate.server,
    )
    return make_splits(source, settings, config.seed)


def shares(config: RunConfig, train: ExampleSet, nodes: int) -> list[ExampleSet]:
    """Share the training examples out among simulated nodes.

    Args:
        config: The run's configuration.
        train: Its training examples.
        nodes: Number of nodes; the central baseline counts as one.

    Raises:
        DataError: If the data cannot be shared out as asked.
    """
    settings = PartitionSettings(
        name=config.data.partitioner,
        dirichlet_alpha=config.data.dirichlet_alpha,
        classes_per_node=config.data.classes_per_node,
        min_examples=config.data.min_examples,
    )
    count = 1 if config.mode == "central" else nodes
    groups = train.groups[train.indices] if len(train.groups) else np.zeros(0, np.int64)
    parts = kept_partition(train.selected_labels, groups, count, settings, config.seed)
    return [train.select(part) for part in parts]
