"""Adapter states on disk: safetensors, with the spec and the metrics in the header."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.errors import RunFolderError
from fedpeft_app.runs.atomic import write_bytes
from fedpeft_app.runs.directory import RunFolder

_FORMAT = "fedpeft-adapter-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An adapter state as it stood after a round.

    Attributes:
        state: The state.
        round_number: Round, from 1; 0 for the initial state.
        metrics: What was measured on it.
    """

    state: AdapterState
    round_number: int
    metrics: Mapping[str, Any]


def save_checkpoint(folder: RunFolder, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint atomically and give its path."""
    path = _path(folder, checkpoint.round_number)
    meta = {
        "format": _FORMAT,
        "spec": json.dumps(checkpoint.state.spec.to_json()),
        "round": str(checkpoint.round_number),
        "metrics": json.dumps(dict(checkpoint.metrics)),
    }
    write_bytes(path, save({"vector": checkpoint.state.vector}, metadata=meta))
    return path


def load_checkpoint(folder: RunFolder, round_number: int) -> Checkpoint:
    """Read the checkpoint of a round.

    Raises:
        RunFolderError: If it is missing, was not kept, or is damaged.
    """
    path = _path(folder, round_number)
    if not path.exists():
        kept = ", ".join(map(str, kept_rounds(folder))) or "none"
        raise RunFolderError(
            f"No checkpoint of round {round_number} in {folder.path}; kept: {kept}. "
            f"Run with output.keep = 'all' to keep every round."
        )
    try:
        with safe_open(path, framework="numpy") as file:
            meta = file.metadata() or {}
            vector = file.get_tensor("vector")
        spec = AdapterSpec.from_json(json.loads(meta["spec"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunFolderError(f"The checkpoint {path} is damaged: {error}") from error
    return Checkpoint(
        state=AdapterState(spec=spec, vector=np.ascontiguousarray(vector)),
        round_number=int(meta["round"]),
        metrics=json.loads(meta["metrics"]),
    )


def kept_rounds(folder: RunFolder) -> list[int]:
    """List the rounds that have a checkpoint, rising."""
    return sorted(int(path.stem[-6:]) for path in folder.checkpoints.glob("round-*.safetensors"))


def prune(folder: RunFolder, keep: set[int]) -> None:
    """Delete the checkpoints of all rounds but those to keep."""
    for round_number in set(kept_rounds(folder)) - keep:
        _path(folder, round_number).unlink(missing_ok=True)


def _path(folder: RunFolder, round_number: int) -> Path:
    return folder.checkpoints / f"round-{round_number:06d}.safetensors"
