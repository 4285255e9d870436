"""Tokenised examples on disk: written once, memory-mapped by every process.

A split is three flat arrays. The folder's name is a fingerprint of everything that shaped
the content, so a stale one is never read.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from fedpeft_app.data.read import Examples
from fedpeft_app.errors import DataError
from fedpeft_app.mirrors import cache_dir
from fedpeft_app.mirrors.digest import file_sha256

Ints = npt.NDArray[np.int64]
Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]
_VERSION = 2  # part of the fingerprint: raise it when the layout changes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSet:
    """Tokenised examples, or a selection of them.

    Attributes:
        ids: All token ids, one example after the other, int32, memory-mapped.
        offsets: Start of each example in `ids`, plus the end: `(stored + 1,)`.
        labels: Label index per stored example.
        groups: Natural node per stored example, an index into `group_names`; may be empty.
        group_names: Names of the natural nodes, sorted.
        indices: The selected examples, as positions among the stored ones.
    """

    ids: npt.NDArray[np.int32]
    offsets: Ints
    labels: Ints
    groups: Ints
    group_names: tuple[str, ...]
    indices: Ints

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def lengths(self) -> Ints:
        """Tokens per selected example."""
        return self.offsets[self.indices + 1] - self.offsets[self.indices]

    @property
    def selected_labels(self) -> Ints:
        """Label index per selected example."""
        return self.labels[self.indices]

    def select(self, positions: Ints) -> "ExampleSet":
        """Narrow the selection to positions within it, sharing the arrays.

        Args:
            positions: Positions from 0 to `len(self) - 1`, in the order wanted.
        """
        return ExampleSet(
            ids=self.ids,
            offsets=self.offsets,
            labels=self.labels,
            groups=self.groups,
            group_names=self.group_names,
            indices=self.indices[positions],
        )

    def row(self, position: int) -> npt.NDArray[np.int32]:
        """Give the token ids of one selected example.

        Args:
            position: From 0 to `len(self) - 1`.
        """
        stored = self.indices[position]
        return self.ids[self.offsets[stored] : self.offsets[stored + 1]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSource:
    """Every split of a source, tokenised.

    Attributes:
        splits: Split name → token set; at least "train".
        label_names: Label names in the order of the label indices.
        fingerprint: Sixteen hex digits over everything that shaped the content.
    """

    splits: dict[str, ExampleSet]
    label_names: tuple[str, ...]
    fingerprint: str


def encoded(
    key: Sequence[object],
    read: Callable[[], tuple[dict[str, Examples], tuple[str, ...]]],
    encode: Encode,
) -> EncodedSource:
    """Open a tokenised source, making it first where it is missing.

    Args:
        key: Everything that shapes the content: source and tokenizer fingerprints,
            columns, length.
        read: Reads the raw examples; called only where nothing is stored.
        encode: Texts → token ids.

    Returns:
        The source, memory-mapped. Concurrent processes tokenise once (file lock); a damaged
        store is made anew.

    Raises:
        DataError: If a text has no tokens.
    """
    text = json.dumps([_VERSION, *key], default=str)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = cache_dir() / "tokens" / fingerprint
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not _sound(folder):
            _write(folder, read, encode)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    splits = {split: _open(folder / split, tuple(meta["groups"])) for split in meta["splits"]}
    return EncodedSource(splits=splits, label_names=tuple(meta["labels"]), fingerprint=fingerprint)


def example_set(ids: Sequence[Sequence[int]], labels: Ints | None = None) -> ExampleSet:
    """Hold tokenised examples in memory, for a few texts at hand.

    Args:
        ids: Token ids of each example.
        labels: Label index of each example; None = all 0.
    """
    lengths = np.fromiter((len(row) for row in ids), dtype=np.int64, count=len(ids))
    flat = np.fromiter((token for row in ids for token in row), dtype=np.int32)
    return ExampleSet(
        ids=flat,
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        labels=np.zeros(len(ids), np.int64) if labels is None else labels,
        groups=np.zeros(0, np.int64),
        group_names=(),
        indices=np.arange(len(ids), dtype=np.int64),
    )


def _write(
    folder: Path,
    read: Callable[[], tuple[dict[str, Examples], tuple[str, ...]]],
    encode: Encode,
) -> None:
    """Tokenise every split into a scratch folder, then move it into place at once."""
    splits, label_names = read()
    groups = sorted({group for examples in splits.values() for group in examples.groups})
    scratch = folder.with_suffix(".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    for split, examples in splits.items():
        (scratch / split).mkdir(parents=True)
        tokens = example_set(encode(examples.texts), examples.labels)
        if not tokens.lengths.all():
            row = int(np.argmin(tokens.lengths)) + 1
            raise DataError(
                f"Split '{split}', row {row}: the tokenizer finds no token in the text."
            )
        np.save(scratch / split / "ids.npy", tokens.ids)
        np.save(scratch / split / "offsets.npy", tokens.offsets)
        np.save(scratch / split / "labels.npy", tokens.labels)
        np.save(scratch / split / "groups.npy", np.searchsorted(groups, examples.groups))
    digests = {str(path.relative_to(scratch)): file_sha256(path) for path in scratch.glob("*/*")}
    meta = {
        "splits": list(splits),
        "labels": list(label_names),
        "groups": groups,
        "sha256": digests,
    }
    (scratch / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def _sound(folder: Path) -> bool:
    """Say whether a store is complete and every file of it as it was written."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        return all(file_sha256(folder / name) == sha for name, sha in meta["sha256"].items())
    except (OSError, ValueError, KeyError):
        return False


def _open(folder: Path, group_names: tuple[str, ...]) -> ExampleSet:
    """Map one split into memory."""
    offsets = np.load(folder / "offsets.npy", allow_pickle=False)
    return ExampleSet(
        ids=np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False),
        offsets=offsets,
        labels=np.load(folder / "labels.npy", allow_pickle=False),
        groups=np.load(folder / "groups.npy", allow_pickle=False).astype(np.int64),
        group_names=group_names,
        indices=np.arange(len(offsets) - 1, dtype=np.int64),
    )
