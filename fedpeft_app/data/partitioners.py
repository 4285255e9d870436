"""The built-in partitioners, by flwr-datasets. Slow to import: only `partition` does.

Each function takes the number of nodes, the settings and a seed in [0, 2**32), and gives a
partitioner: an object with a `dataset` to set (columns "position", "label" and, for natural
nodes, "group") and a `load_partition(node)`. A plug-in is such a function or class.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr_datasets import partitioner as flwr_partitioner

from fedpeft_app.data.partition import PartitionSettings

_LEAST_SHARE = 1e-300  # nothing beside a share that is one, yet it can be divided by its like


def iid(nodes: int, settings: PartitionSettings, seed: int) -> Any:
    """Spread examples evenly, at random."""
    return flwr_partitioner.IidPartitioner(num_partitions=nodes)


def dirichlet(nodes: int, settings: PartitionSettings, seed: int) -> Any:
    """Draw each label's shares of the nodes from a Dirichlet distribution (Yurochkin et al. 2019).

    Sizes differ; with strong skew and many nodes, some would get nothing, which is refused.
    """
    return flwr_partitioner.DirichletPartitioner(
        num_partitions=nodes,
        partition_by="label",
        alpha=settings.dirichlet_alpha,
        min_partition_size=settings.min_examples,
        self_balancing=False,
        seed=seed,
    )


def dirichlet_balanced(nodes: int, settings: PartitionSettings, seed: int) -> Any:
    """Draw each node's shares of the labels from a Dirichlet distribution, for equal sizes.

    Hsu et al. 2019, arXiv 1909.06335, as Acar et al. 2021, arXiv 2111.04263, do it: examples go
    out one by one, and a label that is used up is left out of the shares. A node whose labels
    are all used up takes any of the others.
    """

    def make(sizes: list[int]) -> Any:
        made = flwr_partitioner.InnerDirichletPartitioner(
            partition_sizes=sizes,
            partition_by="label",
            alpha=settings.dirichlet_alpha,
            seed=seed,
        )
        made._rng = _PositiveShares(made._rng)
        return made

    return _EqualSizes(nodes, make)


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


class _PositiveShares:
    """A generator whose Dirichlet draws have no zeros, which strong skew rounds most shares to.

    InnerDirichletPartitioner divides by what is left of a node's shares when labels are used up:
    zeros by zero, for a node that has none but used-up ones.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def __getattr__(self, name: str) -> Any:
        """Draw whatever else there is to draw."""
        return getattr(self._generator, name)

    def dirichlet(self, alpha: Any, size: int) -> Any:
        """Draw shares, each above zero."""
        shares = np.maximum(self._generator.dirichlet(alpha, size), _LEAST_SHARE)
        return shares / shares.sum(axis=1, keepdims=True)


class _EqualSizes:
    """A partitioner of flwr-datasets that must be told the size of every part."""

    def __init__(self, nodes: int, make: Callable[[list[int]], Any]) -> None:
        self._nodes, self._make = nodes, make
        self._inner: Any = None

    @property
    def dataset(self) -> Any:
        """The examples."""
        return self._inner.dataset

    @dataset.setter
    def dataset(self, value: Any) -> None:
        least, more = divmod(len(value), self._nodes)
        self._inner = self._make([least + (node < more) for node in range(self._nodes)])
        self._inner.dataset = value

    def load_partition(self, node: int) -> Any:
        """Give a node's examples."""
        return self._inner.load_partition(node)
