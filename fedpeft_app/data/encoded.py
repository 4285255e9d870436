"""Examples on disk, ready for a model: written once, memory-mapped by every process.

All splits of a source are one flat array and four small ones. The folder's name is a
fingerprint of everything that shaped the content, so a stale one is never read.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from fedpeft_app.data.examples import Examples
from fedpeft_app.data.images import Picture
from fedpeft_app.data.labels import Labels
from fedpeft_app.errors import DataError
from fedpeft_app.mirrors import cache_dir
from fedpeft_app.mirrors.digest import file_sha256

Ints = npt.NDArray[np.int64]
Values = npt.NDArray[np.int32] | npt.NDArray[np.uint8]
Read = Callable[[], tuple[dict[str, Examples], tuple[str, ...]]]
Encode = Callable[[Sequence[Any]], Iterable[Values | None]]

_LOG = logging.getLogger(__name__)
_VERSION = 4  # part of the fingerprint: raise it when the layout, or what tasks keep, changes


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSet:
    """Encoded examples, or a selection of them.

    Attributes:
        values: All examples, one after the other, memory-mapped: token ids, int32, or
            pixels, uint8. A token that is context, given to the model but not to be learnt,
            stands there as its complement, `~id`, which is negative: so one array says what
            the loss counts, also in a conversation whose turns take turns.
        offsets: Start of each example in `values`, plus the end: `(stored + 1,)`.
        shape: Shape of every example; () where each is a row of tokens of its own length.
        labels: Per stored example its label index, `(stored,)`, or its marks of many
            labels, `(stored, labels)`.
        groups: Natural node per stored example, an index into `group_names`; may be empty, or
            end with the training split, which is stored first.
        group_names: Names of the natural nodes, sorted.
        indices: The selected examples, as positions among the stored ones.
        source: Fingerprint of the store that they lie in; empty for those in memory alone.
    """

    values: Values
    offsets: Ints
    shape: tuple[int, ...]
    labels: Labels
    groups: Ints
    group_names: tuple[str, ...]
    indices: Ints
    source: str = ""

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def lengths(self) -> Ints:
        """Values per selected example."""
        return self.offsets[self.indices + 1] - self.offsets[self.indices]

    @property
    def selected_labels(self) -> Labels:
        """Label index, or marks of many labels, per selected example."""
        return self.labels[self.indices]

    @property
    def strata(self) -> Ints:
        """One label per selected example, for what spreads examples by label.

        Of many labels it is the first; an example without any has the number after the last.
        """
        labels = self.selected_labels
        if labels.ndim == 1:
            return labels.astype(np.int64)
        marked = np.pad(labels, ((0, 0), (0, 1)), constant_values=1)
        first: Ints = marked.argmax(axis=1).astype(np.int64)
        return first

    def select(self, positions: Ints) -> "ExampleSet":
        """Narrow the selection to positions within it, sharing the arrays.

        Args:
            positions: Positions from 0 to `len(self) - 1`, in the order wanted.
        """
        return replace(self, indices=self.indices[positions])

    def row(self, position: int) -> Values:
        """Give one selected example in its shape.

        Args:
            position: From 0 to `len(self) - 1`.
        """
        stored = self.indices[position]
        flat = self.values[self.offsets[stored] : self.offsets[stored + 1]]
        return flat.reshape(self.shape) if self.shape else flat


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSource:
    """Every split of a source, encoded.

    Attributes:
        splits: Split name → examples; at least "train".
        label_names: Label names in the order of the label indices; empty where the labels
            are mere categories.
        fingerprint: Sixteen hex digits over everything that shaped the content.
    """

    splits: dict[str, ExampleSet]
    label_names: tuple[str, ...]
    fingerprint: str


def encoded(key: Sequence[object], read: Read, encode: Encode) -> EncodedSource:
    """Open an encoded source, making it first where it is missing.

    Args:
        key: Everything that shapes the content: fingerprints of the source and of the
            tokenizer or image processor, columns, length.
        read: Reads the raw examples; called only where nothing is stored.
        encode: Inputs of all splits → a row of values each, all token ids or all pixels of
            one shape, or None for one of which nothing can be learnt whole.

    Returns:
        The source, memory-mapped. Concurrent processes encode once (file lock); a damaged
        store is made anew.

    Raises:
        DataError: If an input cannot be encoded (file and row are named), or a split keeps
            no example.
    """
    text = json.dumps([_VERSION, *key], default=str)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = cache_dir() / "examples" / fingerprint
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not _sound(folder):
        with FileLock(f"{folder}.lock"):
            if not _sound(folder):  # another process may have made it meanwhile
                _write(folder, read, encode)
    return _open(folder, fingerprint)


def example_set(rows: Sequence[Any], labels: Labels | None = None) -> ExampleSet:
    """Hold encoded examples in memory, for a few at hand.

    Args:
        rows: Token ids of each example, or its pixels `(height, width, 3)`.
        labels: Labels of each example; None = all 0.
    """
    arrays = [row if isinstance(row, np.ndarray) else np.array(row, np.int32) for row in rows]
    flat = [array.ravel() for array in arrays]
    lengths = np.array([len(array) for array in flat], dtype=np.int64)
    return ExampleSet(
        values=np.concatenate(flat) if flat else np.zeros(0, np.int32),
        offsets=_offsets(lengths),
        shape=_shape(arrays[0]) if arrays else (),
        labels=np.zeros(len(rows), np.int64) if labels is None else labels,
        groups=np.zeros(0, np.int64),
        group_names=(),
        indices=np.arange(len(rows), dtype=np.int64),
    )


def _write(folder: Path, read: Read, encode: Encode) -> None:
    """Encode every split into a scratch folder, then move it into place at once."""
    splits, label_names = read()
    groups = sorted({group for examples in splits.values() for group in examples.groups})
    scratch = folder.with_suffix(".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    rows = _rows(splits, encode)
    lengths, shape, dtype = _write_values(scratch / "values.bin", rows)
    kept = lengths > 0  # nothing else has no values: _rows refuses it
    labels = np.concatenate([examples.labels for examples in splits.values()])
    members = [group for examples in splits.values() for group in examples.groups]  # train, first
    np.save(scratch / "offsets.npy", _offsets(lengths[kept]))
    np.save(scratch / "labels.npy", labels[kept])
    np.save(scratch / "groups.npy", np.searchsorted(groups, members)[kept[: len(members)]])
    meta = {
        "splits": _counts(splits, kept),
        "labels": list(label_names),
        "groups": groups,
        "shape": shape,
        "dtype": dtype,
        "sha256": {path.name: file_sha256(path) for path in scratch.iterdir()},
    }
    (scratch / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


def _rows(splits: Mapping[str, Examples], encode: Encode) -> Iterator[Values | None]:
    """Encode the inputs of all splits in turn, naming the row that cannot be."""
    places = (
        examples.place(row)
        for examples in splits.values()
        for row in range(1, len(examples.inputs) + 1)
    )
    inputs = [one for examples in splits.values() for one in examples.inputs]
    rows = iter(encode(inputs))
    for place, one in zip(places, inputs, strict=True):
        try:
            row = next(rows)
        except DataError as error:
            if isinstance(one, Picture):  # its message names it; sizes of all are looked at first
                raise
            raise DataError(f"{place}: {error}") from error
        if row is not None and not row.size:
            raise DataError(f"{place}: the tokenizer finds no token in the text.")
        yield row


def _write_values(path: Path, rows: Iterable[Values | None]) -> tuple[Ints, tuple[int, ...], str]:
    """Write rows one after the other; give their lengths, 0 for None, their shape and type."""
    lengths: list[int] = []
    first: Values | None = None
    with path.open("wb") as file:
        for row in rows:
            lengths.append(0 if row is None else row.size)
            if row is not None:
                first = row if first is None else first
                file.write(row.tobytes())
    if first is None:
        return np.array(lengths, np.int64), (), "int32"
    return np.array(lengths, np.int64), _shape(first), first.dtype.name


def _counts(splits: Mapping[str, Examples], kept: npt.NDArray[np.bool_]) -> dict[str, int]:
    """Count what is kept of each split, and say what is not."""
    counts, start = {}, 0
    for split, examples in splits.items():
        total = len(examples.inputs)
        counts[split] = int(kept[start : start + total].sum())
        start += total
        if not counts[split]:
            raise DataError(
                f"None of the {total} examples in {examples.where} has an answer that ends within "
                f"data.max-length. Raise it."
            )
        if lost := total - counts[split]:
            _LOG.warning(
                "%d of the %d examples in %s are left out, for their answers do not end within "
                "data.max-length.",
                lost,
                total,
                examples.where,
            )
    return counts


def _sound(folder: Path) -> bool:
    """Say whether a store is complete and every file of it as it was written."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        return all(file_sha256(folder / name) == sha for name, sha in meta["sha256"].items())
    except (OSError, ValueError, KeyError):
        return False


def _open(folder: Path, fingerprint: str) -> EncodedSource:
    """Map a store into memory."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    whole = ExampleSet(
        # As a plain array: rows of a memmap are memmaps, which take four times as long to cut out.
        values=np.asarray(np.memmap(folder / "values.bin", dtype=meta["dtype"], mode="r")),
        offsets=np.load(folder / "offsets.npy", allow_pickle=False),
        shape=tuple(meta["shape"]),
        labels=np.load(folder / "labels.npy", allow_pickle=False),
        groups=np.load(folder / "groups.npy", allow_pickle=False).astype(np.int64),
        group_names=tuple(meta["groups"]),
        indices=np.zeros(0, np.int64),
        source=fingerprint,
    )
    splits, start = {}, 0
    for split, count in meta["splits"].items():
        splits[split] = replace(whole, indices=np.arange(start, start + count, dtype=np.int64))
        start += count
    return EncodedSource(splits=splits, label_names=tuple(meta["labels"]), fingerprint=fingerprint)


def _offsets(lengths: Ints) -> Ints:
    """Turn lengths into where each row starts, plus the end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _shape(row: Values) -> tuple[int, ...]:
    """Give the shape that all rows share; rows of tokens share none."""
    return row.shape if row.ndim > 1 else ()
