"""Faults of every kind, with real processes: Flower's, Ray's, and nodes that misbehave."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from faulty_app import misbehaving
from rich.console import Console

from fedpeft_app.cli.launch import Simulation, run_simulation
from fedpeft_app.config import parse
from fedpeft_app.runs.directory import RunFolder, list_runs, runs_parent

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("flower")]
NODES = 4
EVERYONE = {"strategy.fraction-train": 1.0, "rounds": 4, "data.min-examples": 1}


def run(settings: dict[str, Any], plan: dict[str, Any], **changes: Any) -> RunFolder:
    """Run through Flower and Ray, with nodes that misbehave."""
    with misbehaving(plan):
        config = parse({**settings, **EVERYONE, **changes})
        simulation = Simulation(nodes=NODES, client_cpus=1, client_gpus=0.0, actors=0)
        return run_simulation(config, simulation, Console(quiet=True))


def newest() -> RunFolder:
    """Give the run that was started last."""
    return next(iter(list_runs(runs_parent())))


def finished(folder: RunFolder) -> list[dict[str, Any]]:
    """Give the rounds that ended."""
    return [event for event in folder.events() if event["event"] == "round_finished"]


def processes_of(part: str) -> list[psutil.Process]:
    """Find processes below this one by a part of their command."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any(part in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def once_ended(rounds: int, strike: Callable[[], None]) -> threading.Thread:
    """Do something as soon as so many rounds of the newest run have ended."""

    def wait() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            runs = list(list_runs(runs_parent()))
            if runs and len(finished(runs[0])) >= rounds:
                strike()
                return
            time.sleep(0.05)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_killed_actor_costs_no_more_than_its_replies(
    tiny_settings: dict[str, Any], own_home: Path, tmp_path: Path
) -> None:
    folder = run(tiny_settings, {"dies": {"1": [2]}, "marks": str(tmp_path)})
    rounds = finished(folder)
    assert [event["round"] for event in rounds] == [1, 2, 3, 4]
    assert rounds[1]["rejected"]
    assert [event["ok"] for event in rounds if event["round"] != 2] == [NODES] * 3
    assert folder.events()[-1]["event"] == "run_finished"
