"""Whole runs through Flower and Ray, as a user starts them, on the real model and data."""

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

pytestmark = pytest.mark.slow

FEDPEFT = str(Path(sys.executable).with_name("fedpeft"))
SHARED_CACHE = Path(os.environ.get("FEDPEFT_TEST_CACHE", Path.home() / ".fedpeft")) / "cache"
SMALL = ["rounds=2", "data.max-examples=400", "evaluate.every=0", "data.min-examples=2"]


@pytest.fixture
def home(own_home: Path) -> Path:
    """A home of its own for the run folders, with the cache of downloads shared."""
    SHARED_CACHE.mkdir(parents=True, exist_ok=True)
    own_home.mkdir(parents=True)
    (own_home / "cache").symlink_to(SHARED_CACHE)
    return own_home


def fedpeft(home: Path, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run the command line."""
    environment = {**os.environ, "FEDPEFT_HOME": str(home), **options.pop("env", {})}
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


def descendants_of_homes(home: Path) -> list[str]:
    """List processes that were started for runs of this home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if process.environ().get("FEDPEFT_HOME") == str(home) and process.pid != os.getpid():
                found.append(" ".join(process.info["cmdline"] or []))
        except psutil.Error:
            continue
    return found


def test_the_demo_learns_with_one_backbone_load_per_actor(home: Path) -> None:
    done = fedpeft(home, "run", "rounds=3", "data.max-examples=1500", "evaluate.every=3")
    assert done.returncode == 0, done.stdout + done.stderr
    run = only_run(home)
    events = read_events(run.journal)
    assert events[-1]["test"]["accuracy"] > 0.7
    rounds = [event for event in events if event["event"] == "round_finished"]
    loads = {
        node["process"]: node["backbone-loads"]
        for event in rounds
        for node in event["nodes"].values()
    }
    assert set(loads.values()) == {1}
    assert len(loads) <= (os.cpu_count() or 1)
    assert events[-1]["times_fewer"] > 200
    assert descendants_of_homes(home) == []


def test_one_actor_and_two_actors_give_the_same_bits(home: Path, tmp_path: Path) -> None:
    vectors = []
    for actors in (1, 2):
        runs = tmp_path / f"runs-{actors}"
        done = fedpeft(home, "run", *SMALL, "--actors", str(actors), f"output.dir={runs}")
        assert done.returncode == 0, done.stdout + done.stderr
        run = RunFolder(path=next(runs.iterdir()))
        vectors.append(load_checkpoint(run, 2).state.vector.tobytes())
    assert vectors[0] == vectors[1]


def test_all_clients_raising_fails_the_run(home: Path, tmp_path: Path) -> None:
    (tmp_path / "broken_task.py").write_text(
        "from fedpeft_app.data.tasks.text_classification import TextClassification\n"
        "class Broken(TextClassification):\n"
        "    def loss(self, model, batch):\n"
        "        raise RuntimeError('the disk is on fire')\n",
        encoding="utf-8",
    )
    done = fedpeft(home, "run", *SMALL, "task=broken_task:Broken", cwd=tmp_path)
    assert done.returncode == 1
    assert "0 of 4 replies were good" in done.stdout
    assert "the disk is on fire" in done.stdout
    assert read_events(only_run(home).journal)[-1]["event"] == "run_failed"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_run_and_everything_it_started(
    home: Path, number: signal.Signals
) -> None:
    environment = {**os.environ, "FEDPEFT_HOME": str(home)}
    process = subprocess.Popen(
        [FEDPEFT, "run", "rounds=50"], env=environment, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((home / "runs").glob("*/checkpoints/*")):
        time.sleep(0.5)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert descendants_of_homes(home) == []
    assert list(only_run(home).checkpoints.iterdir())


def test_flower_run_works_natively(home: Path, tmp_path: Path) -> None:
    flwr_home = tmp_path / "flwr"
    flwr_home.mkdir()
    port = "39777"
    (flwr_home / "config.toml").write_text(
        f'[superlink]\ndefault = "own"\n[superlink.own]\naddress = "127.0.0.1:{port}"\n'
        "insecure = true\n",
        encoding="utf-8",
    )
    environment = {
        **os.environ,
        "FEDPEFT_HOME": str(home),
        "FLWR_HOME": str(flwr_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    binaries = Path(sys.executable).parent
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
        # a run of our own, beside it, leaves that SuperLink alone
        beside = fedpeft(home, "run", *SMALL)
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
