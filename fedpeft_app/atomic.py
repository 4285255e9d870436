"""Files that are either the old ones or the new ones, never half of one."""

import json
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

_RANDOM_BYTES = 8  # in a scratch file's name: two writers never meet
_SCRATCH = re.compile(rf"\.(?P<name>.+)\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}\.tmp", re.DOTALL)


def write_bytes(path: Path, content: bytes, *, private: bool = False) -> None:
    """Replace a file atomically: write beside it, fsync, rename, fsync the folder.

    Args:
        path: The file; its folder must exist.
        content: What it is to hold.
        private: Whether its owner alone may read it, whatever the umask.

    Raises:
        OSError: If it cannot be written.

    Guarantee:
        Whatever fails, the file keeps its old content and nothing is left beside it; but where
        the last step fails, it has the new one, and nobody knows what a loss of power leaves.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(_RANDOM_BYTES)}.tmp")
    mode = 0o600 if private else 0o666  # less what the umask takes
    try:
        with open(scratch, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        with suppress(FileNotFoundError):  # it could not be made, or was swept away
            os.unlink(scratch)
        raise
    sync_folder(path.parent)


def sweep(folder: Path, over: Callable[[str], bool] = lambda name: True) -> None:
    """Remove what processes have left in a folder that were killed while they wrote.

    As far as that can be done: what stays is in nobody's way.

    Args:
        folder: The folder; it may be missing.
        over: Says of the name of a file whether nobody can be writing it now.
    """
    for path in folder.glob(".*.tmp"):
        if (scratch := _SCRATCH.fullmatch(path.name)) and over(scratch["name"]):
            with suppress(OSError):
                path.unlink()


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
