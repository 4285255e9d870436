"""Faults of every kind, with real processes: Flower's, Ray's, and nodes that misbehave."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from faulty_app import misbehaving
from rich.console import Console
from swapped_client import lay_out, runs_of

from fedpeft_app.cli.launch import Simulation, run_simulation
from fedpeft_app.config import parse
from fedpeft_app.errors import LaunchError
from fedpeft_app.resume import require_resumable
from fedpeft_app.runs.checkpoint import kept_rounds, load_checkpoint
from fedpeft_app.runs.directory import RunFolder, list_runs, runs_parent

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("flower")]
FEDPEFT = str(Path(sys.executable).with_name("fedpeft"))
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


def alone(settings: dict[str, Any], **changes: Any) -> RunFolder:
    """Run without faults."""
    return run(settings, {}, **changes)


def test_a_killed_actor_costs_one_reply(
    tiny_settings: dict[str, Any], own_home: Path, tmp_path: Path
) -> None:
    folder = run(tiny_settings, {"dies": {"1": [2]}, "marks": str(tmp_path)})
    rounds = finished(folder)
    assert [event["round"] for event in rounds] == [1, 2, 3, 4]
    assert list(rounds[1]["rejected"]) == ["1"]
    assert [event["ok"] for event in rounds if event["round"] != 2] == [NODES] * 3
    assert folder.events()[-1]["event"] == "run_finished"


@pytest.mark.parametrize("victim", ["flwr-simulation", "flower-superlink"])
def test_what_a_killed_process_leaves_can_be_gone_on_from(
    tiny_settings: dict[str, Any], own_home: Path, tmp_path: Path, victim: str
) -> None:
    def strike() -> None:
        for process in processes_of(victim):
            process.kill()

    slow = {"slow": {"0": 1.0}}
    thread = once_ended(2, strike)
    with pytest.raises(LaunchError, match="gone before the run ended"):
        run(tiny_settings, slow)
    thread.join()
    folder = newest()
    assert 2 <= kept_rounds(folder)[-1] < 4
    require_resumable(parse({**tiny_settings, **EVERYONE, "resume": str(folder.path)}))
    assert run(tiny_settings, {}, resume=str(folder.path)).path == folder.path
    whole = alone(tiny_settings, **{"output.name": "whole"})
    ends = [load_checkpoint(one, 4).state.vector.tobytes() for one in (folder, whole)]
    assert ends[0] == ends[1]
    assert [event["round"] for event in finished(folder)] == [1, 2, 3, 4]


LIES = {
    "nan": "norm|finite|values",
    "huge": "values|finite",
    "shape": "instead of",
    "garbage": "",
    "stale": "answers round 4 instead of 5",
    "long": "more than 10 times the median",
}


def test_a_liar_is_named_and_changes_nothing(tiny_settings: dict[str, Any], own_home: Path) -> None:
    plan = {"liars": [0], "byzantine": list(LIES)}
    more = {"rounds": len(LIES), "strategy.norm-bound": 10.0, "strategy.quarantine-after": 0}
    rounds = finished(run(tiny_settings, plan, **more))
    for event, (lie, reason) in zip(rounds, LIES.items(), strict=True):
        assert list(event["rejected"]) == ["0"], lie
        assert re.search(reason, event["rejected"]["0"]), (lie, event["rejected"])
        assert event["ok"] == NODES - 1


def test_who_lies_again_and_again_is_left_alone(
    tiny_settings: dict[str, Any], own_home: Path
) -> None:
    plan = {"liars": [0], "byzantine": ["nan"]}
    folder = run(tiny_settings, plan, rounds=7)
    asked = [event["cohort"] for event in folder.events() if event["event"] == "round_started"]
    assert [0 in cohort for cohort in asked] == [True] * 3 + [False] * 3 + [True]
    assert [event["until"] for event in folder.events() if event["event"] == "left_alone"] == [
        6,
        11,
    ]


def test_a_slow_node_is_left_behind_and_its_reply_dropped(
    tiny_settings: dict[str, Any], own_home: Path
) -> None:
    plan = {"slow": {"1": 3.0, "2": 6.0}, "slow_rounds": [2, 3]}
    folder = run(tiny_settings, plan, **{"strategy.round-timeout": 4.0, "rounds": 6})
    rounds = finished(folder)
    assert rounds[1]["rejected"] == {"2": "no reply within 4 s"}
    assert folder.events()[-1]["event"] == "run_finished"
    late = [event for event in folder.events() if event["event"] == "late_reply"]
    assert (2, 2) in [(event["node"], event["asked_in"]) for event in late]


def test_a_run_that_is_stopped_has_kept_what_it_had(
    tiny_settings: dict[str, Any], own_home: Path
) -> None:
    def stop() -> None:
        (server,) = processes_of("flwr-simulation")
        server.terminate()

    thread = once_ended(2, stop)
    with pytest.raises(LaunchError):
        run(tiny_settings, {"slow": {"0": 1.0}})
    thread.join()
    folder = newest()
    assert kept_rounds(folder)[-1] >= 2
    done = subprocess.run(
        [FEDPEFT, "export", str(folder.path), "--to", str(own_home / "adapter")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (own_home / "adapter" / "adapter_config.json").is_file()


def test_a_client_that_cannot_be_imported_is_named_with_the_reason(
    tiny_settings: dict[str, Any], own_home: Path, tmp_path: Path
) -> None:
    client = tmp_path / "broken_client.py"
    client.write_text('app = None\nraise RuntimeError("no such driver")\n', encoding="utf-8")
    with (
        runs_of(lambda scratch: lay_out(scratch, client)),
        pytest.raises(LaunchError, match="RuntimeError: no such driver"),
    ):
        simulation = Simulation(nodes=NODES, client_cpus=1, client_gpus=0.0, actors=0)
        run_simulation(parse({**tiny_settings, **EVERYONE}), simulation, Console(quiet=True))
