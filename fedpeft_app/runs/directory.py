"""A run is a folder: config, journal, checkpoints, exported adapter."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedpeft_app.atomic import write_json
from fedpeft_app.errors import RunFolderError
from fedpeft_app.mirrors import home

_CONFIG, _JOURNAL, _CHECKPOINTS = "config.json", "journal.jsonl", "checkpoints"
_TELLING = ("mode", "rounds", "method.name")  # model folders have a config.json too


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """One run's folder.

    Attributes:
        path: `<UTC time>-<name>-<short run id>` in the folder of runs, absolute; `<UTC time>.2`
            if another run took that name.
    """

    path: Path

    @property
    def journal(self) -> Path:
        """The journal, JSON lines."""
        return self.path / _JOURNAL

    @property
    def secret(self) -> Path:
        """What follows from who was drawn, JSON lines; for whoever runs the server alone."""
        return self.path / "secret.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of adapter states by round."""
        return self.path / _CHECKPOINTS

    @property
    def adapter(self) -> Path:
        """Folder of the exported adapter."""
        return self.path / "adapter"

    def config(self) -> dict[str, Any]:
        """Read the run's flat configuration.

        Raises:
            RunFolderError: If it is missing, unreadable, or not that of a run.
        """
        path = self.path / _CONFIG
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path} is not a run folder: {error}") from error
        if not isinstance(config, dict) or any(key not in config for key in _TELLING):
            raise RunFolderError(
                f"{self.path} is not a run folder: expected {', '.join(_TELLING)} in {path}."
            )
        return config

    def events(self) -> list[dict[str, Any]]:
        """Read the journal; a half-written last line is left out.

        Raises:
            RunFolderError: If a whole line is not JSON.
        """
        if not self.journal.exists():
            return []
        content = self.journal.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:  # split at line feeds alone: JSON text may hold other line separators
            return [json.loads(line) for line in whole.split(b"\n")[:-1]]
        except ValueError as error:
            raise RunFolderError(f"The journal {self.journal} is damaged: {error}") from error


def short_id(run_id: int) -> str:
    """Give the part of a Flower run id that folder names carry: its last eight digits."""
    return f"{run_id % 10**8:08d}"


def create_run(parent: Path, name: str, run_id: int, config: Mapping[str, Any]) -> RunFolder:
    """Make a new run folder.

    Args:
        parent: The folder of runs, absolute; made if missing.
        name: Part of the folder's name.
        run_id: Flower's id of the run.
        config: The flat configuration.

    Raises:
        RunFolderError: If the folder cannot be made.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    try:
        path = _make_own(parent, stamp, f"{name}-{short_id(run_id)}")
        (path / _CHECKPOINTS).mkdir()
        write_json(path / _CONFIG, dict(config))
    except OSError as error:
        raise RunFolderError(f"Cannot create a run folder in {parent}: {error}") from error
    return RunFolder(path=path)


def runs_parent(configured: str = "") -> Path:
    """Give the folder of run folders, absolute.

    Args:
        configured: The value of `output.dir`; empty = the user's own folder.
    """
    return Path(configured).expanduser().absolute() if configured else home() / "runs"


def list_runs(parent: Path) -> Iterator[RunFolder]:
    """Walk over the runs in a folder, newest first.

    Args:
        parent: The folder of runs; nothing is found if it does not exist.
    """
    if parent.is_dir():
        for path in sorted(parent.iterdir(), reverse=True):
            if _looks_like_a_run(path):
                yield RunFolder(path=path)


def find_run(parent: Path, reference: str) -> RunFolder:
    """Find a run.

    Args:
        parent: The folder of runs.
        reference: A run folder's path, its name, a part of its name, or "latest": the newest
            that has something to show, a checkpoint, if there is one.

    Raises:
        RunFolderError: If none or several fit.
    """
    if not reference:
        raise RunFolderError("Expected a run, got an empty name.")
    direct = Path(reference).expanduser()
    if _looks_like_a_run(direct):
        return RunFolder(path=direct.absolute())
    runs = list(list_runs(parent))
    if reference == "latest" and runs:
        return next((run for run in runs if any(run.checkpoints.glob("round-*"))), runs[0])
    fitting = [run for run in runs if reference in run.path.name]
    if len(fitting) != 1:
        found = f"{len(fitting)} runs fit" if fitting else "no run fits"
        raise RunFolderError(
            f"Expected one run for '{reference}' in {parent}, but {found}. "
            f"`fedpeft runs` lists what there is."
        )
    return fitting[0]


def remove_run(run: RunFolder) -> None:
    """Delete a run's folder with everything in it.

    Args:
        run: The run.

    Raises:
        RunFolderError: If it is not a run folder, or cannot be deleted.
    """
    run.config()
    try:
        shutil.rmtree(run.path)
    except OSError as error:
        raise RunFolderError(f"Cannot delete the run folder {run.path}: {error}") from error


def _make_own(parent: Path, stamp: str, ending: str) -> Path:
    """Make a folder that was not there: a second run within a second gets a number."""
    number = 1
    while True:
        path = parent / f"{stamp}{f'.{number}' * (number > 1)}-{ending}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def _looks_like_a_run(path: Path) -> bool:
    """Tell a run's folder from a model's, which also has a config.json."""
    return (path / _CONFIG).is_file() and (path / _CHECKPOINTS).is_dir()
