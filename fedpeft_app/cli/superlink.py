"""A SuperLink of our own: on a free port, with our environment, ended with the run.

Flower's shared local SuperLink is found by its port and runs later runs with the Python
environment, variables and working directory of whoever started it first. This one can
neither be found nor disturbed by anybody else's runs, nor disturb them.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedpeft_app.errors import LaunchError

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0
_LOOK_AGAIN_S = 0.02
# On Linux, ask to be ended when the parent is killed (prctl 1 = PR_SET_PDEATHSIG), then become
# the command: safer than code between fork and exec in a process that has threads.
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
os.execv(sys.argv[1], sys.argv[1:])
"""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RAISED = re.compile(r"(\w+\.)*\w*(Error|Exception): ")
_NOISE = ("uvicorn", "INFO", "WARNING")

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # workers that no actor takes: theirs have variables
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a client without a share of a GPU sees none
    "PYTHONWARNINGS": "ignore:Tip:FutureWarning",  # what Ray says of it
    # Seconds between two looks for a run, on through the run; Flower's own is 1, each costs 3 ms.
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # the run uses this environment
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperLink:
    """A running SuperLink.

    Attributes:
        connection: Name of the connection in its own Flower config.
        environment: Variables with which `flwr` finds it.
        log: What it and its children print.
        process: The process.
        port: Where it listens once it is up.
    """

    connection: str
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes]
    port: int

    def wait_until_up(self) -> None:
        """Wait until its port answers.

        Raises:
            LaunchError: If it does not come up.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while self.alive() and time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return
            time.sleep(_LOOK_AGAIN_S)
        raise LaunchError(f"The SuperLink did not start:\n{log_tail(self.log)}")

    def alive(self) -> bool:
        """Say whether it still runs."""
        return self.process.poll() is None

    def simulating(self) -> bool:
        """Say whether it has a simulation process."""
        import psutil

        for pid in _descendants(self.process.pid):
            with contextlib.suppress(psutil.Error):
                if any("flwr-simulation" in part for part in psutil.Process(pid).cmdline()):
                    return True
        return False


def executable(name: str) -> str:
    """Give the path of a command of this Python environment.

    Raises:
        LaunchError: If it is not installed.
    """
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise LaunchError(f"{path} is missing. Install Flower: pip install 'flwr[simulation]'.")
    return str(path)


@contextlib.contextmanager
def own_superlink(scratch: Path, environment: Mapping[str, str]) -> Iterator[SuperLink]:
    """Start a simulation SuperLink and end it, with everything it started, on leaving.

    It is not up yet: that takes seconds, in which something else can be done.

    Args:
        scratch: A folder for its configuration, log and installed apps.
        environment: Variables for it and all that it starts.
    """
    port = _free_port()
    (scratch / "config.toml").write_text(
        f'[superlink]\ndefault = "own"\n\n[superlink.own]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    env = {**environment, **QUIET, "FLWR_HOME": str(scratch)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    log = scratch / "flower.log"
    command = [sys.executable, "-P", "-c", DIE_WITH_PARENT, executable("flower-superlink")]
    command += ["--insecure", "--simulation"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--disable-runtime-dependency-installation"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=env,
            cwd=scratch,
            start_new_session=True,  # Ctrl-C reaches us alone; we end it in order
        )
    try:
        yield SuperLink(connection="own", environment=env, log=log, process=process, port=port)
    finally:
        _stop(process, scratch)


def _free_port() -> int:
    """Ask the system for a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def log_tail(log: Path, lines: int = 15) -> str:
    """Give the exceptions that a log names, else its last lines of trouble, else the last ones."""
    if not log.exists():
        return "(no log)"
    text = _COLOUR.sub("", log.read_text(encoding="utf-8", errors="replace"))
    every = text.splitlines()
    raised = list(dict.fromkeys(filter(_RAISED.match, every)))  # the first is often the cause
    telling = [line for line in every if not any(word in line for word in _NOISE)]
    return "\n".join((raised or telling or every)[-lines:])


def sweep_scratch(folder: Path) -> None:
    """Remove scratch folders of launchers on this machine that were killed.

    Machines may share the folder; only here is it known which processes still run.
    """
    for path in folder.glob("flower-*-*-*"):
        _, pid, host, *_ = path.name.split("-")
        if pid.isdigit() and host == _host() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def scratch_prefix() -> str:
    """Begin the name of a scratch folder: `flower-<pid>-<machine>-`."""
    return f"flower-{os.getpid()}-{_host()}-"


def _host() -> str:
    """Stand for this machine, in letters and digits."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _stop(process: subprocess.Popen[bytes], flwr_home: Path) -> None:
    """End a SuperLink and all that it started, gently first."""
    descendants = _descendants(process.pid) | _started_with(flwr_home)
    _signal([process.pid, *descendants], signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        descendants = {*descendants, *_descendants(process.pid)}
        process.poll()
        if process.returncode is not None and not any(map(_alive, descendants)):
            return
        time.sleep(0.1)
    _signal([process.pid, *descendants], signal.SIGKILL)
    process.wait()


def _descendants(pid: int) -> set[int]:
    """Find all processes below one, Ray's daemons included."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return set()


def _started_with(flwr_home: Path) -> set[int]:
    """Find what was started for a SuperLink: nobody's children any more where that was killed.

    Ray's processes write their titles over their variables, but stay in the folder where they
    were started, which is the same.
    """
    import psutil

    found, folder = set(), os.path.realpath(flwr_home)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            named = process.environ().get("FLWR_HOME") == str(flwr_home)
            if named or process.cwd() == folder:
                found.add(process.pid)
    return found - {os.getpid()}


def _alive(pid: int) -> bool:
    """Say whether a process runs (a zombie does not)."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal(pids: list[int], number: signal.Signals) -> None:
    """Signal processes that may be gone already."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
