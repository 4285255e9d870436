"""What frozen layers make of examples, on disk: computed once, memory-mapped by every process.

A folder for each selection of examples. Its name is a fingerprint of all that shaped the content,
so a stale one is never read; its digest is compared once per process, so neither is a damaged one.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from fedpeft_app.data.encoded import ExampleSet, Ints
from fedpeft_app.mirrors import cache_dir
from fedpeft_app.mirrors.digest import file_sha256

Rows = npt.NDArray[np.uint16] | npt.NDArray[np.float32]
Fill = Callable[["Activations"], None]

_VERSION = 1  # part of the fingerprint: raise it when the layout changes
_IN_USE_S = 600.0  # what was used this lately may belong to a run that is under way
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How much there is for each example.

    Attributes:
        rows: Rows of each example, `(examples,)`: its tokens, its patches, or 1.
        width: Numbers in a row.
        dtype: "uint16", the bits of bfloat16, or "float32".
    """

    rows: Ints
    width: int
    dtype: str

    @property
    def bytes(self) -> int:
        """What all of it takes."""
        return int(self.rows.sum()) * self.width * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """The activations of a selection of examples.

    Attributes:
        values: All rows, one example after the other, `(rows, width)`.
        offsets: First row of each example, plus the end: `(examples + 1,)`.
    """

    values: Rows
    offsets: Ints

    def batch(self, positions: Ints) -> Rows:
        """Collect some examples.

        Args:
            positions: Positions in the selection, `(batch,)`, at least one.

        Returns:
            `(batch, longest, width)`, with zeros behind the rows of shorter examples.
        """
        starts, ends = self.offsets[positions], self.offsets[positions + 1]
        shape = (len(positions), int((ends - starts).max()), self.values.shape[1])
        found: Rows = np.zeros(shape, self.values.dtype)
        for row, start, end in zip(found, starts, ends, strict=True):
            row[: end - start] = self.values[start:end]
        return found

    def put(self, positions: Ints, rows: Rows) -> None:
        """Write some examples.

        Args:
            positions: Positions in the selection, `(batch,)`.
            rows: `(batch, longest, width)`; what is behind an example's rows is left out.
        """
        for position, row in zip(positions, rows, strict=True):
            start, end = self.offsets[position], self.offsets[position + 1]
            self.values[start:end] = row[: end - start]


def activations(
    key: Sequence[object], examples: ExampleSet, shape: Shape, fill: Fill, limit_bytes: int
) -> Activations | None:
    """Open the activations of examples, computing them first where they are missing.

    Args:
        key: All that shapes them but the examples: model, layer, arithmetic.
        examples: The examples; they must lie in a store.
        shape: How much there is for each.
        fill: Writes all of them, for all examples, by `put`.
        limit_bytes: What all activations of this machine may take on its disk together.

    Returns:
        The activations; None if there is no room, or the disk has none, which is logged. Nothing
        that was used within the last ten minutes is deleted to make room.

    Guarantee:
        Concurrent processes compute them once (file lock).
    """
    if not examples.source:
        return None
    try:
        folder = _parent() / _fingerprint(key, examples, shape)
        with _lock(folder):
            if not _sound(folder) and not _written(folder, shape, fill, limit_bytes):
                _log.warning(
                    "No room for %.2f GiB of activations within %.2f GiB "
                    "(train.frozen-cache-gib): frozen layers are computed in every pass.",
                    shape.bytes / 2**30,
                    limit_bytes / 2**30,
                )
                return None
            os.utime(folder)  # it was used now
            return _mapped(folder / "values.bin", shape, "r")
    except OSError as error:
        _log.warning("Frozen layers are computed in every pass, for lack of a disk: %s", error)
        return None


def _parent() -> Path:
    """Give the folder of all activations."""
    parent = cache_dir() / "activations"
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # they tell as much as the examples do
    return parent


def _lock(folder: Path, timeout_s: float = -1) -> FileLock:
    """Give the lock of a folder, held while it is written, opened or deleted."""
    return FileLock(folder.with_suffix(".lock"), timeout=timeout_s)


def _allocate(file: int, size: int) -> None:
    """Give a file its size, and where the system can its place on the disk."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS
        os.truncate(file, size)


def _fingerprint(key: Sequence[object], examples: ExampleSet, shape: Shape) -> str:
    """Give sixteen hex digits over all that shapes the content."""
    told = [_VERSION, *key, examples.source, shape.width, shape.dtype]
    digest = hashlib.sha256(json.dumps([str(part) for part in told]).encode())
    digest.update(examples.indices.tobytes() + shape.rows.tobytes())
    return digest.hexdigest()[:16]


def _mapped(path: Path, shape: Shape, mode: Any) -> Activations:
    """Map a file into memory."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(shape.rows)])
    size = (int(offsets[-1]), shape.width)
    values: Rows = np.asarray(np.memmap(path, dtype=shape.dtype, mode=mode, shape=size))
    return Activations(values=values, offsets=offsets)


def _written(folder: Path, shape: Shape, fill: Fill, limit: int) -> bool:
    """Compute into a scratch folder, then move it into place at once; False if there is no room."""
    scratch = folder.with_suffix(".partial")
    path = scratch / "values.bin"
    try:
        with _changing():
            shutil.rmtree(scratch, ignore_errors=True)
            if not _make_room(shape.bytes, limit, but=folder):
                return False
            scratch.mkdir()
            with path.open("wb") as file:  # a full disk says so here, not by a signal in the map
                _allocate(file.fileno(), shape.bytes)
        mapped = _mapped(path, shape, "r+")
        fill(mapped)
        del mapped
        meta = {"sha256": file_sha256(path)}
        (scratch / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        with _changing():
            shutil.rmtree(folder, ignore_errors=True)
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def _sound(folder: Path) -> bool:
    """Say whether there are activations, as they were written."""
    try:
        told = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["sha256"]
        return bool(file_sha256(folder / "values.bin") == told)
    except (OSError, ValueError, KeyError):
        return False


def _changing() -> FileLock:
    """Give the lock under which folders come, go, and are counted."""
    return FileLock(_parent() / "room.lock")


def _make_room(wanted: int, limit: int, but: Path) -> bool:
    """Delete what has not been used for long, the oldest first, until there is room.

    Args:
        wanted: Bytes that are needed.
        limit: Bytes that all of them may take.
        but: Not counted: it is replaced by what needs the room.
    """
    with os.scandir(_parent()) as entries:
        kept = [entry.path for entry in entries if entry.is_dir() and entry.name != but.name]
    sizes = {path: _size(path) for path in kept}
    total = wanted + sum(sizes.values())
    if total > limit:
        for path in sorted(kept, key=_used):
            if total <= limit or time.time() - _used(path) <= _IN_USE_S:
                break
            if _deleted(path):
                total -= sizes[path]
    return total <= limit


def _used(folder: str) -> float:
    """Say when a folder was last opened, in seconds since the epoch."""
    return os.stat(folder).st_mtime


def _deleted(folder: str) -> bool:
    """Delete a folder, unless a process is about to open it, or still fills it."""
    try:
        with _lock(Path(folder), timeout_s=0):
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        return False
    return True


@lru_cache(maxsize=2**16)
def _size(folder: str) -> int:
    """Add up the files of a folder; its name says of what, so it never changes its size."""
    with os.scandir(folder) as files:
        return sum(file.stat().st_size for file in files)
