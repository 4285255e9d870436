"""Adapter states on disk: safetensors, with the spec and the metrics in the header.

safetensors notices a cut file but not a changed value, so the header also holds a digest.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.atomic import write_bytes
from fedpeft_app.errors import AdapterMismatchError, RunFolderError
from fedpeft_app.runs.directory import RunFolder

_FORMAT = "fedpeft-adapter-1"
_PREFIX = "round-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An adapter state as it stood after a round.

    Attributes:
        state: The state.
        round_number: Round, from 1; 0 for the initial state.
        metrics: What was measured on it, JSON values.
    """

    state: AdapterState
    round_number: int
    metrics: Mapping[str, Any]


def save_checkpoint(folder: RunFolder, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint atomically.

    Args:
        folder: The run's folder.
        checkpoint: What to keep.

    Returns:
        The file's path.

    Raises:
        OSError: If it cannot be written.
    """
    path = _path(folder, checkpoint.round_number)
    vector = checkpoint.state.vector
    meta = {
        "format": _FORMAT,
        "spec": json.dumps(checkpoint.state.spec.to_json()),
        "round": str(checkpoint.round_number),
        "metrics": json.dumps(dict(checkpoint.metrics)),
        "sha256": hashlib.sha256(vector.tobytes()).hexdigest(),
    }
    write_bytes(path, save({"vector": vector}, metadata=meta))
    return path


def load_checkpoint(folder: RunFolder, round_number: int) -> Checkpoint:
    """Read the checkpoint of a round.

    Args:
        folder: The run's folder.
        round_number: Round, from 1.

    Raises:
        RunFolderError: If it is missing, was not kept, or is damaged.

    Guarantee:
        The state has the bits that were saved.
    """
    path = _path(folder, round_number)
    if not path.exists():
        kept = ", ".join(map(str, kept_rounds(folder))) or "none"
        raise RunFolderError(
            f"No checkpoint of round {round_number} in {folder.path}; kept: {kept}. "
            f"Run with output.keep = 'all' to keep every round."
        )
    try:
        return _read(path)
    except (SafetensorError, OSError, KeyError, ValueError, AdapterMismatchError) as error:
        raise RunFolderError(f"The checkpoint {path} is damaged: {error}") from error


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


def _read(path: Path) -> Checkpoint:
    """Read a file and check it against its own header."""
    with safe_open(path, framework="numpy") as file:
        meta = file.metadata() or {}
        vector = np.ascontiguousarray(file.get_tensor("vector"))
    if meta["format"] != _FORMAT:
        raise ValueError(f"expected format '{_FORMAT}', got '{meta['format']}'")
    if hashlib.sha256(vector.tobytes()).hexdigest() != meta["sha256"]:
        raise ValueError("its values do not have the digest in its header")
    spec = AdapterSpec.from_json(json.loads(meta["spec"]))
    return Checkpoint(
        state=AdapterState(spec=spec, vector=vector),
        round_number=int(meta["round"]),
        metrics=json.loads(meta["metrics"]),
    )


def _path(folder: RunFolder, round_number: int) -> Path:
    """Name a round's file."""
    return folder.checkpoints / _pattern(f"{round_number:06d}")


def _pattern(number: str) -> str:
    """Write a checkpoint's file name."""
    return f"{_PREFIX}{number}.safetensors"
