"""SHA-256 of files, remembered while size and modification time stay the same."""

import hashlib
from functools import lru_cache
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Digest a file; a second call in this process is free unless the file changed.

    Args:
        path: An existing file.

    Returns:
        Its SHA-256, 64 hex digits.
    """
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4096)
def _sha256(path: str, _size: int, _mtime_ns: int, _inode: int) -> str:
    """Digest the content of a path."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
