"""`fedpeft worker`: start, look at and stop the warm worker of this node."""

import subprocess
import time
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from fedpeft_app.atomic import make_folder
from fedpeft_app.cli.superlink import executable
from fedpeft_app.errors import LaunchError, WireError
from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.warm.door import STATUS, STOP, door, folder, require_door
from fedpeft_app.warm.keeper import starts

_START_S, _STOP_S = 120.0, 30.0
_POLL_S = 0.1


def start_in_background(arguments: list[str], console: Console) -> None:
    """Start a worker that outlives this command.

    Args:
        arguments: Of `fedpeft worker start`, to be repeated in the foreground.
        console: Where to say how it went.

    Raises:
        LaunchError: If it does not come up; with the end of what it said.
    """
    make_folder(folder())
    if _runs() or starts():
        raise LaunchError("A worker runs already. Look at it: fedpeft worker status.")
    log = folder() / "worker.log"
    command = [executable("fedpeft"), "worker", "start", "--foreground"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_S
    while not _runs():
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise LaunchError("The worker did not start:\n" + "\n".join(said[-10:]))
        time.sleep(_POLL_S)
    console.print(
        f"worker {process.pid} runs; it says what it does in {log}",
        highlight=False,
        soft_wrap=True,
    )


def stop(console: Console) -> None:
    """Stop the worker of this node, and wait until it is gone.

    Raises:
        LaunchError: If there is none, or it does not end.
    """
    told = _asked(STOP)
    deadline = time.monotonic() + _STOP_S
    while _runs() or psutil.pid_exists(told["pid"]):
        if time.monotonic() > deadline:
            raise LaunchError(f"Worker {told['pid']} does not end. End it: kill -9 {told['pid']}.")
        time.sleep(_POLL_S)
    console.print(f"worker {told['pid']} has ended", highlight=False)


def print_status(console: Console) -> None:
    """Show what the worker of this node does.

    Raises:
        LaunchError: If there is none.
    """
    told = _asked(STATUS)
    console.print(
        f"worker {told['pid']} (fedpeft {told['version']}), up for {told['seconds'] / 60:.0f} min",
        highlight=False,
    )
    table = Table("process", "state", "pid", "messages", "backbone loads", "memory", "code")
    for row in told["trainers"]:
        state = "at work" if row["busy"] else "warm" if row["warm"] else "not started"
        table.add_row(str(row["slot"]), state, *_told(row))
    console.print(table)


def _told(row: dict[str, Any]) -> list[str]:
    """List what a process said of itself after its last message."""
    if "pid" not in row:
        return ["", "", "", "", ""]
    counts = [str(row[key]) for key in ("pid", "answered", "backbone-loads")]
    return [*counts, human_bytes(row["memory"]), str(row["code"])]


def _runs() -> bool:
    """Say whether a worker answers."""
    found = door()
    return found is not None and found.opens()


def _asked(what: str) -> dict[str, Any]:
    """Ask the worker something short."""
    found = require_door()
    try:
        told, _ = found.exchange({"do": what}, timeout_s=_STOP_S)
    except (OSError, WireError) as error:
        raise LaunchError(f"The worker at {found.path} does not answer: {error}.") from error
    return told
