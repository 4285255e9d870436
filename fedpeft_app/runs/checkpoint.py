"""What a run can go on from after a crash: adapter states on disk, and all that came with them.

A file is safetensors, so that anything can read the adapter; spec, metrics and the rest of the
values are in its header. safetensors notices a cut file but not a changed one, so the header also
holds a digest of everything else.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.atomic import write_bytes
from fedpeft_app.errors import AdapterMismatchError, RunFolderError
from fedpeft_app.runs.directory import RunFolder
from fedpeft_app.snapshot import Array, Snapshot

_FORMAT, _STATES_ALONE = "fedpeft-checkpoint-2", "fedpeft-adapter-1"
_KNOWN = (_FORMAT, _STATES_ALONE)
_OURS = "fedpeft-"  # what every format of ours begins with
_PREFIX, _DAMAGED = "round-", ".damaged"
_VECTOR, _PROGRESS, _DIGEST = "vector", "progress/", "sha256"
_BROKEN = (SafetensorError, LookupError, ValueError, TypeError, AdapterMismatchError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A run as it stood after a round.

    Attributes:
        state: The global state.
        round_number: Round, from 1; 0 for the initial state.
        metrics: What was measured on it, JSON values.
        progress: What else the next round depends on; None = nobody can go on from here.
    """

    state: AdapterState
    round_number: int
    metrics: Mapping[str, Any] = field(default_factory=dict)
    progress: Snapshot | None = None

    def require_progress(self) -> Snapshot:
        """Give the progress.

        Raises:
            RunFolderError: If nobody can go on from here.
        """
        if self.progress is None:
            raise RunFolderError(
                f"The checkpoint of round {self.round_number} has the adapter alone."
            )
        return self.progress


def save_checkpoint(folder: RunFolder, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint atomically.

    Args:
        folder: The run's folder.
        checkpoint: What to keep.

    Returns:
        The file's path.

    Raises:
        RunFolderError: If it cannot be written.
    """
    path = _path(folder, checkpoint.round_number)
    progress = checkpoint.progress
    tensors: dict[str, Array] = {_VECTOR: checkpoint.state.vector}
    if progress is not None:
        tensors |= {f"{_PROGRESS}{name}": array for name, array in progress.arrays.items()}
    meta = {
        "format": _FORMAT,
        "spec": json.dumps(checkpoint.state.spec.to_json()),
        "round": str(checkpoint.round_number),
        "metrics": json.dumps(dict(checkpoint.metrics)),
        "progress": json.dumps(None if progress is None else dict(progress.values)),
    }
    meta[_DIGEST] = _digest(meta, tensors)
    try:
        write_bytes(path, save(tensors, metadata=meta))
    except OSError as error:
        raise RunFolderError(
            f"Cannot write the checkpoint {path}: {error.strerror or error}. Make room there; the "
            f"run can go on from the rounds that are kept."
        ) from error
    return path


def load_checkpoint(folder: RunFolder, round_number: int) -> Checkpoint:
    """Read the checkpoint of a round.

    Args:
        folder: The run's folder.
        round_number: Round, from 1.

    Raises:
        RunFolderError: If it is missing, was not kept, is damaged, cannot be read, or was written
            by another version.

    Guarantee:
        Everything has the bits that were saved.
    """
    found = examine_checkpoint(folder, round_number)
    if isinstance(found, str):
        raise RunFolderError(found)
    return found


def examine_checkpoint(folder: RunFolder, round_number: int) -> Checkpoint | str:
    """Read the checkpoint of a round, or say that it is damaged, so that nobody ever can.

    Args:
        folder: The run's folder.
        round_number: Round, from 1.

    Returns:
        The checkpoint, as `load_checkpoint` gives it; or what is wrong with the file.

    Raises:
        RunFolderError: If it is missing, was not kept, cannot be read now, or was written by
            another version: somebody else, or another time, may find it sound.
    """
    path = _path(folder, round_number)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        kept = ", ".join(map(str, kept_rounds(folder))) or "none"
        raise RunFolderError(
            f"No checkpoint of round {round_number} in {folder.path}; kept: {kept}. "
            f"Run with output.keep = 'all' to keep every round."
        ) from error
    except OSError as error:
        raise RunFolderError(
            f"Cannot read the checkpoint {path}: {error.strerror or error}. It may be sound: mend "
            f"that, or move the file away to do without it."
        ) from error
    try:
        return _read(content, path)
    except _BROKEN as error:
        return f"The checkpoint {path} is damaged: {error}"


def kept_rounds(folder: RunFolder) -> list[int]:
    """List the rounds that have a checkpoint, rising."""
    names = (path.stem.removeprefix(_PREFIX) for path in folder.checkpoints.glob(_pattern("*")))
    return sorted(int(name) for name in names if name.isdecimal())


def prune(folder: RunFolder, keep: set[int]) -> None:
    """Delete the checkpoints of all rounds but those to keep.

    Args:
        folder: The run's folder.
        keep: Rounds to keep; those that have no checkpoint do not matter.
    """
    for round_number in set(kept_rounds(folder)) - keep:
        _path(folder, round_number).unlink(missing_ok=True)


def set_aside(folder: RunFolder, after: int) -> None:
    """Rename checkpoints from which nobody can go on: they count no more, but can be looked at.

    Those that were set aside earlier are deleted, so that they do not pile up.

    Args:
        folder: The run's folder.
        after: The last round whose checkpoint stays.

    Raises:
        OSError: If that cannot be done.
    """
    useless = [number for number in kept_rounds(folder) if number > after]
    if useless:
        for path in folder.checkpoints.glob(f"{_pattern('*')}{_DAMAGED}"):
            path.unlink()
    for path in (_path(folder, number) for number in useless):
        path.replace(path.with_name(f"{path.name}{_DAMAGED}"))


def _read(content: bytes, path: Path) -> Checkpoint:
    """Read a file's content and check it against its own header."""
    tensors = load(content)
    meta = _metadata(content)
    if meta["format"] not in _KNOWN:
        _refuse_format(meta, tensors, path)
    told = meta.pop(_DIGEST)
    if told != (_digest(meta, tensors) if meta["format"] == _FORMAT else _old_digest(tensors)):
        raise ValueError("it does not have the digest in its header")
    vector = tensors.pop(_VECTOR)
    values = json.loads(meta.get("progress", "null"))
    return Checkpoint(
        state=AdapterState(spec=AdapterSpec.from_json(json.loads(meta["spec"])), vector=vector),
        round_number=int(meta["round"]),
        metrics=json.loads(meta["metrics"]),
        progress=None if values is None else Snapshot(values=values, arrays=_progress(tensors)),
    )


def _metadata(content: bytes) -> dict[str, str]:
    """Read what a safetensors file says of itself: its length in 8 bytes, then JSON."""
    end = 8 + int.from_bytes(content[:8], "little")
    meta: dict[str, str] = json.loads(content[8:end]).get("__metadata__") or {}
    return meta


def _refuse_format(meta: Mapping[str, str], tensors: Mapping[str, Array], path: Path) -> None:
    """Tell a file of another version, which is whole to whoever knows it, from a damaged one."""
    rest = {key: value for key, value in meta.items() if key != _DIGEST}
    flipped = meta.get(_DIGEST) == _digest({**rest, "format": _FORMAT}, tensors)  # bits of the name
    if flipped or not meta["format"].startswith(_OURS):
        raise ValueError(f"expected format '{_FORMAT}', got '{meta['format']}'")
    raise RunFolderError(
        f"Expected a checkpoint of format {' or '.join(_KNOWN)}, got {meta['format']}, in {path}: "
        f"another version of fedpeft wrote it. Go on with that version, or move the file away to "
        f"do without it."
    )


def _progress(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Find the arrays of the progress."""
    return {
        name.removeprefix(_PROGRESS): array
        for name, array in tensors.items()
        if name.startswith(_PROGRESS)
    }


def _digest(meta: Mapping[str, str], tensors: Mapping[str, Array]) -> str:
    """Tell a changed file from the one that was written."""
    shapes = {name: [array.dtype.str, *array.shape] for name, array in tensors.items()}
    digest = hashlib.sha256(json.dumps([meta, shapes], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def _old_digest(tensors: Mapping[str, Array]) -> str:
    """Give the digest of files that had nothing but an adapter."""
    return hashlib.sha256(tensors[_VECTOR].tobytes()).hexdigest()


def _path(folder: RunFolder, round_number: int) -> Path:
    """Name a round's file."""
    return folder.checkpoints / _pattern(f"{round_number:06d}")


def _pattern(number: str) -> str:
    """Write a checkpoint's file name."""
    return f"{_PREFIX}{number}.safetensors"
