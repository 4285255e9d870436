"""Data name → files, with a fingerprint, before anything is read.

A source is a known id, a local file or folder, or a hub id.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedpeft_app.data.folders import (
    TABLES,
    class_folders_in,
    files_in,
    idx_in,
    stamp,
    tables_in,
)
from fedpeft_app.errors import DataError, SourceError
from fedpeft_app.mirrors import MIRRORS, fetch
from fedpeft_app.mirrors.digest import file_sha256

_FASHION_MNIST = "fashion-mnist"  # Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747
_FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of the Debian package
_FASHION_LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# Suffixes that make a name a file's, also where there is no such file. Ids of the hub may have
# dots: no other suffix decides.
_FILES = (*TABLES, ".tsv", ".txt", ".tab", ".xls", ".xlsx", ".arrow", ".feather", ".gz", ".zip")

Kind = Literal["cardoso", "tables", "idx", "classes", "hub"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where examples come from.

    Attributes:
        name: As the user wrote it.
        kind: "cardoso" (pinned tab files), "tables" (local files), "idx" (MNIST's format),
            "classes" (a folder a class), or "hub".
        files: Split → what holds it: a table, a file of IDX images, or a folder; at least
            "train". Empty for a hub source.
        beside: Split → file of IDX labels; empty for all other kinds.
        subset: Configuration of a hub data set; "" = its default.
        labels: Label names in order, where the source is known to have them.
        fingerprint: Changes whenever a file does; a hub source's is its name.
    """

    name: str
    kind: Kind
    files: Mapping[str, Path]
    beside: Mapping[str, Path] = field(default_factory=dict)
    subset: str = ""
    labels: tuple[str, ...] = ()
    fingerprint: str


def find_source(name: str, subset: str = "") -> Source:
    """Find a data source: a known id, a local file or folder, or a hub id, in this order.

    Args:
        name: Known id, path (`~` is the home folder), or hub id.
        subset: Configuration of a hub data set.

    Returns:
        The source, fingerprinted; a hub source is looked up only when it is read.

    Raises:
        SourceError: If a local path does not exist, or a known source is not to be had.
        DataError: If a path holds no data in a known layout.
    """
    if name in _mirrored():
        folder = fetch(name)
        files = {split: folder / f"{name}-{split}.tab" for split in ("train", "test")}
        return _source(name, "cardoso", files)
    if name == _FASHION_MNIST:
        return _idx_source(name, _fashion_files(), _FASHION_LABELS)
    path = Path(os.path.expanduser(name))
    if path.is_file():
        return _source(name, "tables", {"train": _known_format(path)})
    if path.is_dir():
        return _local_folder(name, path.absolute())
    if _is_path(name):
        known = ", ".join([*_mirrored(), _FASHION_MNIST])
        raise SourceError(
            f"No data at '{name}' (looked from {Path.cwd()}). Give an existing file "
            f"({', '.join(TABLES)}) or folder, a hub id, or one of: {known}."
        )
    fingerprint = f"hub:{name}:{subset}" if subset else f"hub:{name}"
    return Source(name=name, kind="hub", files={}, subset=subset, fingerprint=fingerprint)


def _is_path(name: str) -> bool:
    """Say whether a name can only be one of a file or folder; ids of the hub are "a" or "a/b"."""
    looks_local = name.startswith((".", "/", "~")) or name.lower().endswith(("/", *_FILES))
    return looks_local or name.count("/") > 1


def _mirrored() -> list[str]:
    """List the pinned sources that are data sets; the others are models."""
    return [name for name, mirror in MIRRORS.items() if f"{name}-train.tab" in mirror.files]


def _local_folder(name: str, folder: Path) -> Source:
    """Recognise the layout of a folder."""
    if tables := tables_in(folder):
        return _source(name, "tables", tables)
    if idx := idx_in(folder):
        return _idx_source(name, idx)
    if classes := class_folders_in(folder):
        paths = [path for place in classes.values() for path, _ in files_in(place)]
        return Source(name=name, kind="classes", files=classes, fingerprint=stamp(paths))
    raise DataError(
        f"Expected in {folder} a file named train{{{','.join(TABLES)}}} with, if there are any, "
        f"validation and test files beside it; or train-images-idx3-ubyte[.gz] and its labels; "
        f"or one sub-folder a class, of images or .txt files. Found none of them."
    )


def _fashion_files() -> Mapping[str, tuple[Path, Path]]:
    """Find Fashion-MNIST where Debian's package puts it."""
    files = idx_in(_FASHION_FOLDER)
    if not files:
        raise SourceError(
            f"No Fashion-MNIST in {_FASHION_FOLDER}. On Debian and its kin, run: apt-get install "
            f"dataset-fashion-mnist. Elsewhere, give the folder of its four IDX files."
        )
    return files


def _idx_source(
    name: str, files: Mapping[str, tuple[Path, Path]], labels: tuple[str, ...] = ()
) -> Source:
    """Describe IDX files, images and labels apart."""
    every = {f"{split}-{at}": path for split, pair in files.items() for at, path in enumerate(pair)}
    return Source(
        name=name,
        kind="idx",
        files={split: images.absolute() for split, (images, _) in files.items()},
        beside={split: numbers.absolute() for split, (_, numbers) in files.items()},
        labels=labels,
        fingerprint=_digest(every),
    )


def _source(name: str, kind: Kind, files: Mapping[str, Path]) -> Source:
    """Describe files, one a split."""
    absolute = {split: path.absolute() for split, path in files.items()}
    return Source(name=name, kind=kind, files=absolute, fingerprint=_digest(files))


def _digest(files: Mapping[str, Path]) -> str:
    """Fingerprint files by their content and what each is for."""
    digest = hashlib.sha256()
    for purpose in sorted(files):
        digest.update(f"{purpose}:{file_sha256(files[purpose])}\n".encode())
    return digest.hexdigest()[:16]


def _known_format(path: Path) -> Path:
    """Refuse a file whose format is not known."""
    if path.suffix not in TABLES:
        raise DataError(f"Expected {', '.join(TABLES)}, got '{path}'.")
    return path
