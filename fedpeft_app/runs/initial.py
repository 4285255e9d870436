"""Start from an existing adapter folder, strictly."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.errors import AdapterMismatchError, RunFolderError

_FILES = ("adapter_model.safetensors", "model.safetensors")


def load_adapter(folder: Path, spec: AdapterSpec, labels: Sequence[str]) -> AdapterState:
    """Read an exported adapter (or plain model) folder as a state.

    Args:
        folder: What `fedpeft export`, or PEFT's `save_pretrained`, wrote.
        spec: The adapter it must fit.
        labels: The run's label names; must equal the folder's labels.json, if it has one.

    Raises:
        RunFolderError: If the folder has no readable adapter.
        AdapterMismatchError: If tensors or labels do not fit.
    """
    path = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    if path is None:
        raise RunFolderError(f"Expected one of {', '.join(_FILES)} in {folder}, found none.")
    known = folder / "labels.json"
    if known.is_file() and json.loads(known.read_text(encoding="utf-8")) != list(labels):
        raise AdapterMismatchError(
            f"The adapter in {folder} was trained for other labels than this run's {list(labels)}."
        )
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"Cannot read {path}: {error}") from error
    wanted = {peft_key(tensor.name): tensor.name for tensor in spec.tensors}
    tensors = {
        wanted.get(key, key): array.astype(np.float32)
        for key, array in stored.items()
        if key in wanted or path.name == _FILES[0]
    }
    return AdapterState.from_tensors(spec, tensors)


def peft_key(name: str) -> str:
    """Give the key under which PEFT stores a parameter: without the adapter's name."""
    return name.replace(".modules_to_save.default.", ".").replace(".default.", ".")
