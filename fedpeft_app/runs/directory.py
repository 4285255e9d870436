"""A run is a folder: config, journal, checkpoints, exported adapter."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedpeft_app.errors import RunFolderError
from fedpeft_app.runs.atomic import write_json

_CONFIG, _JOURNAL = "config.json", "journal.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """One run's folder.

    Attributes:
        path: `<UTC time>-<name>-<short run id>` in the folder of runs, absolute.
    """

    path: Path

    @property
    def journal(self) -> Path:
        """The journal, JSON lines."""
        return self.path / _JOURNAL

    @property
    def checkpoints(self) -> Path:
        """Folder of adapter states by round."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """Folder of the exported adapter."""
        return self.path / "adapter"

    def config(self) -> dict[str, Any]:
        """Read the run's flat configuration.

        Raises:
            RunFolderError: If it is missing or unreadable.
        """
        try:
            config: dict[str, Any] = json.loads((self.path / _CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{self.path} is not a run folder: {error}") from error
        return config

    def events(self) -> list[dict[str, Any]]:
        """Read the journal; a half-written last line is left out."""
        if not self.journal.exists():
            return []
        lines = self.journal.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]


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
    path = parent / f"{stamp}-{name}-{short_id(run_id)}"
    try:
        path.mkdir(parents=True)
        (path / "checkpoints").mkdir()
        write_json(path / _CONFIG, dict(config))
    except OSError as error:
        raise RunFolderError(f"Cannot create the run folder {path}: {error}") from error
    return RunFolder(path=path)


def list_runs(parent: Path) -> Iterator[RunFolder]:
    """Walk over the runs in a folder, newest first."""
    if parent.is_dir():
        for path in sorted(parent.iterdir(), reverse=True):
            if (path / _CONFIG).is_file():
                yield RunFolder(path=path)


def find_run(parent: Path, reference: str) -> RunFolder:
    """Find a run by folder, by folder name, by part of the name, or as "latest".

    Raises:
        RunFolderError: If none or several fit.
    """
    direct = Path(reference).expanduser()
    if (direct / _CONFIG).is_file():
        return RunFolder(path=direct.absolute())
    runs = list(list_runs(parent))
    if reference == "latest" and runs:
        return runs[0]
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

    Raises:
        RunFolderError: If it is not a run folder.
    """
    run.config()
    shutil.rmtree(run.path)
