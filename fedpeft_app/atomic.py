"""Files that are either the old ones or the new ones, never half of one."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically: write beside it, fsync, rename, fsync the folder.

    Args:
        path: The file; its folder must exist.
        content: What it is to hold.

    Raises:
        OSError: If it cannot be written.

    Guarantee:
        Whatever fails, the file keeps its old content and nothing is left beside it; but where
        the last step fails, it has the new one, and nobody knows what a loss of power leaves.
    """
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically; arguments and guarantee as for `write_bytes`."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, to be found again after a crash.

    Raises:
        OSError: If it cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Force to disk which names a folder holds: a file's own fsync does not.

    Raises:
        OSError: If the folder cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
