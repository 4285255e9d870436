"""What the processes of a run are told by their environment, and what a person is before it."""

import io
import os
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedpeft_app.cli import launch
from fedpeft_app.cli.launch import Simulation, _environment, _stating_privacy
from fedpeft_app.cli.superlink import scratch_prefix, sweep_scratch
from fedpeft_app.config import defaults, parse
from fedpeft_app.errors import LaunchError
from fedpeft_app.observe.journal import Journal
from fedpeft_app.observe.live import LiveView
from fedpeft_app.runs.directory import create_run, runs_parent


@pytest.mark.parametrize(
    "named",
    [
        {"strategy.name": "my_rules:Rule"},
        {"strategy.cohort": "my_rules:first"},
        {"method.name": "my_rules.methods:Method"},
        {"strategy.options": '{"folded_by": {"name": "norm-bounded", "then": "my_rules:Fold"}}'},
    ],
)
def test_a_path_is_looked_for_in_the_working_folder_too(
    named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    paths = _environment(parse(named))["PYTHONPATH"].split(os.pathsep)
    assert paths == [os.getcwd(), "/elsewhere"]


def test_the_launchers_package_is_found_before_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    config = parse({"strategy.name": "my_rules:Median"})
    paths = _environment(config, Path("/scratch/path"))["PYTHONPATH"].split(os.pathsep)
    assert paths == ["/scratch/path", os.getcwd(), "/elsewhere"]


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"strategy.name": "fedadam", "strategy.options": '{"lr": 0.1, "folded_by": "median"}'},
        {"model.name": "scratch:vit"},
    ],
)
def test_modules_of_the_working_folder_are_not_found_by_chance(
    named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert "PYTHONPATH" not in _environment(parse(named))


@pytest.mark.parametrize("ended", [KeyboardInterrupt(), LaunchError("killed")])
@pytest.mark.parametrize("private", [False, True])
def test_a_private_run_that_is_stopped_says_what_it_guarantees(
    ended: BaseException, *, private: bool
) -> None:
    run = create_run(runs_parent(), "run", run_id=7, config=defaults())
    with closing(Journal(run.journal)) as journal:
        journal.note("roll_call")
        journal.note("round_started")
        journal.note("privacy_statement", rows={"privacy": "(3.00, 1e-05)"}, final=False)
    mode = {"privacy.mode": "sample", "privacy.target-epsilon": 8.0} if private else {}
    console = Console(file=io.StringIO(), width=200)
    with (
        LiveView(console) as view,
        pytest.raises(type(ended)),
        _stating_privacy(parse(mode), 7, view),
    ):
        raise ended
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("privacy: (3.00, 1e-05)" in text) == private
    assert ("one round more may have been spent" in text) == private


def test_what_speaks_against_a_private_run_is_said_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, tiny_settings: dict[str, Any]
) -> None:
    class NotUp:
        """A SuperLink that does not come up."""

        connection, environment = "own", os.environ

        def wait_until_up(self) -> None:
            raise LaunchError("not in this test")

    monkeypatch.setattr(launch, "own_superlink", lambda *_: nullcontext(NotUp()))
    private = {"privacy.mode": "sample", "privacy.target-epsilon": 4.0}
    simulation = Simulation(nodes=4, client_cpus=1, client_gpus=0.0, actors=0)
    for settings, warned in ((tiny_settings, False), ({**tiny_settings, **private}, True)):
        console = Console(file=io.StringIO(), width=200)
        with pytest.raises(LaunchError, match="not in this test"):
            launch.run_simulation(parse(settings), simulation, console)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("mind: in a step, noise is" in text) == warned


def test_a_simulation_of_its_own_joins_no_cluster_that_runs_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    simulation = Simulation(nodes=4, client_cpus=1, client_gpus=0.0, actors=0)
    with LiveView(Console(quiet=True)) as view:
        assert launch._ray(simulation, Path("/"), view) == {"RAY_ADDRESS": "local"}


def test_scratch_folders_of_the_dead_go_and_those_of_other_machines_stay(tmp_path: Path) -> None:
    (alive := tmp_path / f"{scratch_prefix()}a").mkdir()
    host = alive.name.split("-")[2]
    (dead := tmp_path / f"flower-{2**22 + 1}-{host}-b").mkdir()  # above Linux's largest pid
    (elsewhere := tmp_path / f"flower-{2**22 + 1}-00000000-c").mkdir()
    sweep_scratch(tmp_path)
    assert [path.exists() for path in (alive, dead, elsewhere)] == [True, False, True]
