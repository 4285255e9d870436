"""Processes of a simulation that are killed: its server, its SuperLink, one of its Ray actors."""

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from run_records import TOO_LATE, Struck, differences, found, gaps, lost, told, wait_for, wait_until

from fedpeft_app.runs.directory import RunFolder

FEDPEFT = str(Path(sys.executable).with_name("fedpeft"))
NODES = 4
_ENDING_S = 10.0  # for processes that were told to end
_EXPORT = 0.3  # rounds that the rest of a run takes after its last one, about
_MARKS = {  # what a victim's command has
    "server": "flwr-simulation",
    "superlink": "flower-superlink",
    "actor": "ray::ClientAppActor",
}


class Simulations:
    """Runs of which one process is killed each.

    Args:
        scratch: For their folders.
        victim: "server", "superlink" or "actor".
        settings: Of all of them.
        rounds: Of all of them.
        private: Whether nodes train with DP-SGD.
    """

    def __init__(
        self, scratch: Path, victim: str, settings: Sequence[str], rounds: int, *, private: bool
    ) -> None:
        self._scratch, self._victim, self._settings = scratch, victim, settings
        self._rounds, self._private = rounds, private
        self._whole: RunFolder | None = None

    def leave_alone(self) -> None:
        """Let a run end."""
        process, self._whole = self._start("whole")
        if process.wait() != 0:
            sys.exit(f"a run that nobody killed ended with {process.returncode}")

    def strike(self, number: int, draw: random.Random) -> Struck:
        """Kill once, and see what comes of it."""
        # An actor is gone when the rounds are over; the others are there until the end.
        moment = draw.uniform(0.0, self._rounds + (0.0 if self._victim == "actor" else _EXPORT))
        process, folder = self._start(str(number))
        wait_until(folder, moment, self._sound, process.poll)
        everyone = _below(process)
        victims = [one for one in everyone if _is(one, self._victim)]
        if self._victim == "actor":
            victims = [draw.choice(victims)] if victims else []
        for one in victims:
            with contextlib.suppress(psutil.Error):  # one that has just ended
                one.kill()
        status = process.wait()
        if not victims:
            return TOO_LATE
        ended = len(told(folder, "round_finished"))
        what = f"after {moment:.2f} rounds, {ended} rounds kept, status {status}"
        left = _outliving(everyone)
        problems = [f"the run left behind: {', '.join(left)}"] if left else []
        if self._victim == "actor":
            return self._survived(folder, status, f"after {moment:.2f} rounds", problems)
        return Struck(what=what, problems=problems + self._gone_on_from(folder, status))

    def end(self) -> None:
        """Leave nothing behind: every run ends its processes itself."""

    def _survived(self, folder: RunFolder, status: int, what: str, problems: list[str]) -> Struck:
        """Say what is wrong with a run that should have ended well with one reply less."""
        missed = lost(folder)
        problems += ["the run failed"] if status else []
        problems += gaps(folder, self._rounds)
        problems += [f"{len(missed)} replies are lost"] if len(missed) > 1 else []
        if not problems and not missed:
            problems += self._differences(folder)
        return Struck(what=f"{what}, {len(missed)} replies lost", problems=problems)

    def _gone_on_from(self, folder: RunFolder, status: int) -> list[str]:
        """Resume a run that was killed; say in what it differs from the one left alone."""
        if status == 0 and not told(folder, "run_finished"):
            return ["a run that was killed ended with 0"]
        command = [FEDPEFT, "run", "--resume", str(folder.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return [f"the resumed run ended with {done.returncode}:\n{done.stdout}{done.stderr}"]
        return self._differences(folder)

    def _differences(self, folder: RunFolder) -> list[str]:
        """Say in what a run differs from the one that was left alone."""
        return differences(self._sound, folder, self._rounds, private=self._private)

    @property
    def _sound(self) -> RunFolder:
        """The run that was left alone."""
        if self._whole is None:
            raise ValueError("Expected a run that was left alone, got none. Let one end first.")
        return self._whole

    def _start(self, name: str) -> "tuple[subprocess.Popen[bytes], RunFolder]":
        """Start a run; give it once its roll is called."""
        parent = self._scratch / name
        command = [FEDPEFT, "run", "--nodes", str(NODES), f"output.dir={parent}", *self._settings]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        folder = wait_for(lambda: found(parent), process.poll)
        wait_for(lambda: told(folder, "roll_call"), process.poll)
        return process, folder


def _below(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """List all processes that a run has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(psutil.Process(process.pid).children(recursive=True))
    return []


def _is(process: psutil.Process, victim: str) -> bool:
    """Say whether a process is one of those to kill."""
    with contextlib.suppress(psutil.Error):
        return any(_MARKS[victim] in part for part in process.cmdline())
    return False


def _outliving(processes: Sequence[psutil.Process]) -> list[str]:
    """Name those that still run a while later; one that is killed takes a moment to end."""
    deadline = time.monotonic() + _ENDING_S
    while (left := [one for one in processes if _lives(one)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [_named(one) for one in left]


def _named(process: psutil.Process) -> str:
    """Name a process by its command."""
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} ({' '.join(process.cmdline()).strip()[:120]})"
    return str(process.pid)


def _lives(process: psutil.Process) -> bool:
    """Say whether a process still runs."""
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
