"""A real federation on loopback: a SuperLink, SuperNodes, in the clear or with keys.

federation = Federation(folder, home, secure=True)   # TLS, and nodes that must be known
federation.start_superlink()
federation.start_node("hospital-a", 'data-path="/data/a.csv"', home=folder / "a")
run = federation.submit(log, {"rounds": 5, …})
federation.kill("hospital-a")
federation.end()
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from fedpeft_app.keys import (
    connection_table,
    make_keys,
    register_command,
    superlink_command,
    supernode_command,
)
from fedpeft_app.runs.directory import RunFolder, list_runs, runs_parent

BINARIES = Path(sys.executable).parent
HOST = "127.0.0.1"
CONNECTION = "own"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Federation:
    """A SuperLink and SuperNodes, as somebody operates them.

    Args:
        folder: For its configuration, keys, and what processes print.
        home: $FEDPEFT_HOME of all that have none of their own.
        secure: Whether to use TLS and node authentication, with keys of `fedpeft keys`.

    Attributes:
        keys: Its keys, where it has any.
        address: The SuperLink's, with port.
        ids: Flower's ids of the nodes that were registered, by name.
        environment: Variables of its processes, and of those who use it.
    """

    def __init__(self, folder: Path, home: Path, *, secure: bool = False) -> None:
        self._folder = folder
        self.port = free_port()
        self.address = f"{HOST}:{self.port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ids: dict[str, str] = {}
        self.keys = make_keys(folder / "keys", [HOST], []).folder if secure else None
        self.environment = {
            **os.environ,
            "FEDPEFT_HOME": str(home),
            "FLWR_HOME": str(folder),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}",
        }
        self.connect(CONNECTION, self.table(CONNECTION))

    def connect(self, connection: str, table: str) -> None:
        """Add a connection to Flower's configuration."""
        path = self._folder / "config.toml"
        begun = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(f"{begun}{table}\n", encoding="utf-8")

    def table(self, connection: str, ca: Path | None = None, *, plain: bool = False) -> str:
        """Write a connection for $FLWR_HOME/config.toml, by default one that works.

        Args:
            connection: Its name.
            ca: What to check the SuperLink's certificate with, instead of what it is.
            plain: Whether to speak without TLS, whatever the SuperLink does.
        """
        if plain or not self.keys:
            return f'[superlink.{connection}]\naddress = "{self.address}"\ninsecure = true\n'
        ca = ca or self.keys.server / "ca.pem"
        return connection_table(ca, connection=connection, address=self.address)

    def start(self, name: str, *command: str, home: Path | None = None) -> None:
        """Start one of its processes.

        Args:
            name: What to call it.
            command: What to run, with `BINARIES` first in the path.
            home: $FEDPEFT_HOME of its own.
        """
        own = {"FEDPEFT_HOME": str(home)} if home else {}
        with (self._folder / f"{name}.log").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [str(BINARIES / command[0]), *command[1:]],
                env={**self.environment, **own},
                cwd=self._folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def start_superlink(self) -> None:
        """Start the SuperLink, and wait until it answers."""
        plain = ["flower-superlink", "--insecure", "--port", str(self.port)]
        command = plain
        if self.keys:
            database = str(self._folder / "superlink.db")
            command = superlink_command(
                self.keys.server, bind=HOST, port=self.port, database=database
            )
        self.start("superlink", *command)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port)):
                return
            time.sleep(0.1)
        raise TimeoutError(f"The SuperLink did not start:\n{self.log('superlink')}")

    def register(self, name: str) -> None:
        """Make keys for a node, and let the SuperLink know it; once, whatever happens to it."""
        if not self.keys or name in self.ids:
            return
        make_keys(self.keys.path, [], [name])
        public = self.keys.node(name) / "node.pub"
        done = self.flwr(*register_command(public, connection=CONNECTION, name=name)[1:])
        if not (said := re.search(r"SuperNode (\d+) registered", done.stdout)):
            raise RuntimeError(f"{name} is not registered:\n{done.stdout}{done.stderr}")
        self.ids[name] = said[1]

    def node_command(self, keys: Path | None, *settings: str) -> list[str]:
        """Write the command of a SuperNode on a port of its own.

        Args:
            keys: Folder of its keys; `None` = in the clear.
            settings: Of its --node-config: `key=value`, strings in double quotes.
        """
        if keys:
            command = supernode_command(keys, address=self.address, settings=settings)
        else:
            command = ["flower-supernode", "--insecure", "--superlink", self.address]
            command += ["--node-config", " ".join(settings)] if settings else []
        return [*command, "--port", str(free_port())]

    def start_node(self, name: str, *settings: str, home: Path | None = None) -> None:
        """Start a SuperNode, registered where nodes must be known; also one that was killed.

        Args:
            name: What to call it.
            settings: Of its --node-config: `key=value`, strings in double quotes.
            home: $FEDPEFT_HOME of its own, as on a machine of its own.
        """
        self.register(name)
        keys = self.keys.node(name) if self.keys else None
        self.start(name, *self.node_command(keys, *settings), home=home)

    def submit(
        self, log: Path, settings: Mapping[str, Any], connection: str = CONNECTION
    ) -> "subprocess.Popen[bytes]":
        """Start a run, as somebody does who operates a federation."""
        command = [str(BINARIES / "fedpeft"), "run", "--connection", connection]
        command += [f"{key}={_said(value)}" for key, value in settings.items()]
        with log.open("ab") as output:
            return subprocess.Popen(command, env=self.environment, stdout=output, stderr=output)

    def flwr(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of `flwr` to its end."""
        return subprocess.run(
            [str(BINARIES / "flwr"), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def nodes(self) -> dict[str, str]:
        """Ask the SuperLink for its nodes: name, or id of a stranger → status, as "online"."""
        names = {number: name for name, number in self.ids.items()}
        done = self.flwr("supernode", "list", CONNECTION, "--format", "json")
        answer = json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])
        return {names.get(one["node-id"], one["node-id"]): one["status"] for one in answer["nodes"]}

    def log(self, name: str) -> str:
        """Give what one of its processes has printed, without colours."""
        text = (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        return _COLOUR.sub("", text)

    def ended(self, name: str) -> bool:
        """Say whether one of its processes has ended by itself."""
        return self._processes[name].poll() is not None

    def kill(self, name: str, *, alone: bool = False) -> None:
        """Kill one of its processes.

        Args:
            name: What it is called.
            alone: Whether what it started is left to itself, as when one process is killed.
        """
        process = self._processes.pop(name)
        with contextlib.suppress(psutil.NoSuchProcess):
            below = [] if alone else psutil.Process(process.pid).children(recursive=True)
            for one in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        process.kill()
        process.wait()

    def end(self) -> None:
        """Kill what is left."""
        for name in list(self._processes):
            self.kill(name)


def stranger_keys(folder: Path, name: str, ca: Path | None = None) -> Path:
    """Make keys of a node that no server knows.

    Args:
        folder: Where to.
        name: What it calls itself.
        ca: The authority it trusts, instead of one of its own.
    """
    made = make_keys(folder, [HOST], [name]).folder.node(name)
    if ca:
        shutil.copyfile(ca, made / "ca.pem")
    return made


def _said(value: Any) -> str:
    """Write a setting as on a command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def free_port() -> int:
    """Ask the system for a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


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
