"""The daemon of a node, with real processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import LocalGrid
from flwr.app import RecordDict

from fedpeft_app import client_app
from fedpeft_app.config import defaults, parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.warm.code import own_code
from fedpeft_app.warm.door import STATUS, Door, NodeError, door, folder, require_door
from fedpeft_app.wire.content import from_bytes, to_bytes
from fedpeft_app.wire.record import facts

pytestmark = [pytest.mark.xdist_group("flower"), pytest.mark.timeout(300)]
FEDPEFT = str(Path(sys.executable).with_name("fedpeft"))
NODE = {"partition-id": 0, "num-partitions": 2}

Start = Callable[..., Door]


def started(home: Path, *options: str) -> None:
    """Start a worker as somebody does who operates a node."""
    command = [FEDPEFT, "worker", "start", "--cpus", "1", *options]
    environment = {**os.environ, "FEDPEFT_HOME": str(home)}
    subprocess.run(command, env=environment, check=True, timeout=120)


def stopped(home: Path) -> None:
    """Stop a worker, if one runs."""
    environment = {**os.environ, "FEDPEFT_HOME": str(home)}
    subprocess.run([FEDPEFT, "worker", "stop"], env=environment, check=False, timeout=60)


@pytest.fixture
def start(own_home: Path) -> Iterator[Start]:
    """Start a worker with options; end it after the test."""

    def start_one(*options: str) -> Door:
        started(own_home, *options)
        return require_door()

    yield start_one
    stopped(own_home)


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose worker serves several tests."""
    home = tmp_path_factory.mktemp("worker") / "home"
    started(home)
    yield home
    stopped(home)


@pytest.fixture
def found(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Door:
    """That worker."""
    monkeypatch.setenv("FEDPEFT_HOME", str(shared_home))
    return require_door()


def call_roll(found: Door, settings: dict[str, Any]) -> RecordDict:
    done = found.ask(
        "roll_call",
        to_bytes(RecordDict()),
        run_config={**defaults(), **settings},
        node_config=NODE,
    )
    assert done is not None
    return from_bytes(done)


def process_of(found: Door) -> dict[str, Any]:
    told, _ = found.exchange({"do": STATUS}, timeout_s=10)
    (row,) = told["trainers"]
    return dict(row)


def pids_of_worker(found: Door) -> set[int]:
    told, _ = found.exchange({"do": STATUS}, timeout_s=10)
    family = psutil.Process(told["pid"]).children(recursive=True)
    return {told["pid"], *(one.pid for one in family)}


@pytest.mark.slow
def test_it_loads_the_model_once_and_leaves_nothing_behind(
    start: Start, tiny_settings: dict[str, Any], own_home: Path
) -> None:
    found = start()
    for _ in range(3):
        assert facts(call_roll(found, tiny_settings))["examples"]
    row = process_of(found)
    assert (row["answered"], row["backbone-loads"], row["warm"]) == (3, 1, True)
    assert folder().stat().st_mode & 0o077 == 0
    pids = pids_of_worker(found)
    environment = {**os.environ, "FEDPEFT_HOME": str(own_home)}
    subprocess.run([FEDPEFT, "worker", "stop"], env=environment, check=True, timeout=60)
    deadline = time.monotonic() + 30
    while left := [pid for pid in pids if psutil.pid_exists(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert not found.path.exists()


def test_a_process_that_is_killed_is_replaced_and_asked_again(
    found: Door, tiny_settings: dict[str, Any]
) -> None:
    call_roll(found, tiny_settings)
    first = process_of(found)["pid"]
    assert process_of(found)["backbone-loads"] == 1
    os.kill(first, signal.SIGKILL)
    call_roll(found, tiny_settings)
    assert process_of(found)["pid"] != first


@pytest.mark.slow
def test_a_process_that_holds_too_much_is_ended_once_it_has_answered(
    start: Start, tiny_settings: dict[str, Any]
) -> None:
    found = start("--memory", "0.001")
    call_roll(found, tiny_settings)
    assert process_of(found)["warm"] is False
    call_roll(found, tiny_settings)


@pytest.mark.slow
def test_a_process_with_nothing_to_do_is_ended(start: Start, tiny_settings: dict[str, Any]) -> None:
    found = start("--idle", "0.02")
    call_roll(found, tiny_settings)
    deadline = time.monotonic() + 20
    while process_of(found)["warm"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    call_roll(found, tiny_settings)


@pytest.mark.slow
def test_there_is_one_worker_a_home(start: Start, own_home: Path) -> None:
    start()
    again = subprocess.run(
        [FEDPEFT, "worker", "start", "--foreground"],
        env={**os.environ, "FEDPEFT_HOME": str(own_home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert again.returncode == 1
    assert "fedpeft worker stop" in again.stderr


def bundle_of_ones_own(folder: Path) -> dict[str, str]:
    """Lay out an app with one module more; say what a process says that runs it."""
    own = Path(own_code().root)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(own / "fedpeft_app", folder / "fedpeft_app", ignore=ignored)
    shutil.copy(own / "pyproject.toml", folder)
    (folder / "a_task_of_ones_own.py").write_text("ANSWER = 42\n", encoding="utf-8")
    told = "import json, fedpeft_app.warm.code as c; print(json.dumps(c.own_code().to_json()))"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    said = subprocess.run(
        [sys.executable, "-c", told], env=environment, cwd=folder, capture_output=True, check=True
    )
    return dict(json.loads(said.stdout))


def test_a_run_brings_its_own_code_and_the_process_is_replaced(
    found: Door, tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    call_roll(found, tiny_settings)
    first = process_of(found)
    code = bundle_of_ones_own(tmp_path / "bundle")
    header = {
        "do": "ask",
        "kind": "roll_call",
        "run_config": {**defaults(), **tiny_settings},
        "node_config": NODE,
        "folder": os.getcwd(),
        "code": code,
    }
    told, _ = found.exchange(header, to_bytes(RecordDict()))
    assert told["status"] == "done", told
    second = process_of(found)
    assert (second["pid"] != first["pid"], second["answered"]) == (True, 1)
    assert second["code"] == code["digest"][:12] != first["code"]


def test_what_fails_there_is_told(found: Door, tiny_settings: dict[str, Any]) -> None:
    with pytest.raises(NodeError, match="/no/such"):
        call_roll(found, {**tiny_settings, "model.name": "/no/such"})


def test_runs_that_share_a_process_have_the_bits_of_runs_that_do_not(
    found: Door, tiny_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {**tiny_settings, "strategy.fraction-train": 1.0}
    runs = [one, {**one, "method.name": "bias", "seed": 3}]
    call_roll(found, one)
    alone = [coordinate(LocalGrid(2, flat), parse(flat), run_id=7) for flat in runs]
    before = process_of(found)["answered"]
    monkeypatch.setattr(client_app, "find_door", door)  # Ray may be here, from another test
    with ThreadPoolExecutor(len(runs)) as pool:  # so that their messages take turns
        together = list(
            pool.map(lambda flat: coordinate(LocalGrid(2, flat), parse(flat), run_id=9), runs)
        )
    assert process_of(found)["answered"] - before == 2 * (2 + 4)
    for left, right in zip(alone, together, strict=True):
        (weights,) = left.adapter.glob("*.safetensors")
        assert weights.read_bytes() == (right.adapter / weights.name).read_bytes()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A Ray cluster that somebody else runs; its address."""
    ray = str(Path(FEDPEFT).with_name("ray"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scratch = Path(tempfile.mkdtemp(prefix="ray-"))  # paths of Ray's sockets must be short
    environment = {**os.environ, "RAY_TMPDIR": str(scratch), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [ray, "start", "--head", f"--port={port}", "--num-cpus=2", "--num-gpus=0"]
    command += ["--include-dashboard=false", "--object-store-memory=80000000", "--block"]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not list(scratch.glob("ray/session_latest/sockets/raylet")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"{socket.gethostbyname(socket.gethostname())}:{port}"
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        for one in [*family, psutil.Process(process.pid)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.mark.slow
def test_it_joins_a_cluster_and_leaves_it_alone(
    start: Start, tiny_settings: dict[str, Any], cluster: str
) -> None:
    found = start("--ray-address", cluster)
    assert facts(call_roll(found, tiny_settings))["examples"]
    assert process_of(found)["warm"]


@pytest.mark.slow
def test_it_ends_when_its_ray_does_and_can_be_started_again(
    start: Start, tiny_settings: dict[str, Any]
) -> None:
    found = start()
    told, _ = found.exchange({"do": STATUS}, timeout_s=10)
    (raylet,) = [one for one in psutil.Process(told["pid"]).children() if one.name() == "raylet"]
    raylet.kill()
    deadline = time.monotonic() + 60
    while psutil.pid_exists(told["pid"]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    call_roll(start(), tiny_settings)
