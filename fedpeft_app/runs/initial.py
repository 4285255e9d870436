"""Start from an existing adapter folder, strictly."""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.parts import spread, trained_spec
from fedpeft_app.errors import AdapterMismatchError, RunFolderError

_PEFT, _OWN, _PLAIN = "adapter_model.safetensors", "adapter.safetensors", "model.safetensors"


def load_adapter(
    folder: Path,
    spec: AdapterSpec,
    labels: Sequence[str],
    *,
    drawn: Mapping[str, npt.NDArray[Any]] | None = None,
    personal: Collection[str] = (),
) -> AdapterState:
    """Read an exported adapter (or plain model) folder as a state.

    Args:
        folder: What `fedpeft export`, or PEFT's `save_pretrained`, wrote.
        spec: The adapter it must fit.
        labels: The run's label names; must equal the folder's labels.json, if it has one.
        drawn: Name → value of the run's tensors that do not train (a frozen head, LoRA-FA's
            A); where the folder has them, it must have the same.
        personal: Names of tensors that nodes keep for themselves; the folder's do not count.

    Returns:
        The folder's tensors; what the server alone writes starts from zero.

    Raises:
        RunFolderError: If the folder has no readable adapter.
        AdapterMismatchError: If tensors, labels or the LoRA scaling do not fit.
    """
    path = adapter_file(folder)
    _require_labels(folder, labels)
    stored = _stored(path)
    trained = trained_spec(spec)
    wanted = {peft_key(tensor.name): tensor.name for tensor in trained.tensors}
    beside = {peft_key(name): value for name, value in (drawn or {}).items()}
    _require_same_draw(folder, {key: stored[key] for key in stored if key in beside}, beside)
    ignored = {*beside, *map(peft_key, personal)}
    tensors = {
        wanted.get(key, key): array.astype(np.float32)
        for key, array in stored.items()
        if key in wanted or (path.name != _PLAIN and key not in ignored)  # that has the body too
    }
    state = AdapterState.from_tensors(trained, tensors)
    _require_scaling(folder, spec)
    return spread(state, spec)


def require_fitting(folder: Path, spec: AdapterSpec, labels: Sequence[str]) -> None:
    """Refuse a folder from which a run could not start, as far as that shows without values.

    Args:
        folder: As for `load_adapter`.
        spec: The adapter it must fit.
        labels: The run's label names.

    Raises:
        RunFolderError: If the folder has no readable adapter.
        AdapterMismatchError: If labels, the LoRA scaling, or the name or shape of a tensor do
            not fit. Tensors that are too many, or drawn otherwise, are left to `load_adapter`.
    """
    path = adapter_file(folder)
    _require_labels(folder, labels)
    found = _shapes(path)
    for tensor in trained_spec(spec).tensors:
        shape = found.get(peft_key(tensor.name))
        if shape != tensor.shape:
            raise AdapterMismatchError(
                f"Expected '{tensor.name}' with the shape {tensor.shape} in {path}, as this run's "
                f"{spec.method} has it, found {shape or 'no such tensor'}. Use the method and "
                f"settings of the run that made it; some methods are exported as another "
                f"(docs/methods.md), from which they cannot go on."
            )
    _require_scaling(folder, spec)


def _require_labels(folder: Path, labels: Sequence[str]) -> None:
    """Refuse an adapter that was trained for other labels, or another order of them."""
    known = _read_json(folder / "labels.json")
    if known is not None and known != list(labels):
        raise AdapterMismatchError(
            f"The adapter in {folder} was trained for the labels {known}, "
            f"this run has {list(labels)}."
        )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of what `_stored` reads."""
    body = path.with_name(_PLAIN)
    files = {"": path} | ({"body.": body} if path.name == _OWN and body.is_file() else {})
    found: dict[str, tuple[int, ...]] = {}
    try:
        for prefix, file in files.items():
            with safe_open(file, framework="numpy") as tensors:
                for key in tensors.keys():  # noqa: SIM118  it is no mapping
                    found[f"{prefix}{key}"] = tuple(tensors.get_slice(key).get_shape())
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"Cannot read {path}: {error}") from error
    return found


def _stored(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read an adapter's tensors, and those of a body that lies beside a head of our own."""
    try:
        stored: dict[str, npt.NDArray[Any]] = load_file(path)
        body = path.with_name(_PLAIN)
        if path.name == _OWN and body.is_file():
            stored |= {f"body.{key}": value for key, value in load_file(body).items()}
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"Cannot read {path}: {error}") from error
    return stored


def _require_same_draw(
    folder: Path, found: Mapping[str, npt.NDArray[Any]], drawn: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Refuse an adapter that was trained around other random tensors than this run has."""
    for key, value in found.items():
        if not np.array_equal(value, drawn[key]):
            raise AdapterMismatchError(
                f"The adapter in {folder} was trained around another '{key}', which does not "
                f"train and is drawn from the run's seed. Use the seed of the run that made it."
            )


def adapter_file(folder: Path) -> Path:
    """Find the weights in an adapter folder.

    Args:
        folder: As for `load_adapter`.

    Raises:
        RunFolderError: If it has none.
    """
    for name in (_PEFT, _OWN, _PLAIN):
        if (folder / name).is_file():
            return folder / name
    raise RunFolderError(f"Expected {_PEFT}, {_OWN} or {_PLAIN} in {folder}, found none.")


def peft_key(name: str) -> str:
    """Give the key under which PEFT stores a parameter: without the adapter's name.

    Args:
        name: The parameter's name in the PEFT model; other models' names stay as they are.
    """
    if name == "prompt_encoder.default.embedding.weight":
        return "prompt_embeddings"
    key = name.replace(".modules_to_save.default.", ".")
    key = re.sub(r"\.default(\.|$)", r"\1", key)
    if key.endswith(".lora_magnitude_vector.weight"):  # PEFT keeps DoRA's older key
        key = key.removesuffix(".weight")
    return key


def _require_scaling(folder: Path, spec: AdapterSpec) -> None:
    """Refuse a LoRA whose tensors would fit, but count for more or less than in training."""
    config = _read_json(folder / "adapter_config.json")
    if not isinstance(config, dict):
        return
    if config.get("peft_type") != "LORA":
        alpha, rank = config.get("alpha"), config.get("r")
        if alpha and rank and not math.isclose(float(alpha) / float(rank), spec.scaling):
            raise AdapterMismatchError(
                f"The adapter in {folder} was trained with alpha / r = {alpha}/{rank}, this run "
                f"has {spec.scaling:g}. Set method.alpha and method.rank to its own."
            )
        return
    rank, alpha = float(config.get("r", 8)), float(config.get("lora_alpha", 8))  # PEFT's defaults
    scaling = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if not math.isclose(scaling, spec.scaling):
        raise AdapterMismatchError(
            f"The adapter in {folder} was trained with a scaling (alpha / rank) of {scaling:g}, "
            f"this run has {spec.scaling:g}. Set method.alpha and method.rank to its own."
        )


def _read_json(path: Path) -> Any:
    """Read a JSON file; None if there is none."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"Cannot read {path}: {error}") from error
