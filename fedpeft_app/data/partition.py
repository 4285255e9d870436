"""Training examples → nodes, as a function of (labels, nodes, settings, seed).

Computed once per machine and kept on disk: the library behind it takes seconds to import,
which no process should pay that only needs the answer.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from fedpeft_app.data.catalogue import PARTITIONERS
from fedpeft_app.errors import DataError
from fedpeft_app.mirrors import cache_dir
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


def kept_partition(
    labels: Ints, groups: Ints, nodes: int, settings: PartitionSettings, seed: int
) -> list[Ints]:
    """Give what `partition` gives, computing it only where this machine has not yet."""
    digest = hashlib.sha256(f"{nodes}|{settings}|{seed}|".encode())
    digest.update(labels.tobytes() + b"|" + groups.tobytes())
    path = cache_dir() / "partitions" / f"{digest.hexdigest()[:16]}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            parts = partition(labels, groups, nodes, settings, seed)
            scratch = path.with_suffix(".partial.npz")
            np.savez(scratch, *parts)
            scratch.rename(path)
        with np.load(path, allow_pickle=False) as stored:
            return [stored[f"arr_{node}"] for node in range(nodes)]


def _load(table: dict[str, Ints], nodes: int, settings: PartitionSettings, seed: int) -> list[Ints]:
    """Run the partitioner over a table of positions."""
    import datasets

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
