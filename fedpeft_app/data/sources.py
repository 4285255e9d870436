"""Data name → files, with a fingerprint, before anything is read.

A source is a known id with a pinned offline mirror, a local file or folder, or a hub id.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedpeft_app.errors import DataError, SourceError
from fedpeft_app.mirrors import MIRRORS, fetch
from fedpeft_app.mirrors.digest import file_sha256

FORMATS = (".csv", ".json", ".jsonl", ".parquet")
_SPLIT_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "dev"),
    "test": ("test",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where examples come from.

    Attributes:
        name: As the user wrote it.
        kind: "cardoso" (pinned tab files), "files" (local), or "hub".
        files: Split → file; at least "train". Empty for a hub source.
        fingerprint: Changes whenever a file does; a hub source's is its name.
    """

    name: str
    kind: str
    files: Mapping[str, Path]
    fingerprint: str


def find_source(name: str) -> Source:
    """Find a data source: a known id, a local file or folder, or a hub id, in this order.

    Args:
        name: Known id, path (`~` is the home folder), or hub id.

    Returns:
        The source, fingerprinted; a hub source is looked up only when it is read.

    Raises:
        SourceError: If a local path does not exist or a pinned file cannot be fetched.
        DataError: If a path has no file of a known format.
    """
    if name in _known():
        folder = fetch(name)
        files = {split: folder / f"{name}-{split}.tab" for split in ("train", "test")}
        return _source(name, "cardoso", files)
    path = Path(os.path.expanduser(name))
    if path.is_file():
        return _source(name, "files", {"train": _known_format(path)})
    if path.is_dir():
        return _source(name, "files", _split_files(path))
    if path.suffix in FORMATS or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise SourceError(
            f"No data at '{name}' (looked from {Path.cwd()}). Give an existing file or folder, "
            f"a hub id, or one of: {', '.join(_known())}."
        )
    return Source(name=name, kind="hub", files={}, fingerprint=f"hub:{name}")


def _known() -> list[str]:
    """List the pinned sources that are data sets; the others are models."""
    return [name for name, mirror in MIRRORS.items() if f"{name}-train.tab" in mirror.files]


def _source(name: str, kind: str, files: Mapping[str, Path]) -> Source:
    """Fingerprint the files of a source."""
    digest = hashlib.sha256()
    for split in sorted(files):
        digest.update(f"{split}:{file_sha256(files[split])}\n".encode())
    absolute = {split: path.absolute() for split, path in files.items()}
    return Source(name=name, kind=kind, files=absolute, fingerprint=digest.hexdigest()[:16])


def _known_format(path: Path) -> Path:
    """Refuse a file whose format is not known."""
    if path.suffix not in FORMATS:
        raise DataError(f"Expected {', '.join(FORMATS)}, got '{path}'.")
    return path


def _split_files(folder: Path) -> dict[str, Path]:
    """Find the splits in a folder by their file names."""
    found = {}
    for split, names in _SPLIT_NAMES.items():
        candidates = [
            folder / f"{name}{suffix}"
            for name in names
            for suffix in FORMATS
            if (folder / f"{name}{suffix}").is_file()
        ]
        if len(candidates) > 1:
            raise DataError(f"Expected one {split} file in {folder}, got {len(candidates)}.")
        if candidates:
            found[split] = candidates[0]
    if "train" not in found:
        raise DataError(
            f"Expected a file named train{{{','.join(FORMATS)}}} in {folder}, "
            f"and, if there are any, validation and test files beside it."
        )
    return found
