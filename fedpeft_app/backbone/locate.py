"""Model name → a local folder with weights, and the fingerprint of what is in it."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from fedpeft_app.backbone import scratch
from fedpeft_app.errors import SourceError
from fedpeft_app.mirrors import MIRRORS, fetch
from fedpeft_app.mirrors.digest import file_sha256

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")  # no pickled weights from the hub


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedModel:
    """A pre-trained model on this machine.

    Attributes:
        name: The name the user gave.
        revision: The hub revision the user gave, or an empty string.
        origin: "folder", "scratch" (random weights), "mirror" (a pinned offline source) or
            "hub".
        path: Folder with config.json, weights and tokenizer.
        fingerprint: Sixteen hex digits over the content of config and weights.
        weight_bytes: Size of the weight files, what sending the backbone once would cost.
    """

    name: str
    revision: str
    origin: str
    path: Path
    fingerprint: str
    weight_bytes: int


def locate(name: str, revision: str = "") -> LocatedModel:
    """Find a model: a local folder, a pinned offline source, or a hub id, in this order.

    Args:
        name: Local folder (`~` is the home folder), known id, hub id, or "scratch:" and the
            architecture of a model with random weights.
        revision: Hub revision; empty for the default branch. A known id with a revision
            is looked up on the hub.

    Returns:
        The model's folder, fingerprinted.

    Raises:
        SourceError: If there is no such model, or its folder has no config or weights.
    """
    folder = Path(os.path.expanduser(name))
    if name.startswith(scratch.PREFIX):
        origin, path = "scratch", scratch.draw(name)
    elif folder.is_dir():
        origin, path = "folder", folder.absolute()
    elif name in _known() and not revision:
        origin, path = "mirror", fetch(name)
    else:
        origin, path = "hub", _from_hub(name, revision)
    weights = _weight_files(path)
    digest = hashlib.sha256()
    for file in [path / "config.json", *weights]:
        digest.update(f"{file.name}:{file_sha256(file)}\n".encode())
    return LocatedModel(
        name=name,
        revision=revision,
        origin=origin,
        path=path,
        fingerprint=digest.hexdigest()[:16],
        weight_bytes=sum(file.stat().st_size for file in weights),
    )


def _known() -> list[str]:
    """List the pinned sources that are models; the others are data sets."""
    return [name for name, mirror in MIRRORS.items() if "config.json" in mirror.files]


def _weight_files(path: Path) -> list[Path]:
    """List the weight files of a model folder, refusing a folder that is none."""
    config = path / "config.json"
    if not config.is_file():
        raise SourceError(f"Expected a model folder with config.json, found none in {path}.")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SourceError(f"Expected JSON in {config}: {error}") from error
    for pattern in WEIGHTS:
        if files := sorted(path.glob(pattern)):
            return files
    raise SourceError(
        f"The model folder {path} has a config.json but no weights. "
        f"Expected one of: {', '.join(WEIGHTS)}."
    )


def _from_hub(name: str, revision: str) -> Path:
    """Download a model from the hub, or say why that is not possible."""
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise SourceError(
            f"No model folder at '{name}' (looked from {Path.cwd()}). "
            f"Give an absolute path, or a hub id such as 'org/name'."
        )
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name, revision=revision or None, allow_patterns=list(_HUB_FILES))
    except Exception as error:  # the hub's own errors, and those of four layers below it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SourceError(
            f"Cannot get the model '{name}' from the hub: {reason}. "
            f"Give a local folder, check the name and the connection, or use one that "
            f"works offline: {', '.join(_known())}; '{scratch.PREFIX}' and an architecture "
            f"stands for random weights."
        ) from error
    return Path(folder)
