"""Whole runs through Flower and Ray, as a user starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import read_events

from fedpeft_app.runs.checkpoint import load_checkpoint
from fedpeft_app.runs.directory import RunFolder

FEDPEFT = str(Path(sys.executable).with_name("fedpeft"))
SHARED_CACHE = Path(os.environ.get("FEDPEFT_TEST_CACHE", Path.home() / ".fedpeft")) / "cache"
pytestmark = pytest.mark.xdist_group("flower")  # one after the other
SMALL = ["rounds=2", "data.max-examples=400", "evaluate.every=0", "data.min-examples=2"]


@pytest.fixture
def tiny_arguments(tiny_settings: dict[str, Any]) -> list[str]:
    """The tiny run as command-line arguments."""
    return [f"{key}={value}" for key, value in tiny_settings.items()]


@pytest.fixture
def real_home(own_home: Path) -> Path:
    """A home of its own for the run folders, with the cache of downloads shared."""
    SHARED_CACHE.mkdir(parents=True, exist_ok=True)
    own_home.mkdir(parents=True)
    (own_home / "cache").symlink_to(SHARED_CACHE)
    return own_home


def fedpeft(home: Path, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run the command line."""
    environment = {**os.environ, "FEDPEFT_HOME": str(home)}
    return subprocess.run(
        [FEDPEFT, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        **options,
    )


def only_run(home: Path) -> RunFolder:
    """Give the one run of a home."""
    folders = list((home / "runs").iterdir())
    assert len(folders) == 1
    return RunFolder(path=folders[0])


def left_over(home: Path) -> list[str]:
    """List processes that were started for runs of this home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if process.environ().get("FEDPEFT_HOME") == str(home) and process.pid != os.getpid():
                found.append(" ".join(process.info["cmdline"] or []))
        except psutil.Error:
            continue
    return found


def loads_by_process(run: RunFolder) -> dict[str, int]:
    """Collect how often each process of a run loaded a backbone."""
    events = read_events(run.journal)
    rounds = [event for event in events if event["event"] == "round_finished"]
    return {
        node["process"]: node["backbone-loads"]
        for event in rounds
        for node in event["nodes"].values()
    }


def test_one_actor_and_two_actors_give_the_same_bits_with_one_load_each(
    own_home: Path, tmp_path: Path, tiny_arguments: list[str]
) -> None:
    vectors = []
    for actors in (1, 2):
        runs = tmp_path / f"runs-{actors}"
        extra = ["--nodes", "4", "--actors", str(actors), f"output.dir={runs}"]
        done = fedpeft(own_home, "run", *tiny_arguments, *extra)
        assert done.returncode == 0, done.stdout + done.stderr
        run = RunFolder(path=next(runs.iterdir()))
        vectors.append(load_checkpoint(run, 2).state.vector.tobytes())
        loads = loads_by_process(run)
        assert len(loads) <= actors
        assert set(loads.values()) == {1}
        assert (run.adapter / "adapter_model.safetensors").exists()
    assert vectors[0] == vectors[1]
    assert left_over(own_home) == []
    assert list(own_home.glob("flower-*")) == []


def test_all_clients_raising_fails_the_run(
    own_home: Path, tmp_path: Path, tiny_arguments: list[str]
) -> None:
    (tmp_path / "broken_task.py").write_text(
        "from fedpeft_app.data.tasks.text_classification import TextClassification\n"
        "class Broken(TextClassification):\n"
        "    def loss(self, model, batch):\n"
        "        raise RuntimeError('the disk is on fire')\n",
        encoding="utf-8",
    )
    arguments = [*tiny_arguments, "task=broken_task:Broken", "--nodes", "4"]
    done = fedpeft(own_home, "run", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "0 of 4 replies were good" in done.stderr  # in two attempts
    assert "the disk is on fire" in done.stderr
    assert read_events(only_run(own_home).journal)[-1]["event"] == "run_failed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_command_leaves_nothing_running(
    own_home: Path, number: signal.Signals, tiny_arguments: list[str]
) -> None:
    environment = {**os.environ, "FEDPEFT_HOME": str(own_home)}
    command = [FEDPEFT, "run", *tiny_arguments, "rounds=100000", "evaluate.every=0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not list(own_home.glob("runs/*/checkpoints/*")):
            time.sleep(0.2)
        process.send_signal(number)
        process.wait(timeout=60)
    while left_over(own_home) and time.monotonic() < deadline + 60:
        time.sleep(0.2)
    assert left_over(own_home) == []
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert list(only_run(own_home).checkpoints.iterdir())  # what was computed is kept


@pytest.mark.slow
def test_the_real_model_learns(real_home: Path) -> None:
    settings = ["rounds=4", "data.max-examples=1500", "evaluate.every=4"]
    done = fedpeft(real_home, "run", *settings, "strategy.fraction-train=1.0")
    assert done.returncode == 0, done.stdout + done.stderr
    run = only_run(real_home)
    finished = read_events(run.journal)[-1]
    assert finished["test"]["accuracy"] > 0.7
    assert finished["times_fewer"] > 200
    assert set(loads_by_process(run).values()) == {1}


@pytest.mark.slow
def test_flower_run_works_natively_beside_ours(real_home: Path, tmp_path: Path) -> None:
    flwr_home = tmp_path / "flwr"
    flwr_home.mkdir()
    port = "39777"
    (flwr_home / "config.toml").write_text(
        f'[superlink]\ndefault = "own"\n[superlink.own]\naddress = "127.0.0.1:{port}"\n'
        "insecure = true\n",
        encoding="utf-8",
    )
    binaries = Path(sys.executable).parent
    environment = {
        **os.environ,
        "FEDPEFT_HOME": str(real_home),
        "FLWR_HOME": str(flwr_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }
    command = [str(binaries / "flower-superlink"), "--insecure", "--simulation"]
    command += ["--port", port, "--disable-runtime-dependency-installation"]
    superlink = subprocess.Popen(command, env=environment, cwd=tmp_path)
    try:
        time.sleep(5)
        project = Path(__file__).parents[2]
        done = subprocess.run(
            [
                *[str(binaries / "flwr"), "run", str(project), "own", "--stream"],
                *["--federation-config", "num-supernodes=4 client-resources-num-cpus=1"],
                *["-c", " ".join(SMALL)],
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "run finished" in done.stdout + done.stderr
        beside = fedpeft(real_home, "run", *SMALL)  # a run of ours leaves that SuperLink alone
        assert beside.returncode == 0, beside.stdout
        assert superlink.poll() is None
        listed = subprocess.run(
            [str(binaries / "flwr"), "list", "own", "--format", "json"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        runs = json.loads(listed.stdout[listed.stdout.index("{") :])["runs"]
        assert [run["status"] for run in runs] == ["finished:completed"]
    finally:
        superlink.terminate()
        superlink.wait(timeout=30)
