"""Folders that hold a data set: which kind, which splits, which files, none of them read.

Three layouts: one table a split (train.csv, test.parquet), IDX files as MNIST has them, and
one sub-folder a class, with or without folders of splits above.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedpeft_app.data.images import SUFFIXES, Picture
from fedpeft_app.errors import DataError

if TYPE_CHECKING:  # what is encoded already is found without it
    import pandas as pd

TABLES = (".csv", ".json", ".jsonl", ".parquet")
_TEXT = ".txt"
SPLIT_NAMES: Mapping[str, Sequence[str]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
_IDX_NAMES = {"train": "train", "test": "t10k"}  # as MNIST names them


def tables_in(folder: Path) -> dict[str, Path]:
    """Find one table a split, by file name.

    Args:
        folder: An existing folder.

    Returns:
        Split → file; empty where no file is named after a split.

    Raises:
        DataError: If a split has two files, or there is none for training.
    """
    found = {}
    for split, names in SPLIT_NAMES.items():
        paths = (folder / f"{name}{suffix}" for name in names for suffix in TABLES)
        candidates = [path for path in paths if path.is_file()]
        if len(candidates) > 1:
            raise DataError(f"Expected one {split} file in {folder}, got {len(candidates)}.")
        if candidates:
            found[split] = candidates[0]
    if found and "train" not in found:
        raise DataError(
            f"Expected a file named train{{{','.join(TABLES)}}} in {folder}, "
            f"and, if there are any, validation and test files beside it."
        )
    return found


def idx_in(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Find IDX files, packed or not.

    Args:
        folder: An existing folder.

    Returns:
        Split → files of images and of labels; empty where there are no training images.

    Raises:
        DataError: If a file of images has no file of labels beside it.
    """
    found = {}
    for split, prefix in _IDX_NAMES.items():
        images = _plain_or_packed(folder / f"{prefix}-images-idx3-ubyte")
        labels = _plain_or_packed(folder / f"{prefix}-labels-idx1-ubyte")
        if images and not labels:
            raise DataError(f"Expected {prefix}-labels-idx1-ubyte[.gz] beside {images}.")
        if images and labels:
            found[split] = (images, labels)
    return found if "train" in found else {}


def class_folders_in(folder: Path) -> dict[str, Path]:
    """Find the folders of splits, each with one sub-folder a class.

    Args:
        folder: An existing folder.

    Returns:
        Split → folder whose sub-folders are classes; `folder` itself is the training split
        where it has no "train"; empty where there are no sub-folders.

    Raises:
        DataError: If a split has two folders, or there is none for training.
    """
    found = {}
    for split, names in SPLIT_NAMES.items():
        candidates = [folder / name for name in names if (folder / name).is_dir()]
        if len(candidates) > 1:
            raise DataError(f"Expected one {split} folder in {folder}, got {len(candidates)}.")
        if candidates:
            found[split] = candidates[0]
    if found and "train" not in found:
        raise DataError(
            f"Expected in {folder} a folder train beside {', '.join(map(str, found.values()))}, "
            f"found none."
        )
    if found:
        return found
    return {"train": folder} if _sub_folders(folder) else {}


def read_class_folder(folder: Path) -> "pd.DataFrame":
    """List the examples of one split; the name of a sub-folder is the label of its files.

    Args:
        folder: What `class_folders_in` found.

    Returns:
        A table with the column "label", and "text" (read) or "image" (not yet decoded); its
        index names each example's file.

    Raises:
        DataError: If a class is empty, a file is neither text nor image, both occur, or a
            text is empty or not in UTF-8.
    """
    import pandas as pd

    labelled = files_in(folder)
    texts, images = _by_kind([path for path, _ in labelled])
    if texts and images:
        stray = min(texts, images, key=len)
        raise DataError(
            f"Expected images or {_TEXT} files in {folder}, got both, such as {stray[0]} among "
            f"{len(labelled)} files. Keep one kind."
        )
    labels, files = [label for _, label in labelled], [str(path) for path, _ in labelled]
    if texts:
        return pd.DataFrame({"text": [*map(_text, texts)], "label": labels}, index=files)
    pictures = [Picture(name=str(path), content=path) for path, _ in labelled]
    column = pd.Series(pictures, dtype=object, index=files)
    return pd.DataFrame({"image": column, "label": labels}, index=files)


def files_in(folder: Path) -> list[tuple[Path, str]]:
    """List the files below class folders with their labels, in the order of their names.

    Raises:
        DataError: As `read_class_folder`.
    """
    found = []
    for place in _sub_folders(folder):
        files = sorted(path for path in place.rglob("*") if path.is_file() and not _hidden(path))
        if not files:
            raise DataError(f"The class folder {place} holds no files. Fill or remove it.")
        for path in files:
            if path.suffix.lower() not in (_TEXT, *SUFFIXES):
                raise DataError(
                    f"Expected images ({', '.join(SUFFIXES)}) or {_TEXT} files in {folder}, got "
                    f"{path}. Remove it."
                )
        found += [(path, place.name) for path in files]
    if not found:
        raise DataError(f"Expected one sub-folder a class in {folder}, found none.")
    return found


def stamp(paths: Sequence[Path]) -> str:
    """Fingerprint many files by name, size and time of change, without reading them."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"Cannot read {path}: {error.strerror}.") from error
        digest.update(f"{path}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _plain_or_packed(path: Path) -> Path | None:
    """Give a file, or its .gz, or nothing."""
    packed = path.with_name(f"{path.name}.gz")
    return next((candidate for candidate in (path, packed) if candidate.is_file()), None)


def _sub_folders(folder: Path) -> list[Path]:
    """List the sub-folders of a folder by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _hidden(path))


def _hidden(path: Path) -> bool:
    """Say whether a system, not a person, put a file there."""
    return path.name.startswith((".", "__")) or path.name in ("Thumbs.db", "desktop.ini")


def _by_kind(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Part texts from images."""
    is_text = [path.suffix.lower() == _TEXT for path in paths]
    texts = [path for path, text in zip(paths, is_text, strict=True) if text]
    return texts, [path for path, text in zip(paths, is_text, strict=True) if not text]


def _text(path: Path) -> str:
    """Read a text, with or without a byte-order mark."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {path} as text in UTF-8: {error}") from error
    if not text.strip():
        raise DataError(f"Expected a text in {path}, found nothing. Fill or remove it.")
    return text
