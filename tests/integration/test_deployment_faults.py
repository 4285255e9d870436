"""Nodes of a real federation that are killed, and come back: Flower on loopback."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fedpeft_app.observe.journal import is_being_written
from fedpeft_app.runs.checkpoint import kept_rounds
from fedpeft_app.runs.directory import RunFolder, list_runs, runs_parent

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("flower")]
BINARIES = Path(sys.executable).parent
NODES = 3


class Federation:
    """A SuperLink and SuperNodes, as somebody operates them.

    Args:
        folder: For its configuration, and what processes print.
        home: $FEDPEFT_HOME of all of them.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **os.environ,
            "FEDPEFT_HOME": str(home),
            "FLWR_HOME": str(folder),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}",
        }
        (folder / "config.toml").write_text(
            f'[superlink]\ndefault = "own"\n[superlink.own]\n'
            f'address = "127.0.0.1:{self._port}"\ninsecure = true\n',
            encoding="utf-8",
        )

    def start(self, name: str, *command: str) -> None:
        """Start one of its processes."""
        with (self._folder / f"{name}.log").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [str(BINARIES / command[0]), *command[1:]],
                env=self.environment,
                cwd=self._folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def start_superlink(self) -> None:
        """Start the SuperLink, and wait until it answers."""
        self.start("superlink", "flower-superlink", "--insecure", "--port", str(self._port))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
                return
            time.sleep(0.1)
        raise TimeoutError("The SuperLink did not start.")

    def start_node(self, number: int) -> None:
        """Start a SuperNode."""
        command = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self._port}"]
        command += ["--port", str(free_port())]
        command += ["--node-config", f"partition-id={number} num-partitions={NODES}"]
        self.start(f"node-{number}", *command)

    def kill(self, name: str) -> None:
        """Kill one of its processes, with all that it started."""
        process = self._processes.pop(name)
        family = [*psutil.Process(process.pid).children(recursive=True), process]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()

    def end(self) -> None:
        """Kill what is left."""
        for name in list(self._processes):
            self.kill(name)


def free_port() -> int:
    """Ask the system for a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def federation(tmp_path: Path, own_home: Path) -> Iterator[Federation]:
    """A federation of three nodes."""
    folder = tmp_path / "flower"
    folder.mkdir()
    made = Federation(folder, own_home)
    try:
        made.start_superlink()
        for number in range(NODES):
            made.start_node(number)
        yield made
    finally:
        made.end()


def wait_for(look: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    """Wait until something is there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if seen := look():
            return seen
        time.sleep(0.2)
    raise TimeoutError(f"Waited in vain for {what}.")


def events(kind: str) -> list[dict[str, Any]]:
    """Give the events of one kind of the newest run."""
    runs: list[RunFolder] = list(list_runs(runs_parent()))
    return [event for run in runs[:1] for event in run.events() if event["event"] == kind]


def submit(
    federation: Federation, log: Path, settings: dict[str, Any]
) -> "subprocess.Popen[bytes]":
    """Start a run, as somebody does who operates a federation."""
    command = [str(BINARIES / "fedpeft"), "run", "--connection", "own"]
    command += [f"{key}={value}" for key, value in settings.items()]
    with log.open("ab") as output:
        return subprocess.Popen(command, env=federation.environment, stdout=output, stderr=output)


@pytest.mark.timeout(1200)
def test_a_node_that_was_killed_comes_back(
    federation: Federation, tiny_settings: dict[str, Any], own_home: Path, tmp_path: Path
) -> None:
    settings = {
        **tiny_settings,
        "rounds": 40,
        "budget.minutes": 12.0,
        "data.min-examples": 1,
        "strategy.fraction-train": 1.0,
        "strategy.min-nodes": NODES,
        "strategy.round-timeout": 30.0,
        "strategy.quarantine-after": 0,
        "evaluate.test": "end",
    }
    run = submit(federation, tmp_path / "run.log", settings)
    try:
        wait_for(lambda: len(events("round_finished")) >= 1, "the first round")
        federation.kill("node-1")
        wait_for(lambda: events("nodes_left"), "the server to miss the node")
        missed = len(events("round_finished"))
        federation.start_node(1)
        wait_for(lambda: events("nodes_joined"), "the node to be back")
        wait_for(lambda: events("round_finished")[-1]["ok"] == NODES, "its reply")
    finally:
        run.kill()
        run.wait()
    rounds = events("round_finished")
    assert events("nodes_left")[0]["nodes"] == [1]
    assert list(events("nodes_joined")[0]["examples"]) == ["1"]
    assert any(event["ok"] == NODES - 1 for event in rounds[: missed + 1])
    assert [event["round"] for event in rounds] == list(range(1, len(rounds) + 1))


@pytest.mark.timeout(1200)
def test_a_run_that_was_stopped_goes_on(
    federation: Federation, tiny_settings: dict[str, Any], own_home: Path, tmp_path: Path
) -> None:
    settings = {**tiny_settings, "rounds": 3, "strategy.min-nodes": NODES}
    run = submit(federation, tmp_path / "run.log", settings)
    wait_for(lambda: events("round_finished"), "the first round")
    run.send_signal(signal.SIGINT)  # which is `flwr stop`
    assert run.wait() == 130
    (folder,) = list_runs(runs_parent())
    wait_for(lambda: not is_being_written(folder.journal), "the server to stop")
    assert kept_rounds(folder)
    again = submit(federation, tmp_path / "run.log", {**settings, "resume": folder.path.name})
    assert again.wait() == 0, (tmp_path / "run.log").read_text(encoding="utf-8")
    assert [event["round"] for event in events("round_finished")] == [1, 2, 3]
    assert (folder.adapter / "adapter_config.json").is_file()
