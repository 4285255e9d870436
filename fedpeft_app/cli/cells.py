"""A study's runs, each a `fedpeft run` of its own: some at a time, on a share of this machine."""

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedpeft_app.cli.settings import to_toml
from fedpeft_app.cli.shares import gpus_here, names_of_gpus
from fedpeft_app.cli.superlink import DIE_WITH_PARENT, executable
from fedpeft_app.errors import ConfigError, Fault, LaunchError
from fedpeft_app.runs.directory import RunFolder, list_runs, runs_parent
from fedpeft_app.studies.plan import Cell
from fedpeft_app.studies.record import Archive, Ending

_PATIENCE_S = 60.0  # a run that is stopped ends Flower and Ray in order
_LOOK_S = 0.2  # so often a run looks whether all are to stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What each run of a study gets of this machine.

    Attributes:
        jobs: Runs at the same time.
        client_cpus: Cores of a client; 0 = as `fedpeft run` chooses.
        client_gpus: GPUs of a client.
        actors: Clients of a run at the same time; 0 = what its share of the cores allows.
    """

    jobs: int = 1
    client_cpus: int = 0
    client_gpus: float = 0.0
    actors: int = 0

    def of(self, *, pooled: bool = False) -> tuple[int, int]:
        """Divide the cores among the runs: a client's, and how many clients train at a time.

        Args:
            pooled: Whether the run has one client, with all data, which takes all of the share.

        Returns:
            0 where `fedpeft run` chooses.
        """
        actors, cpus = self.actors, self.client_cpus
        cores = max(1, (os.cpu_count() or 1) // self.jobs)
        if self.jobs > 1 and pooled:
            cpus = cpus or cores
        elif self.jobs > 1 and not actors:
            actors = max(1, cores // (cpus or 1))
        return cpus, actors

    def options(self, *, pooled: bool = False) -> list[str]:
        """Write it for `fedpeft run`.

        Args:
            pooled: As for `of`.
        """
        cpus, actors = self.of(pooled=pooled)
        told = {
            "--client-cpus": cpus,
            "--client-gpus": self.client_gpus,
            "--actors": actors,
        }
        return [part for name, value in told.items() if value for part in (name, str(value))]


def require_shares(share: Share) -> None:
    """Refuse more runs at the same time than there are GPUs for.

    Args:
        share: What each run gets.

    Raises:
        ConfigError: If it is refused.
    """
    if share.client_gpus and share.jobs > gpus_here():
        problem = (
            f"runs whose clients have GPUs need one of their own each, and there are "
            f"{gpus_here()}. More clients at a time fit on a GPU with less --client-gpus."
        )
        raise ConfigError([Fault(key="--jobs", value=share.jobs, problem=problem)])


@dataclass(slots=True)
class Processes:
    """Runs cells, each on a share of this machine, from as many threads as there are shares.

    Attributes:
        share: What each gets.
    """

    share: Share
    _stopping: threading.Event = field(default_factory=threading.Event)
    _free: "queue.SimpleQueue[int]" = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        """All shares are free."""
        for number in range(self.share.jobs):
            self._free.put(number)

    def __call__(self, cell: Cell, archive: Archive) -> Ending:
        """Run a cell on a share that is free."""
        number = self._free.get()
        try:
            return run_cell(
                cell,
                archive,
                options=self.share.options(pooled=cell.config["mode"] == "central"),
                environment=_gpus_of(number, self.share),
                stopping=self._stopping,
            )
        finally:
            self._free.put(number)

    def stop(self) -> None:
        """End the runs that go on, in order."""
        self._stopping.set()


def run_cell(
    cell: Cell,
    archive: Archive,
    *,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    stopping: threading.Event | None = None,
) -> Ending:
    """Run a cell by `fedpeft run`, as a process that ends when this one does.

    Args:
        cell: The cell.
        archive: Where its recipe and log are kept.
        options: Of `fedpeft run`.
        environment: Variables of it, beside ours.
        stopping: Set when it is to end, in order.

    Returns:
        How it ended.

    Raises:
        LaunchError: If it was stopped.
    """
    name = cell.run_name
    recipe, log = archive.path(cell.id, "toml"), archive.path(cell.id, "log")
    settings = to_toml({**cell.config, "output.name": name})
    recipe.write_text(f"# {cell.name}\n{settings}", encoding="utf-8")
    parent = runs_parent(str(cell.config["output.dir"]))
    before = {run.path for run in _runs(parent, name)}
    command = [sys.executable, "-P", "-c", DIE_WITH_PARENT, executable("fedpeft"), "run"]
    command += ["--recipe", str(recipe), "--nodes", str(cell.nodes), *options]
    status = _run(command, log, {**os.environ, **(environment or {})}, stopping)
    made = [run for run in _runs(parent, name) if run.path not in before]
    return Ending(
        exit_status=status,
        run=made[0] if made else None,
        message=_last_words(log.read_text(encoding="utf-8", errors="replace")),
    )


def _run(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    stopping: threading.Event | None,
) -> int:
    """Run a command to its end; if we are interrupted, or are to stop, end it in order first."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us alone
        )
    try:
        while stopping is None or not stopping.is_set():
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(_LOOK_S)
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE_S)
            process.kill()
    raise LaunchError("The study was stopped.")


def _gpus_of(number: int, share: Share) -> dict[str, str]:
    """Give a run every so manieth GPU, where several runs go on."""
    names = names_of_gpus() if share.jobs > 1 else []
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[number :: share.jobs])} if names else {}


def _runs(parent: Path, name: str) -> list[RunFolder]:
    """List the runs of a name, newest first."""
    return [run for run in list_runs(parent) if f"-{name}-" in run.path.name]


def _last_words(log: str) -> str:
    """Take the error from a log; its last line where it names none."""
    said = log.rstrip().splitlines()
    errors = [number for number, line in enumerate(said) if line.startswith("error: ")]
    if errors:
        return "\n".join(said[errors[-1] :]).removeprefix("error: ")
    return said[-1] if said else ""
