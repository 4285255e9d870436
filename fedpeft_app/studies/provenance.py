"""What made a number: versions, and the commit of fedpeft where there is one."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import fedpeft_app

_TELLING = ("fedpeft", "flwr", "torch", "transformers", "peft", "numpy")


def provenance() -> dict[str, str]:
    """Name what is installed.

    Returns:
        "python" and each library → version; "commit" with "-dirty" behind it where fedpeft's
        files differ from it, unless fedpeft is not run from a checkout.
    """
    versions = {name: importlib.metadata.version(name) for name in _TELLING}
    commit = _commit(Path(fedpeft_app.__file__))
    return {
        "python": platform.python_version(),
        **versions,
        **({"commit": commit} if commit else {}),
    }


def _commit(file: Path) -> str:
    """Give the commit of a file's repository; empty if it is in none, or not in its history."""
    if not _git(file.parent, "ls-files", file.name):  # a virtual environment inside another's
        return ""
    return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str:
    """Ask git; empty where it, or what was asked for, is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],  # noqa: S607  the user's own git
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
