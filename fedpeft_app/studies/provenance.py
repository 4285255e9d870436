"""What made a number: versions, the commit of fedpeft, and the user's own files it was made of."""

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

import fedpeft_app
from fedpeft_app.backbone.scratch import PREFIX as SCRATCH
from fedpeft_app.config.flat import Scalar
from fedpeft_app.environment import versions
from fedpeft_app.mirrors.digest import file_sha256

_INPUTS = ("model.name", "data.name", "method.init-from")  # may be paths
_DIGITS = 16


def provenance(config: Mapping[str, Scalar]) -> dict[str, str]:
    """Name what a run is made with, as things are now.

    Args:
        config: The run's full flat configuration.

    Returns:
        "python" and each library → version; "commit" with "-dirty" behind it where fedpeft's
        files differ from it, unless fedpeft is not run from a checkout; and `contents`.
    """
    commit = _commit(Path(fedpeft_app.__file__))
    return {
        **versions(),
        **({"commit": commit} if commit else {}),
        **contents(config),
    }


def contents(config: Mapping[str, Scalar]) -> dict[str, str]:
    """Fingerprint the files and folders of this machine that a configuration names.

    Args:
        config: A full flat configuration, its paths absolute.

    Returns:
        "content of KEY" → hex digits over the names and the content of the files. Hub ids and
        known ids have none, and files that a table names are not looked into.
    """
    named = {key: Path(str(config[key]).removeprefix(SCRATCH)) for key in _INPUTS}
    return {
        f"content of {key}": _digest(path)
        for key, path in named.items()
        if path.is_absolute() and path.exists()
    }


def spanning(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Join what held before a run and after it.

    Args:
        before: Name → version or fingerprint.
        after: The same, later.

    Returns:
        Name → its value, or both where it changed meanwhile: "a … b".
    """
    return {
        name: " … ".join(dict.fromkeys((before.get(name, "none"), after.get(name, "none"))))
        for name in (*before, *(name for name in after if name not in before))
    }


def _digest(path: Path) -> str:
    """Fingerprint a file, or all files of a folder."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path)}:{file_sha256(file)}\n".encode())
    return digest.hexdigest()[:_DIGITS]


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
