"""Training examples → nodes, as a function of (labels, nodes, settings, seed).

Computed once per machine and kept on disk: the library behind it takes seconds to import,
which no process should pay that only needs the answer.
"""

import contextlib
import hashlib
import io
import logging
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from fedpeft_app.data.catalogue import PARTITIONERS
from fedpeft_app.errors import DataError
from fedpeft_app.mirrors import cache_dir
from fedpeft_app.seeds import derive_seed, numpy_generator

Ints = npt.NDArray[np.int64]
_LOG = logging.getLogger(__name__)
_BY_LABEL = ("dirichlet", "dirichlet-balanced", "pathological", "shard")
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSettings:
    """How examples spread over nodes.

    Attributes:
        name: A name in `PARTITIONERS`.
        dirichlet_alpha: Concentration, > 0; smaller = more skew.
        classes_per_node: Labels a node sees ("pathological").
        min_examples: Fewest examples a node may hold; a single node holds what there is.
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
        groups: Natural node per example; empty unless `settings.name` is "natural", whose
            nodes are numbered in the order of their groups, whatever the seed.
        nodes: Number of nodes, from 1.
        settings: How to split.
        seed: The run's seed.

    Returns:
        For each node the sorted positions of its examples; disjoint. "pathological" and
        "shard" may leave examples out, which is logged.

    Raises:
        DataError: If a node would hold fewer than `settings.min_examples` examples, or the
            data cannot be split as asked.

    Guarantee:
        A function of its arguments alone: every process computes the same split.
    """
    natural = settings.name == "natural"
    if natural and (nodes > 1 or len(groups)) and len(np.unique(groups)) != nodes:
        raise DataError(
            f"data.partitioner = 'natural' found {len(np.unique(groups))} different values in "
            f"data.partition-column, but the run has {nodes} nodes. Run with as many nodes, "
            f"or, for a source without such a column, use another data.partitioner."
        )
    if nodes == 1:
        return [np.arange(len(labels), dtype=np.int64)]
    if settings.name in _BY_LABEL and len(np.unique(labels)) == 1:
        raise DataError(
            f"data.partitioner = '{settings.name}' spreads examples by label, but these have all "
            f"one, or none at all. Use 'iid' or 'natural', or name a column of labels or "
            f"categories (data.label-column)."
        )
    order = numpy_generator(seed, "partition-order").permutation(len(labels))
    if natural:
        order = np.argsort(groups, kind="stable")
    table = {"position": order, "label": labels[order]}
    if natural:
        table["group"] = groups[order]
    parts = _load(table, nodes, settings, derive_seed(seed, "partition") % 2**32)
    _require_minimum(parts, len(labels), settings)
    return parts


def kept_partition(
    labels: Ints, groups: Ints, nodes: int, settings: PartitionSettings, seed: int
) -> list[Ints]:
    """Give what `partition` gives, computing it only where this machine has not yet.

    Args:
        labels: As for `partition`.
        groups: As for `partition`.
        nodes: As for `partition`.
        settings: As for `partition`.
        seed: As for `partition`.

    Returns:
        What `partition` returns. A damaged file in the cache is replaced.

    Raises:
        DataError: As `partition` does.
    """
    digest = hashlib.sha256(f"{nodes}|{settings}|{seed}|".encode())
    digest.update(labels.tobytes() + b"|" + groups.tobytes())
    path = cache_dir() / "partitions" / f"{digest.hexdigest()[:16]}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        parts = _stored(path, nodes)
        if parts is None:
            parts = partition(labels, groups, nodes, settings, seed)
            scratch = path.with_suffix(".partial.npz")
            np.savez(scratch, *parts)
            scratch.replace(path)
    return parts


def _require_minimum(parts: list[Ints], examples: int, settings: PartitionSettings) -> None:
    """Refuse a node with too few examples; log examples that no node holds."""
    smallest = min(range(len(parts)), key=lambda node: len(parts[node]))
    if len(parts[smallest]) < settings.min_examples:
        raise DataError(
            f"data.partitioner = '{settings.name}' leaves node {smallest} with "
            f"{len(parts[smallest])} of {examples} examples, below data.min-examples = "
            f"{settings.min_examples}. Use fewer nodes, less skew, or a smaller minimum."
        )
    if lost := examples - sum(map(len, parts)):
        _LOG.warning("Partitioner '%s' leaves %d examples without a node.", settings.name, lost)


def _stored(path: Path, nodes: int) -> list[Ints] | None:
    """Read a kept partition; None where there is none, or none that can be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return [stored[f"arr_{node}"] for node in range(nodes)]
    except FileNotFoundError:
        return None
    except _UNREADABLE as error:
        _LOG.warning("Computing the damaged partition %s anew: %s", path, error)
        return None


def _load(table: dict[str, Ints], nodes: int, settings: PartitionSettings, seed: int) -> list[Ints]:
    """Run the partitioner over a table of positions, without its progress bars and advice."""
    import datasets

    partitioner = PARTITIONERS.get(settings.name)(nodes, settings, seed)
    partitioner.dataset = datasets.Dataset.from_dict(table)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # what matters of it is checked by the caller
            parts = [partitioner.load_partition(node)["position"] for node in range(nodes)]
    except Exception as error:  # plug-ins raise what they like
        raise DataError(
            f"data.partitioner = '{settings.name}' cannot split {len(table['label'])} examples "
            f"among {nodes} nodes: {str(error).rstrip('.')}. Use fewer nodes, less skew "
            f"(data.dirichlet-alpha), a smaller data.min-examples, or another data.partitioner."
        ) from error
    return [np.sort(np.asarray(part, dtype=np.int64)) for part in parts]
