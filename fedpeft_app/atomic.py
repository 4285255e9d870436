"""Files that are either the old ones or the new ones, never half of one."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically: write beside it, fsync, rename.

    Args:
        path: The file; its folder must exist.
        content: What it is to hold.

    Raises:
        OSError: If it cannot be written.

    Guarantee:
        Whatever fails, the file keeps its old content and nothing is left beside it.
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


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically; arguments and guarantee as for `write_bytes`."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
