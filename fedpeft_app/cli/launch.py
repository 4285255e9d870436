"""Start a run, follow it to its end, and tell the truth about it."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fedpeft_app.cli.app_folder import app_folder, bare_app_folder, package_path
from fedpeft_app.cli.cluster import find_cluster, require_usable
from fedpeft_app.cli.plan.privacy import cautions
from fedpeft_app.cli.preflight import preflight, require_writable
from fedpeft_app.cli.shares import client_share, require_share, share_caution
from fedpeft_app.cli.submit import flwr_run, read_answer, read_id, waiting
from fedpeft_app.cli.superlink import (
    SuperLink,
    executable,
    log_tail,
    own_superlink,
    scratch_prefix,
    sweep_scratch,
)
from fedpeft_app.config import RunConfig, flatten
from fedpeft_app.errors import ConfigError, Fault, LaunchError, RunFolderError
from fedpeft_app.mirrors import home
from fedpeft_app.names import REGISTRIES
from fedpeft_app.observe.journal import wait_until_written
from fedpeft_app.observe.lines import last_statement
from fedpeft_app.observe.live import LiveView
from fedpeft_app.observe.observers.audience import PATIENCE_S
from fedpeft_app.observe.observers.catalogue import listed
from fedpeft_app.resume import require_resumable
from fedpeft_app.runs.directory import RunFolder, find_run, runs_parent, short_id

_PATH = re.compile(r'"[\w.]+:\w+"')  # in JSON: "my_rules:Median"
_POLL_S = 0.1
_LIVENESS_S = 1.0
_AGAIN_S = 5.0  # between two questions to a SuperLink that somebody operates
_UNANSWERED = 24  # questions in a row, two minutes at least, until it counts as gone
_NO_SUCH_RUN, _FORGOTTEN = "[code: 16]", "forgotten"  # Flower 1.41: "Run ID not found."
_SHUT_DOWN = "after interpreter shutdown"  # Python: the simulation around the server has ended
_GRACE_S = 15.0  # a simulation process that is not seen for so long has ended, or never started


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What a simulation may use.

    Attributes:
        nodes: Simulated nodes.
        client_cpus: CPU cores, and so threads, of one client, from 1.
        client_gpus: GPUs of one client, fractions allowed.
        actors: Clients trained at the same time; 0 = as many as fit.
        ray_address: Ray cluster to join, "host:port" or "auto"; "" = Ray of its own.
    """

    nodes: int
    client_cpus: int
    client_gpus: float
    actors: int
    ray_address: str = ""

    def federation_config(self) -> str:
        """Write it for Flower."""
        parts = [
            f"num-supernodes={self.nodes}",
            f"client-resources-num-cpus={self.client_cpus}",
            f"client-resources-num-gpus={self.client_gpus}",
        ]
        if self.actors:
            parts.append(f"init-args-num-cpus={self.actors * self.client_cpus}")
        return " ".join(parts)


def run_simulation(config: RunConfig, simulation: Simulation, console: Console) -> RunFolder:
    """Run a simulation on a SuperLink of our own.

    Args:
        config: A checked configuration.
        simulation: Nodes and resources.
        console: Where to show progress.

    Returns:
        The folder of the finished run.

    Raises:
        FedPeftError: If anything is wrong before the start, or the run did not end with an
            exported adapter.
    """
    with LiveView(console) as view, interruptible():
        view.stage("checking model and data")
        if config.resume:
            require_resumable(config)
        simulation = _settled(config, simulation)
        require_share(config, simulation.client_gpus, here=not simulation.ray_address)
        require_writable(home(), "FEDPEFT_HOME")
        sweep_scratch(home())
        with (
            tempfile.TemporaryDirectory(prefix=scratch_prefix(), dir=home()) as scratch,
            contextlib.ExitStack() as ended,  # when nothing of the run goes on any more
        ):
            code = None if simulation.ray_address else package_path(Path(scratch))
            environment = _environment(config, code) | _ray(simulation, Path(scratch), view)
            with own_superlink(Path(scratch), environment) as superlink:
                app = bare_app_folder(Path(scratch)) if code else app_folder(Path(scratch))
                asked = simulation.federation_config()
                command = flwr_run(config, app, superlink.connection, asked)
                with waiting(command, superlink.environment) as submit:
                    _check(config, simulation, view, console)  # while both start
                    view.stage("starting Flower and Ray")
                    superlink.wait_until_up()
                    run_id = submit()
                ended.enter_context(_stating_privacy(config, run_id, view))
                return _follow(config, superlink, run_id, view)


def _check(config: RunConfig, simulation: Simulation, view: LiveView, console: Console) -> None:
    """Refuse a run that cannot go well, and say what speaks against one that can."""
    view.stage("checking model and data")
    located = preflight(config, simulation.nodes)
    found = cautions(config, located, simulation.nodes)
    for caution in [*found, *share_caution(simulation.client_gpus)]:
        console.print(f"mind: {caution}", style="yellow", markup=False, soft_wrap=True)


def _settled(config: RunConfig, simulation: Simulation) -> Simulation:
    """Fill in what the mode decides: the central baseline is one node."""
    cpus, gpus = client_share(config, simulation.client_cpus, simulation.client_gpus)
    nodes = 1 if config.mode == "central" else simulation.nodes
    return replace(simulation, nodes=nodes, client_cpus=cpus, client_gpus=gpus)


def _ray(simulation: Simulation, scratch: Path, view: LiveView) -> dict[str, str]:
    """Give the variables that say which Ray the simulation uses.

    "local" keeps Ray from joining whatever cluster happens to run on this machine.
    """
    if not simulation.ray_address:
        return {"RAY_ADDRESS": "local"}
    view.stage("looking at the Ray cluster")
    cluster = find_cluster(simulation.ray_address, scratch)
    require_usable(cluster, simulation.client_cpus, simulation.client_gpus)
    return cluster.environment(scratch)


def run_on_connection(config: RunConfig, connection: str, console: Console) -> None:
    """Run on a SuperLink that somebody operates, and follow its log.

    Args:
        config: A checked configuration.
        connection: Name of a connection in Flower's configuration.
        console: Where to show progress.

    Raises:
        LaunchError: If the run cannot be submitted or does not complete, or the SuperLink is gone.
    """
    if config.mode == "central":
        problem = "data cannot be pooled on a real federation; run without --connection."
        raise ConfigError([Fault(key="mode", value=config.mode, problem=problem)])
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0"}
    with interruptible():
        with tempfile.TemporaryDirectory() as scratch:
            command = flwr_run(config, app_folder(Path(scratch)), connection)
            done = subprocess.run(
                command, capture_output=True, env=environment, text=True, check=False
            )
            run_id = read_id(done.stdout, done.stderr)
        console.print(f"run {run_id} submitted to '{connection}'", highlight=False)
        try:
            status = _follow_log(connection, run_id, environment, console)
        except KeyboardInterrupt:
            subprocess.run(
                [executable("flwr"), "stop", str(run_id), connection], env=environment, check=False
            )
            raise
    if status != "finished:completed":
        raise LaunchError(f"Run {run_id} on '{connection}' ended as {status}.")
    console.print(f"run {run_id} completed; its folder is on the server", highlight=False)


def _follow_log(
    connection: str, run_id: int, environment: Mapping[str, str], console: Console
) -> str:
    """Show Flower's log of a run until the run has ended; give how, as `_status` does.

    Raises:
        LaunchError: If the SuperLink has not answered for minutes, or does not know the run any
            more.
    """
    unanswered = 0
    while unanswered < _UNANSWERED:
        if not unanswered:  # it prints all from the start, so not while nobody answers
            _show_log(connection, run_id, environment)
        status = _status(connection, run_id, environment)
        if status.startswith("finished:"):
            return status
        if status == _FORGOTTEN:
            raise LaunchError(
                f"Expected '{connection}' to know run {run_id}, got that there is no such run: its "
                f"SuperLink was started anew, without its database. The run has ended; what it "
                f"saved is on the server: go on with fedpeft run --connection {connection} "
                f"resume=RUN. Start a SuperLink with --database FILE."
            )
        if not unanswered:
            says = "does not answer" if status == "unknown" else f"says that it is {status}"
            console.print(
                f"the log of run {run_id} broke off; '{connection}' {says}; asking again",
                highlight=False,
            )
        unanswered = unanswered + 1 if status == "unknown" else 0
        time.sleep(_AGAIN_S)
    raise LaunchError(
        f"Expected '{connection}' to say how run {run_id} stands, got no answer for minutes. The "
        f"run may still be going on. Follow it: flwr log {run_id} {connection}. How it stands: "
        f"flwr list {connection} --run-id {run_id}. End it: flwr stop {run_id} {connection}."
    )


def _show_log(connection: str, run_id: int, environment: Mapping[str, str]) -> None:
    """Show Flower's log of a run until it breaks off; leave no process behind."""
    log = subprocess.Popen([executable("flwr"), "log", str(run_id), connection], env=environment)
    try:
        log.wait()
    finally:
        log.kill()
        log.wait()


def _environment(config: RunConfig, code: Path | None = None) -> dict[str, str]:
    """Collect the variables of a run's processes.

    Args:
        config: The run's.
        code: A folder in which they find the package; None = they get it in the app's bundle.
    """
    launcher = {"FEDPEFT_HOME": str(home()), "FEDPEFT_LAUNCHER": str(os.getpid())}
    own = os.getcwd() if _names_a_path(config) else ""  # a user's own module, importable from here
    found = [str(code or ""), own, os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, found))
    return {**os.environ, **launcher, **({"PYTHONPATH": path} if path else {})}


def _names_a_path(config: RunConfig) -> bool:
    """Say whether a plug-in is named by its path, in a key of its own or among options."""
    flat = flatten(config)
    texts = [json.dumps(flat[key]) for key in REGISTRIES]
    texts += map(json.dumps, listed(config.observe.to))
    texts += [str(value) for key, value in flat.items() if key.endswith(".options")]
    return any(_PATH.search(text) for text in texts)


def _status(connection: str, run_id: int, environment: Mapping[str, str]) -> str:
    """Ask Flower how a run stands, for example "finished:completed" or `_FORGOTTEN`."""
    done = subprocess.run(
        [executable("flwr"), "list", connection, "--run-id", str(run_id), "--format", "json"],
        capture_output=True,
        env=environment,
        text=True,
        check=False,
    )
    answer = read_answer(done.stdout)
    if _NO_SUCH_RUN in answer.get("error-message", ""):
        return _FORGOTTEN
    with contextlib.suppress(KeyError, IndexError, TypeError):
        return str(answer["runs"][0]["status"])
    return "unknown"


def _follow(config: RunConfig, superlink: SuperLink, run_id: int, view: LiveView) -> RunFolder:
    """Show a run's journal until it ends; raise unless it ended well."""
    folder: RunFolder | None = None
    position = 0
    seen = time.monotonic()
    try:
        while True:
            folder = folder or _find(config, run_id)
            if folder is not None:
                position, events = _new_events(folder.journal, position)
                for event in events:
                    if config.observe.to and event["event"] in ("run_finished", "run_failed"):
                        wait_until_written(folder.journal, PATIENCE_S)  # observers may be sending
                    if event["event"] == "run_failed" and _SHUT_DOWN in event["problem"]:
                        raise _gone(superlink, run_id, folder)
                    if event["event"] == "run_failed":
                        raise LaunchError(f"{event['problem']}\nThe run's folder: {folder.path}")
                    view.feed(event)
                    if event["event"] == "run_finished" and folder.adapter.is_dir():
                        return folder
            now = time.monotonic()
            if now - seen > _LIVENESS_S and superlink.alive() and superlink.simulating():
                seen = now
            if now - seen > _GRACE_S or not superlink.alive():
                raise _gone(superlink, run_id, folder)
            time.sleep(_POLL_S)
    finally:
        _kept_log(superlink, folder)


def _gone(superlink: SuperLink, run_id: int, folder: RunFolder | None) -> LaunchError:
    """Say that a simulation is no more, with what its processes wrote last."""
    command = [executable("flwr"), "log", str(run_id), superlink.connection, "--show"]
    with superlink.log.open("ab") as log, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command,
            stdout=log,
            stderr=subprocess.DEVNULL,
            env=superlink.environment,
            timeout=_GRACE_S,
            check=False,
        )
    return LaunchError(
        "The simulation process is gone before the run ended (killed? out of memory?). "
        f"Flower's log: {_kept_log(superlink, folder)}\n{log_tail(superlink.log)}"
    )


@contextlib.contextmanager
def _stating_privacy(config: RunConfig, run_id: int, view: LiveView) -> Iterator[None]:
    """Show what a run guarantees that ends before it says so, stopped or killed."""
    try:
        yield
    except (KeyboardInterrupt, LaunchError):
        folder = _find(config, run_id)
        if folder is not None and config.privacy.mode != "none":
            with contextlib.suppress(RunFolderError):  # a damaged journal is not what ended it
                view.say(last_statement(folder.events()), wrap=True)
        raise


def _kept_log(superlink: SuperLink, folder: RunFolder | None) -> Path:
    """Keep Flower's log in the run's folder, or beside the runs where there is none."""
    path = folder.path / "flower.log" if folder else home() / "flower.log"
    shutil.copyfile(superlink.log, path)
    return path


def _find(config: RunConfig, run_id: int) -> RunFolder | None:
    """Find the folder that the ServerApp made for a run, or goes on in, if it does already."""
    parent = runs_parent(config.output.dir)
    if config.resume:
        folder = find_run(parent, config.resume)
        return folder if _is_resumed_by(run_id, folder.events()) else None
    for path in parent.glob(f"*-{short_id(run_id)}"):
        if (path / "config.json").exists():
            return find_run(parent, path.name)
    return None


def _is_resumed_by(run_id: int, events: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether a journal has been rewound for a run."""
    return any(event.get("run_id") == str(run_id) for event in events)


def _new_events(journal: Path, position: int) -> tuple[int, list[dict[str, Any]]]:
    """Read whole lines that were added to a journal since a position."""
    if not journal.exists():
        return position, []
    with journal.open("rb") as file:
        file.seek(position)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    return position + len(whole), [json.loads(line) for line in whole.splitlines()]


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, so that all end a run, or a study, cleanly."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
