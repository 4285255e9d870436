"""Training examples → nodes, by flwr-datasets, as a function of (labels, nodes, seed)."""

from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
from flwr_datasets import partitioner as flwr_partitioner

from fedpeft_app.data.catalogue import PARTITIONERS
from fedpeft_app.errors import DataError
from fedpeft_app.seeds import derive_seed

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSettings:
    """How examples spread over nodes.

    Attributes:
        name: A name in `PARTITIONERS`.
        dirichlet_alpha: Concentration, > 0; smaller = more skew.
        classes_per_node: Labels a node sees ("pathological").
        min_examples: Fewest examples a node may hold.
    """

    name: str = "dirichlet"
    dirichlet_alpha: float = 0.5
    classes_per_node: int = 2
    min_examples: int = 10


def iid(nodes: int, settings: PartitionSettings, seed: int) -> Any:
    """Spread examples evenly, at random."""
    return flwr_partitioner.IidPartitioner(num_partitions=nodes)


def dirichlet(nodes: int, settings: PartitionSettings, seed: int) -> Any:
    """Draw each label's shares from a Dirichlet distribution (Hsu et al. 2019, arXiv 1909.06335)."""
    return flwr_partitioner.DirichletPartitioner(
        num_partitions=nodes,
        partition_by="label",
        alpha=settings.dirichlet_alpha,
        min_partition_size=settings.min_examples,
        self_balancing=False,
        seed=seed,
    )


def pathological(nodes: int, settings: PartitionSettings, seed: int) -> Any:
    """Give each node a few labels (McMahan et al. 2017, arXiv 1602.05629, section 3)."""
    return flwr_partitioner.PathologicalPartitioner(
        num_partitions=nodes,
        partition_by="label",
        num_classes_per_partition=settings.classes_per_node,
        class_assignment_mode="deterministic",
        seed=seed,
    )


def shard(nodes: int, settings: PartitionSettings, seed: int) -> Any:
    """Cut the label-sorted data into shards, a few per node (McMahan et al. 2017)."""
    return flwr_partitioner.ShardPartitioner(
        num_partitions=nodes,
        partition_by="label",
        num_shards_per_partition=settings.classes_per_node,
        seed=seed,
    )


def natural(nodes: int, settings: PartitionSettings, seed: int) -> Any:
    """Make each value of the partition column a node."""
    return flwr_partitioner.NaturalIdPartitioner(partition_by="group")


def size_linear(nodes: int, settings: PartitionSettings, seed: int) -> Any:
    """Make node k's size proportional to k."""
    return flwr_partitioner.LinearPartitioner(num_partitions=nodes)


def size_square(nodes: int, settings: PartitionSettings, seed: int) -> Any:
    """Make node k's size proportional to k²."""
    return flwr_partitioner.SquarePartitioner(num_partitions=nodes)


def size_exponential(nodes: int, settings: PartitionSettings, seed: int) -> Any:
    """Make node k's size proportional to exp(k)."""
    return flwr_partitioner.ExponentialPartitioner(num_partitions=nodes)


def partition(
    labels: Ints, groups: Ints, nodes: int, settings: PartitionSettings, seed: int
) -> list[Ints]:
    """Split examples among nodes.

    Args:
        labels: Label index per example.
        groups: Natural node per example; empty unless `settings.name` is "natural".
        nodes: Number of nodes, from 1.
        settings: How to split.
        seed: The run's seed.

    Returns:
        For each node the sorted positions of its examples; disjoint.

    Raises:
        DataError: If a node would hold fewer than `settings.min_examples` examples, or the
            data cannot be split as asked.

    Guarantee:
        A function of its arguments alone: every process computes the same split.
    """
    if nodes == 1:
        return [np.arange(len(labels), dtype=np.int64)]
    if settings.name == "natural" and len(np.unique(groups)) != nodes:
        raise DataError(
            f"data.partitioner = 'natural' found {len(np.unique(groups))} different values in "
            f"data.partition-column, but the run has {nodes} nodes. Run with as many nodes."
        )
    order = np.random.default_rng(derive_seed(seed, "partition-order")).permutation(len(labels))
    table = {"position": order, "label": labels[order]}
    if settings.name == "natural":
        table["group"] = groups[order]
    parts = _load(table, nodes, settings, derive_seed(seed, "partition") % 2**32)
    smallest = min(range(nodes), key=lambda node: len(parts[node]))
    if len(parts[smallest]) < settings.min_examples:
        raise DataError(
            f"data.partitioner = '{settings.name}' leaves node {smallest} with "
            f"{len(parts[smallest])} of {len(labels)} examples, below data.min-examples = "
            f"{settings.min_examples}. Use fewer nodes, less skew, or a smaller minimum."
        )
    return parts


def _load(
    table: dict[str, Ints], nodes: int, settings: PartitionSettings, seed: int
) -> list[Ints]:
    """Run the partitioner over a table of positions."""
    partitioner = PARTITIONERS.get(settings.name)(nodes, settings, seed)
    partitioner.dataset = datasets.Dataset.from_dict(table)
    try:
        parts = [partitioner.load_partition(node)["position"] for node in range(nodes)]
    except (ValueError, IndexError, KeyError) as error:
        raise DataError(
            f"data.partitioner = '{settings.name}' cannot split {len(table['label'])} examples "
            f"among {nodes} nodes: {error}"
        ) from error
    return [np.sort(np.asarray(part, dtype=np.int64)) for part in parts]
