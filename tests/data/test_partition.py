"""Partitions: disjoint, a function of their arguments, and refused when too small."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fedpeft_app.data import partition as module
from fedpeft_app.data.catalogue import PARTITIONERS
from fedpeft_app.data.partition import PartitionSettings, kept_partition, partition
from fedpeft_app.errors import DataError

Ints = npt.NDArray[np.int64]
NODES = 6
LABELS: Ints = np.tile(np.array([0, 1, 2, 0, 1, 2, 3, 3, 0, 0]), 36)  # 144, 72, 72, 72
SITES: Ints = np.random.default_rng(0).permutation(np.arange(360) % NODES)
NONE: Ints = np.zeros(0, np.int64)
COMPLETE = {
    "iid",
    "dirichlet",
    "dirichlet-balanced",
    "natural",
    "size-linear",
    "size-square",
    "size-exponential",
}


def split(name: str, *, nodes: int = NODES, seed: int = 0, **settings: Any) -> list[Ints]:
    groups = SITES if name == "natural" else NONE
    asked = PartitionSettings(name=name, **{"min_examples": 1, **settings})
    return partition(LABELS, groups, nodes, asked, seed)


def nodes_for(name: str) -> int:
    """Few enough for exp(k) to leave the first node something."""
    return 4 if name == "size-exponential" else NODES


def equal(one: list[Ints], other: list[Ints]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


@pytest.mark.parametrize("name", PARTITIONERS.names())
def test_every_partitioner_gives_disjoint_sorted_positions(name: str) -> None:
    parts = split(name, nodes=nodes_for(name), min_examples=0)
    for part in parts:
        assert part.dtype == np.int64
        assert np.array_equal(part, np.unique(part))
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
    assert set(together.tolist()) <= set(range(len(LABELS)))
    if name in COMPLETE:
        assert len(together) == len(LABELS)


@pytest.mark.parametrize("name", sorted(set(PARTITIONERS.names()) - {"size-exponential"}))
def test_a_partition_is_a_function_of_seed_and_nodes(name: str) -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = split(name)
    np.random.seed(99)  # noqa: NPY002  # global state must not matter
    assert equal(split(name), first)
    np.random.set_state(("MT19937", before, 624, 0, 0.0))  # noqa: NPY002
    assert equal(split(name, seed=1), first) == (name == "natural")  # nature has no seed
    if name != "natural":
        assert len(split(name, nodes=5)) == 5


def test_partitioning_leaves_global_randomness_alone() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    for name in PARTITIONERS.names():
        split(name, nodes=nodes_for(name), min_examples=0)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_iid_parts_are_equal() -> None:
    assert [len(part) for part in split("iid")] == [60] * 6


def test_sizes_grow_as_their_names_say() -> None:
    linear = np.array([len(part) for part in split("size-linear", nodes=5)])
    assert linear == pytest.approx(360 * np.arange(1, 6) / 15, abs=5)
    square = np.array([len(part) for part in split("size-square", nodes=5)])
    assert square == pytest.approx(360 * np.arange(1, 6) ** 2 / 55, abs=5)
    exponential = np.array([len(part) for part in split("size-exponential", nodes=4)])
    assert exponential == pytest.approx(360 * np.exp(range(4)) / np.exp(range(4)).sum(), abs=5)


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_pathological_nodes_see_few_labels(classes: int) -> None:
    parts = split("pathological", classes_per_node=classes)
    assert {len(np.unique(LABELS[part])) for part in parts} == {classes}


def test_shard_nodes_hold_equally_many_examples_of_few_labels() -> None:
    parts = split("shard", classes_per_node=2)
    assert [len(part) for part in parts] == [60] * 6
    # A shard of 30 examples crosses at most one border between labels.
    assert max(len(np.unique(LABELS[part])) for part in parts) <= 4


def skew(alpha: float, seed: int) -> float:
    """Mean over nodes of the distance (total variation) to the overall label distribution."""
    overall = np.bincount(LABELS, minlength=4) / len(LABELS)
    parts = split("dirichlet", dirichlet_alpha=alpha, seed=seed, min_examples=1)
    shares = [np.bincount(LABELS[part], minlength=4) / len(part) for part in parts]
    return float(np.mean([np.abs(share - overall).sum() / 2 for share in shares]))


def test_balanced_nodes_hold_equally_much_of_unequal_labels() -> None:
    parts = split("dirichlet-balanced", dirichlet_alpha=0.01)
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1
    kinds = [len(np.unique(LABELS[part])) for part in parts]
    mixed = split("dirichlet-balanced", dirichlet_alpha=100.0)
    assert np.mean(kinds) < np.mean([len(np.unique(LABELS[part])) for part in mixed])


def test_a_node_whose_labels_are_used_up_takes_others() -> None:
    for seed in range(20):  # of which many made the library divide zero by zero
        parts = split("dirichlet-balanced", nodes=30, dirichlet_alpha=0.001, seed=seed)
        assert {len(part) for part in parts} == {12}


def test_dirichlet_skew_grows_as_alpha_falls() -> None:
    means = [np.mean([skew(alpha, seed) for seed in range(5)]) for alpha in (1000.0, 1.0, 0.1)]
    assert means[0] < 0.05 < means[1] < means[2]
    assert means[2] > 0.4


def test_natural_nodes_are_the_groups_in_order() -> None:
    parts = split("natural")
    for node, part in enumerate(parts):
        assert np.array_equal(part, np.flatnonzero(node == SITES))


@pytest.mark.parametrize("nodes", [1, NODES - 1, NODES + 1])
def test_natural_needs_as_many_nodes_as_groups(nodes: int) -> None:
    with pytest.raises(DataError, match=f"found 6 different values .* the run has {nodes} nodes"):
        split("natural", nodes=nodes)


def test_one_node_holds_everything() -> None:
    for name in PARTITIONERS.names():  # also where groups are not read: a central run
        parts = partition(LABELS, NONE, 1, PartitionSettings(name=name, min_examples=999), 0)
        assert equal(parts, [np.arange(360)])


@pytest.mark.parametrize(
    ("name", "settings", "complaint"),
    [
        ("iid", {"min_examples": 61}, "leaves node 0 with 60 of 360 examples, below"),
        ("size-square", {"min_examples": 10}, r"leaves node 0 with 3 of 360 examples.*Use fewer"),
        ("dirichlet", {"dirichlet_alpha": 0.01, "min_examples": 30}, "cannot split 360 examples"),
        ("pathological", {"classes_per_node": 5}, "cannot split 360 examples among 6 nodes"),
        ("shard", {"classes_per_node": 400}, "cannot split 360 examples among 6 nodes"),
        ("iid", {"nodes": 361, "min_examples": 0}, "cannot split 360 examples among 361 nodes"),
        ("size-exponential", {"nodes": 50}, "cannot split 360 examples among 50 nodes"),
    ],
)
def test_what_cannot_be_split_is_refused(
    name: str, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(DataError, match=f"data.partitioner = '{name}' {complaint}"):
        split(name, **settings)


def test_examples_left_without_a_node_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    parts = split("pathological", nodes=3, classes_per_node=1)
    assert sum(map(len, parts)) == 360 - 72  # three nodes of one label each, out of four labels
    assert "leaves 72 examples without a node" in caplog.text


def test_partitioners_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    split("natural")  # flwr-datasets shows a progress bar
    split("dirichlet", dirichlet_alpha=0.1)
    assert capfd.readouterr() == ("", "")


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    compute = module.partition

    def counted(*args: Any) -> list[Ints]:
        calls.append(1)
        return compute(*args)

    monkeypatch.setattr(module, "partition", counted)
    return calls


def test_a_kept_partition_equals_the_partition_and_is_computed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = PartitionSettings(min_examples=1)
    expected = partition(LABELS, NONE, NODES, settings, 7)
    calls = count_calls(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: kept_partition(LABELS, NONE, NODES, settings, 7), range(4)))
    assert all(equal(parts, expected) for parts in made)
    assert all(part.dtype == np.int64 for part in made[-1])
    assert len(calls) == 1


def test_anything_that_matters_is_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch)
    base = PartitionSettings(min_examples=1)
    kept_partition(LABELS, NONE, NODES, base, 0)
    kept_partition(LABELS, NONE, NODES, base, 1)
    kept_partition(LABELS, NONE, 5, base, 0)
    kept_partition(LABELS[:-1], NONE, NODES, base, 0)
    kept_partition(LABELS, NONE, NODES, PartitionSettings(name="iid", min_examples=1), 0)
    kept_partition(LABELS, NONE, NODES, PartitionSettings(dirichlet_alpha=9.0), 0)
    by_site = PartitionSettings(name="natural")
    kept_partition(LABELS, SITES, NODES, by_site, 0)
    kept_partition(LABELS, np.roll(SITES, 1), NODES, by_site, 0)
    assert len(calls) == 8


@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "other", "pickle"])
def test_a_damaged_file_is_replaced(
    own_home: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    settings = PartitionSettings(min_examples=1)
    expected = kept_partition(LABELS, NONE, NODES, settings, 0)
    (path,) = (own_home / "cache" / "partitions").glob("*.npz")
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "garbage":
            path.write_bytes(b"PK\x03\x04 no archive")
        case "truncated":
            path.write_bytes(path.read_bytes()[:-40])
        case "other":
            np.savez(path, np.arange(3))
        case _:
            np.savez(path, *[np.array([{"no": "objects"}], dtype=object)] * NODES)
    assert equal(kept_partition(LABELS, NONE, NODES, settings, 0), expected)
    assert "damaged partition" in caplog.text
    caplog.clear()
    assert equal(kept_partition(LABELS, NONE, NODES, settings, 0), expected)
    assert not caplog.text


def test_a_refused_partition_is_not_kept(own_home: Path) -> None:
    settings = PartitionSettings(name="iid", min_examples=100)
    for _ in range(2):
        with pytest.raises(DataError, match="below data.min-examples = 100"):
            kept_partition(LABELS, NONE, NODES, settings, 0)
    assert not list((own_home / "cache" / "partitions").glob("*.npz"))


class Broken:
    """A plug-in that fails in its own way."""

    def __init__(self, nodes: int, settings: PartitionSettings, seed: int) -> None:
        self.dataset: Any = None

    def load_partition(self, node: int) -> Any:
        raise ZeroDivisionError("plug-in's own")


def test_a_failing_plug_in_is_named() -> None:
    with pytest.raises(DataError, match=r"test_partition:Broken' cannot split.*plug-in's own"):
        split(f"{__name__}:Broken")


@pytest.mark.parametrize("name", ["dirichlet", "dirichlet-balanced", "pathological", "shard"])
def test_spreading_by_label_needs_two_labels(name: str) -> None:
    settings = PartitionSettings(name=name, min_examples=1)
    with pytest.raises(DataError, match="spreads examples by label.*Use 'iid' or 'natural'"):
        partition(np.zeros(40, np.int64), NONE, 4, settings, seed=0)
