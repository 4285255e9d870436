"""The commands as a person meets them: what they print, and how they end."""

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedpeft_app import __version__, cli
from fedpeft_app.cli import launch
from fedpeft_app.cli.main import app
from fedpeft_app.config import RunConfig, defaults
from fedpeft_app.errors import SourceError
from fedpeft_app.runs.directory import create_run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fedpeft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command through `main`: exit status, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedpeft", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunConfig, Any]]:
    """Remember what would have been started, and start nothing."""
    runs: list[tuple[RunConfig, Any]] = []
    monkeypatch.setattr(
        launch, "run_simulation", lambda config, simulation, _: runs.append((config, simulation))
    )
    monkeypatch.setattr(
        launch, "run_on_connection", lambda config, connection, _: runs.append((config, connection))
    )
    return runs


def test_config_prints_every_key_as_a_recipe(fedpeft: Command) -> None:
    status, out, err = fedpeft("config", "rounds=3", "data.name=org/name")
    assert (status, err) == (0, "")
    printed = tomllib.loads(out)
    assert printed["rounds"] == 3
    assert printed["data"]["name"] == "org/name"
    assert printed["task.options"] == "{}"
    assert sum(not line.startswith("#") for line in out.splitlines()) == len(defaults())


def test_config_explains_keys_above_them(fedpeft: Command) -> None:
    status, out, _ = fedpeft("config", "--explain")
    assert status == 0
    assert "# communication rounds\nrounds = 5\n" in out


def test_all_faults_are_listed_and_nothing_starts(
    fedpeft: Command, started: list[tuple[RunConfig, Any]]
) -> None:
    status, out, err = fedpeft("run", "rounds=-1", "method.nam=lora", "strategy.name=fedaddam")
    assert status == 1
    assert out == ""
    assert started == []
    lines = err.splitlines()
    assert lines[0] == "error: 3 faults in the run configuration:"
    assert any(line.startswith("  method.nam = 'lora': unknown key. Did you") for line in lines)
    assert any(line.startswith("  rounds = -1: must be") for line in lines)
    assert any(
        line.startswith("  strategy.name = 'fedaddam': unknown strategy") and "Did you" in line
        for line in lines
    )
    assert len(lines) == 4


def test_a_long_message_is_not_broken_in_a_pipe(tmp_path: Path) -> None:
    recipe = tmp_path / ("a-very-long-name-" * 8 + ".toml")
    command = [sys.executable, "-c", "from fedpeft_app.cli import main; main()"]
    done = subprocess.run(
        [*command, "config", "--recipe", str(recipe)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"error: Cannot read the recipe {recipe}: No such file or directory.\n"


def test_run_hands_over_what_was_asked_for(
    fedpeft: Command, started: list[tuple[RunConfig, Any]], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("rounds = 2\n", encoding="utf-8")
    options = ["--nodes", "6", "--client-cpus", "2", "--client-gpus", "0.5", "--actors", "3"]
    status, _, err = fedpeft("run", "--recipe", str(recipe), *options, "seed=4")
    assert (status, err) == (0, "")
    ((config, simulation),) = started
    assert (config.rounds, config.seed) == (2, 4)
    assert simulation == launch.Simulation(nodes=6, client_cpus=2, client_gpus=0.5, actors=3)


@pytest.mark.parametrize("way", ["argument", "recipe"])
@pytest.mark.parametrize("reference", ["latest", "elsewhere"])
def test_a_run_is_resumed_in_the_folder_of_runs_that_is_named(
    fedpeft: Command, started: list[tuple[RunConfig, Any]], tmp_path: Path, way: str, reference: str
) -> None:
    runs = tmp_path / "runs"
    folder = create_run(runs, "elsewhere", 1, {**defaults(), "rounds": 7, "output.dir": str(runs)})
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'output.dir = "{runs}"\n', encoding="utf-8")
    where = [f"output.dir={runs}"] if way == "argument" else ["--recipe", str(recipe)]
    status, _, err = fedpeft("run", "--resume", reference, "--nodes", "2", *where)
    assert (status, err) == (0, "")
    ((config, _),) = started
    assert (config.resume, config.rounds) == (str(folder.path), 7)


def test_run_on_a_connection_simulates_nothing(
    fedpeft: Command, started: list[tuple[RunConfig, Any]]
) -> None:
    assert fedpeft("run", "--connection", "cluster")[0] == 0
    assert [target for _, target in started] == ["cluster"]


def test_a_known_error_is_one_message_and_status_1(
    fedpeft: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise SourceError("No model at [bold]'x'.")

    monkeypatch.setattr(launch, "run_simulation", fail)
    assert fedpeft("run") == (1, "", "error: No model at [bold]'x'.\n")


def test_ctrl_c_is_status_130(fedpeft: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "run_simulation", interrupt)
    assert fedpeft("run") == (130, "", "stopped\n")


def test_an_unknown_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(launch, "run_simulation", fail)
    monkeypatch.setattr(sys, "argv", ["fedpeft", "run"])
    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        cli.main()


@pytest.mark.parametrize(
    "arguments",
    [
        ["rnu"],
        ["run", "--nodes", "0"],
        ["run", "--client-cpus", "many"],
        ["export"],
        ["predict", "latest"],
        ["export", "latest", "--merge", "--self-contained"],
    ],
)
def test_wrong_usage_is_status_2(
    fedpeft: Command, started: list[tuple[RunConfig, Any]], arguments: list[str]
) -> None:
    status, out, err = fedpeft(*arguments)
    assert (status, out, started) == (2, "", [])
    assert "Usage: fedpeft" in err


def test_doctors_verdict_is_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedpeft_app.cli import doctor

    for healthy in (True, False):
        monkeypatch.setattr(doctor, "examine", lambda _, healthy=healthy: healthy)
        assert CliRunner().invoke(app, ["doctor"]).exit_code == (not healthy)


def test_version_prints_the_version() -> None:
    assert CliRunner().invoke(app, ["version"]).output == f"{__version__}\n"


def test_help_names_every_command() -> None:
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    for command in ("run", "config", "export", "predict", "runs", "doctor", "version"):
        assert command in done.output


@pytest.mark.parametrize("other", [["--connection", "own"], ["--actors", "2"]])
def test_a_ray_cluster_excludes_what_has_no_meaning_on_one(
    fedpeft: Command, started: list[tuple[RunConfig, Any]], other: list[str]
) -> None:
    status, _, err = fedpeft("run", "--ray-address", "auto", *other)
    assert status == 2
    assert "--ray-address excludes" in err
    assert started == []
