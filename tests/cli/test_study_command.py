"""`fedpeft study`: what it prints, what it leaves, and how it ends."""

import json
import math
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fedpeft_app.cli import cells as cells_of_a_study
from fedpeft_app.cli import rehearsal
from fedpeft_app.cli import study as command
from fedpeft_app.cli.ahead import CellAhead
from fedpeft_app.cli.cells import Share, require_shares
from fedpeft_app.cli.main import app
from fedpeft_app.cli.settings import check_settings, read_settings
from fedpeft_app.config import RunConfig, flatten
from fedpeft_app.errors import ConfigError, Fault, LaunchError
from fedpeft_app.observe.journal import Journal
from fedpeft_app.runs.directory import RunFolder, create_run
from fedpeft_app.studies.plan import Cell, load_plan
from fedpeft_app.studies.record import Archive, Ending

SMALL = """
name = "small"
nodes = 4
seeds = [0, 1]
[grid]
method.name = ["lora", "head"]
"""
STUDIES = sorted((Path(__file__).parents[2] / "recipes").glob("study-*.toml"))
DOCUMENT = Path(__file__).parents[2] / "docs" / "studies.md"
REFUSED = Ending(exit_status=1, run=None, message="no such model")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study file, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """Remember the cells that would have been run, and refuse all but LoRA's."""
    cells: list[Cell] = []

    def pretend(cell: Cell, archive: Archive, **_: object) -> Ending:
        cells.append(cell)
        return REFUSED

    monkeypatch.setattr(cells_of_a_study, "run_cell", pretend)
    return cells


@pytest.fixture(autouse=True)
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Remember what would have been looked at, and find nothing wrong with it."""
    configs: list[RunConfig] = []

    def pretend(config: RunConfig, nodes: int) -> list[Fault]:
        configs.append(config)
        return []

    monkeypatch.setattr(rehearsal, "preflight_faults", pretend)
    return configs


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forecast the same of every run, without its model and its data."""

    def pretend(cells: Sequence[Cell], *options: Any) -> list[CellAhead]:
        return [
            CellAhead(cell=cell, sent=1024, epsilon=math.inf, seconds=math.nan) for cell in cells
        ]

    monkeypatch.setattr(command, "forecast_cells", pretend)


def fedpeft(*arguments: str) -> Result:
    """Run a command whose errors are looked at as they are."""
    done = CliRunner().invoke(app, ["study", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_a_dry_run_lists_what_is_left_and_runs_nothing(small: Path, asked: list[Cell]) -> None:
    done = fedpeft(str(small), "--dry-run")
    first, *rows = done.output.splitlines()
    assert first == "checking 2 configurations: model, data and method"
    assert [row.split("  ", 1)[1] for row in rows[:4]] == [
        "left      lora, seed 0",
        "left      lora, seed 1",
        "left      head, seed 0",
        "left      head, seed 1",
    ]
    assert rows[4] == "4 runs left in 'small'"
    assert [row.split("  ")[-1] for row in rows[5:9]] == [
        "lora, seed 0",
        "lora, seed 1",
        "head, seed 0",
        "head, seed 1",
    ]
    assert all(" 1.0 KiB " in row and " no privacy " in row for row in rows[5:9])
    assert rows[9].startswith("4 runs ahead: ")
    assert rows[9].endswith("sent in all; --calibrate measures how long they take")
    assert asked == []
    assert not Path("results").exists()


def test_failures_are_recorded_and_the_exit_tells_the_truth(small: Path, asked: list[Cell]) -> None:
    with pytest.raises(LaunchError, match="4 of 4 runs have not finished"):
        fedpeft(str(small))
    assert len(asked) == 4
    records = [json.loads(path.read_text()) for path in Path("results/small/cells").glob("*.json")]
    assert {(record["status"], record["problem"]) for record in records} == {
        ("failed", "no such model")
    }
    assert all(record["measured"] is None for record in records)
    assert "| lora | – | 0 of 2 |" in Path("results/small/table.md").read_text(encoding="utf-8")
    with pytest.raises(LaunchError):
        fedpeft(str(small))  # said again, run no more
    assert len(asked) == 4


def test_results_go_where_they_are_told(small: Path, asked: list[Cell]) -> None:
    with pytest.raises(LaunchError):
        fedpeft(str(small), "--to", "elsewhere", "--seeds", "1", "--only", "method.name=head")
    assert [cell.name for cell in asked] == ["head, seed 1"]
    assert Path("elsewhere/table.csv").exists()


TUNED = (
    SMALL
    + """
[tune]
seeds = [7]
per = ["method.name"]
[[tune.search]]
when = {method.name = "lora"}
train.learning-rate = [1e-3, 1e-2]
[[tune.search]]
when = {method.name = "head"}
train.head-learning-rate = [1e-2]
"""
)


def made_up_run(folder: Path, cell: Cell) -> RunFolder:
    """Make up a finished run."""
    run = create_run(folder, cell.run_name, 1, {})
    written = Journal(run.journal)
    judged = {"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.5}}
    written.note("run_started", trainable=1, parameters=2)
    written.note("round_finished", round=1, examples=1, **judged)
    sizes = {"down": 1, "up": 1, "bytes_per_message": 1, "seconds": 1.0}
    written.note("run_finished", round=1, chosen="last", test=judged["test"], **sizes)
    written.close()
    return run


@pytest.fixture
def tuned(small: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study that is tuned, with runs made up: the high rate diverges, and so does the head."""
    small.write_text(TUNED, encoding="utf-8")

    def pretend(cell: Cell, archive: Archive, **_: object) -> Ending:
        diverging = cell.config["train.learning-rate"] == 1e-2
        if diverging or cell.config["method.name"] == "head":
            return Ending(exit_status=1, run=None, message="not finite")
        return Ending(exit_status=0, run=made_up_run(small.parent / "runs", cell), message="")

    monkeypatch.setattr(cells_of_a_study, "run_cell", pretend)
    return small


def test_a_candidate_that_diverged_is_no_failure_where_another_was_chosen(tuned: Path) -> None:
    assert fedpeft(str(tuned), "--only", "method.name=lora").exit_code == 0
    assert fedpeft(str(tuned), "--only", "method.name=lora").exit_code == 0


def test_runs_that_tuning_chose_nothing_for_are_failures(tuned: Path) -> None:
    with pytest.raises(LaunchError, match="2 of 4 runs have not finished"):
        fedpeft(str(tuned))
    assert fedpeft(str(tuned), "--only", "method.name=lora").exit_code == 0  # head was not asked


def test_a_dry_run_counts_only_the_tuning_of_what_is_asked_for(tuned: Path) -> None:
    rows = fedpeft(str(tuned), "--dry-run", "--only", "method.name=head").output.splitlines()[1:]
    assert [row.split("  ", 1)[1] for row in rows[:3]] == [
        "left      tuning head: train.head-learning-rate = 0.01, seed 7",
        "left      head, seed 0, once tuned",
        "left      head, seed 1, once tuned",
    ]
    assert rows[3] == "3 runs left in 'small'"
    assert rows[-1].startswith("3 runs ahead: 3.0 KiB")  # each candidate costs the same


def test_each_configuration_that_is_left_is_looked_at_once(
    tuned: Path, looked_at: list[RunConfig]
) -> None:
    fedpeft(str(tuned), "--dry-run")  # two seeds, two learning rates, a tuning run each
    assert [config.method.name for config in looked_at] == ["lora", "head"]
    fedpeft(str(tuned), "--only", "method.name=lora")
    looked_at.clear()
    fedpeft(str(tuned), "--only", "method.name=lora")
    assert looked_at == []  # all has been measured


def test_what_could_not_start_is_refused_before_anything_runs(
    small: Path, asked: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(config: RunConfig, nodes: int) -> list[Fault]:
        unfit = [Fault(key="method.name", value="head", problem="does not fit.")]
        poor = [Fault(key="strategy.min-nodes", value=9, problem=f"there are {nodes}.")]
        return [*poor, *(unfit if config.method.name == "head" else [])]

    monkeypatch.setattr(rehearsal, "preflight_faults", refuse)
    for mode in (["--dry-run"], []):
        with pytest.raises(ConfigError) as caught:
            fedpeft(str(small), *mode)
        assert [str(fault) for fault in caught.value.faults] == [
            "strategy.min-nodes = 9: there are 4. (In every cell.)",
            "method.name = 'head': does not fit. (In head, seed 0 and 1 more.)",
        ]
    assert asked == []


def test_a_second_study_in_the_same_folder_is_refused(small: Path, asked: list[Cell]) -> None:
    with (
        Archive(Path("results/small")).held(),
        pytest.raises(LaunchError, match="Expected no other study at work"),
    ):
        fedpeft(str(small))
    assert asked == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "method.nam=lora"], "Did you mean 'method.name'?"),
        (["--only", "lora"], "lora = '': expected KEY=VALUE"),
        (["--only", "method.name=full"], "fits no cell of the study"),
        (["--seeds", "0,7"], "not in the study: 7"),
        (["--seeds", "one"], "not in the study: one"),
    ],
)
def test_a_filter_that_fits_nothing_is_refused(
    small: Path, asked: list[Cell], arguments: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        fedpeft(str(small), *arguments)
    assert message in str(caught.value)
    assert asked == []


@pytest.mark.parametrize("path", STUDIES, ids=[path.stem for path in STUDIES])
def test_a_shipped_study_is_sound(path: Path) -> None:
    plan = load_plan(path, check_settings)
    assert plan.study.name == path.stem.removeprefix("study-")


def test_the_documented_study_is_sound(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    path = tmp_path / "skew.toml"
    path.write_text("".join(blocks), encoding="utf-8")
    plan = load_plan(path, check_settings)
    assert len(plan.entries) == 2 * 2 * 3 - 2 + 1


# ------------------------------------------------------------------ the process


def a_cell(**settings: Any) -> Cell:
    return Cell(
        study="small", name="lora, seed 0", config=flatten(check_settings(settings)), nodes=4
    )


def pretend_fedpeft(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Put a program in the place of `fedpeft`, to which a cell's arguments are given."""
    program = folder / "fedpeft"
    program.write_text(f"#!{sys.executable}\nimport sys, os, time\n{code}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(cells_of_a_study, "executable", lambda name: str(folder / name))


def test_a_cell_is_run_by_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_fedpeft(tmp_path, monkeypatch, "print(sys.argv[1:]); print('error: a\\nb'); exit(1)")
    cell, archive = a_cell(rounds=3), Archive(tmp_path)
    ending = cells_of_a_study.run_cell(cell, archive)
    recipe = archive.path(cell.id, "toml")
    assert (ending.exit_status, ending.run, ending.message) == (1, None, "a\nb")
    log = archive.path(cell.id, "log").read_text(encoding="utf-8")
    assert log.startswith(f"['run', '--recipe', '{recipe}', '--nodes', '4']")
    told = flatten(read_settings(recipe, []))
    assert told == {**cell.config, "output.name": f"small-{cell.id}"}


def test_only_a_new_run_folder_is_the_cells_own(
    tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, archive = a_cell(), Archive(tmp_path)
    create_run(own_home / "runs", cell.run_name, 1, {})
    pretend_fedpeft(tmp_path, monkeypatch, "exit(1)")
    assert cells_of_a_study.run_cell(cell, archive).run is None
    new = own_home / "runs" / f"20990101T000000Z-{cell.run_name}-00000002"
    code = f"os.makedirs({str(new / 'checkpoints')!r})\n"
    code += f"open({str(new / 'config.json')!r}, 'w').write('{{}}')"
    pretend_fedpeft(tmp_path, monkeypatch, code)
    ending = cells_of_a_study.run_cell(cell, archive)
    assert ending.run is not None
    assert ending.run.path == new


def test_a_killed_run_is_told_by_its_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_fedpeft(tmp_path, monkeypatch, "print('working', flush=True); os.kill(os.getpid(), 9)")
    ending = cells_of_a_study.run_cell(a_cell(), Archive(tmp_path))
    assert (ending.exit_status, ending.message) == (-9, "working")


def test_an_interrupt_ends_the_run_in_order_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = tmp_path / "done"
    code = "import signal, pathlib\n"
    code += f"signal.signal(15, lambda *_: (pathlib.Path({str(done)!r}).touch(), exit(130)))\n"
    code += "os.kill(os.getppid(), 2); time.sleep(60)"
    pretend_fedpeft(tmp_path, monkeypatch, code)
    with pytest.raises(KeyboardInterrupt):
        cells_of_a_study.run_cell(a_cell(), Archive(tmp_path))
    assert done.exists()


def test_a_run_that_is_to_stop_ends_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    code = "import signal, pathlib\n"
    code += f"signal.signal(15, lambda *_: (pathlib.Path({str(done)!r}).touch(), exit(130)))\n"
    code += f"pathlib.Path({str(begun)!r}).touch(); time.sleep(60)"
    pretend_fedpeft(tmp_path, monkeypatch, code)
    processes = cells_of_a_study.Processes(Share())

    def stop() -> None:
        while not begun.exists():
            time.sleep(0.01)
        processes.stop()

    threading.Thread(target=stop).start()
    with pytest.raises(LaunchError, match="stopped"):
        processes(a_cell(), Archive(tmp_path))
    assert done.exists()


def test_runs_side_by_side_share_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells_of_a_study.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(cells_of_a_study, "gpus_here", lambda: 5)
    monkeypatch.setattr(cells_of_a_study, "names_of_gpus", lambda: list("01234"))
    asked_for = "print(os.environ['CUDA_VISIBLE_DEVICES'], sys.argv[6:])"
    pretend_fedpeft(tmp_path, monkeypatch, asked_for)
    share = Share(jobs=2, client_cpus=2, client_gpus=0.5)
    require_shares(share)
    processes, cell, archive = cells_of_a_study.Processes(share), a_cell(), Archive(tmp_path)
    said = {processes(cell, archive).message for _ in range(2)}
    options = "['--client-cpus', '2', '--client-gpus', '0.5', '--actors', '4']"
    assert said == {f"0,2,4 {options}", f"1,3 {options}"}


def test_a_pooled_run_takes_all_of_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells_of_a_study.os, "cpu_count", lambda: 16)
    assert Share(jobs=4).options(pooled=True) == ["--client-cpus", "4"]
    assert Share(jobs=1).options(pooled=True) == []


def test_every_run_with_gpus_needs_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells_of_a_study, "gpus_here", lambda: 1)
    require_shares(Share(jobs=4))
    with pytest.raises(ConfigError, match="need one of their own each, and there are 1"):
        require_shares(Share(jobs=2, client_gpus=0.5))


def test_runs_side_by_side_are_all_recorded(small: Path, asked: list[Cell]) -> None:
    with pytest.raises(LaunchError, match="have not finished"):
        fedpeft(str(small), "--jobs", "2")
    records = list(small.parent.glob("results/*/cells/*.json"))
    assert len(records) == len({cell.id for cell in asked}) == len(asked)
