"""What has ended is kept, what has not is run, and one failure stops nothing."""

import json
from pathlib import Path

import pytest
from study_samples import TWO_BY_TWO, Pretence, conducted, plan_of, write_run

from fedpeft_app.errors import LaunchError, RunFolderError
from fedpeft_app.studies.plan import Cell
from fedpeft_app.studies.provenance import contents
from fedpeft_app.studies.record import Archive, Ending

SMALL = 'name = "small"\nseeds = [0, 1]\n[grid]\nmethod.name = ["lora", "head"]\n'


def test_every_cell_is_run_once(tmp_path: Path) -> None:
    runner = Pretence(tmp_path / "runs")
    conducted(plan_of(tmp_path, SMALL), tmp_path, runner)
    assert runner.names == ["lora, seed 0", "lora, seed 1", "head, seed 0", "head, seed 1"]
    assert len(list((tmp_path / "cells").glob("*.json"))) == 4


def test_finished_cells_are_kept(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, SMALL)
    before = conducted(plan, tmp_path, Pretence(tmp_path / "runs"))
    again = Pretence(tmp_path / "runs", lambda cell: 0.9)
    assert conducted(plan, tmp_path, again) == before
    assert again.asked == []


def test_a_larger_study_runs_only_what_is_new(tmp_path: Path) -> None:
    conducted(plan_of(tmp_path, SMALL), tmp_path, Pretence(tmp_path / "runs"))
    runner = Pretence(tmp_path / "runs")
    conducted(plan_of(tmp_path, SMALL.replace("[0, 1]", "[1, 2]")), tmp_path, runner)
    assert runner.names == ["lora, seed 2", "head, seed 2"]


def test_a_failure_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    def failing(cell: Cell) -> float | Ending:
        refused = Ending(exit_status=1, run=None, message="no such model")
        return refused if cell.name == "lora, seed 1" else 0.5

    plan = plan_of(tmp_path, SMALL)
    runner = Pretence(tmp_path / "runs", failing)
    now = conducted(plan, tmp_path, runner)
    assert len(runner.asked) == 4
    states = [(slot.record.status, slot.record.problem) for slot in now.slots if slot.record]
    assert states[1] == ("failed", "no such model")
    assert [state for state, _ in states].count("finished") == 3


def test_a_stated_failure_waits_for_retry_and_a_crash_does_not(tmp_path: Path) -> None:
    stated = [{"event": "run_failed", "problem": "0 of 2 replies were good"}]
    endings = {
        "lora, seed 0": lambda name: Ending(
            exit_status=1, run=write_run(tmp_path / "runs", name, stated), message=""
        ),
        "lora, seed 1": lambda name: Ending(
            exit_status=1, run=write_run(tmp_path / "runs", name, []), message="process is gone"
        ),
        "head, seed 0": lambda name: Ending(exit_status=-9, run=None, message=""),
    }

    def ending(cell: Cell) -> float | Ending:
        return endings[cell.name](cell.run_name) if cell.name in endings else 0.5

    plan = plan_of(tmp_path, SMALL)
    now = conducted(plan, tmp_path, Pretence(tmp_path / "runs", ending))
    records = [slot.record for slot in now.slots if slot.record]
    assert [(record.status, record.problem) for record in records[:3]] == [
        ("failed", "0 of 2 replies were good"),
        ("crashed", "process is gone"),
        ("crashed", "exit -9"),
    ]
    again = Pretence(tmp_path / "runs")
    conducted(plan, tmp_path, again)
    assert again.names == ["lora, seed 1", "head, seed 0"]
    last = Pretence(tmp_path / "runs")
    now = conducted(plan, tmp_path, last, retry_failed=True)
    assert last.names == ["lora, seed 0"]
    assert all(slot.record and slot.record.status == "finished" for slot in now.slots)


def test_an_interrupt_leaves_what_has_finished(tmp_path: Path) -> None:
    def interrupted(cell: Cell) -> float | BaseException:
        return KeyboardInterrupt() if cell.name == "head, seed 0" else 0.5

    plan = plan_of(tmp_path, SMALL)
    with pytest.raises(KeyboardInterrupt):
        conducted(plan, tmp_path, Pretence(tmp_path / "runs", interrupted))
    again = Pretence(tmp_path / "runs")
    conducted(plan, tmp_path, again)
    assert again.names == ["head, seed 0", "head, seed 1"]


def test_only_what_is_wanted_is_run(tmp_path: Path) -> None:
    runner = Pretence(tmp_path / "runs")
    plan = plan_of(tmp_path, TWO_BY_TWO)
    now = conducted(
        plan, tmp_path, runner, wanted=lambda entry, seed: entry.row == "lora" and seed == 1
    )
    assert runner.names == ["lora / 0.1, seed 1", "lora / 1.0, seed 1"]
    assert sum(slot.record is not None for slot in now.slots) == 2
    assert len(now.slots) == 12


def test_a_record_has_what_the_journal_measured(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO_BY_TWO)
    now = conducted(plan, tmp_path, Pretence(tmp_path / "runs", lambda cell: 0.75))
    slot = now.slots[2]
    assert slot.cell is not None
    kept = json.loads((tmp_path / "cells" / f"{slot.cell.id}.json").read_text(encoding="utf-8"))
    assert kept["settings"] == {"rounds": 3, "method.name": "full", "data.dirichlet-alpha": 0.1}
    assert (kept["seed"], kept["nodes"], kept["made_with"]) == (2, 4, {"fedpeft": "0"})
    assert kept["run"].split("-", 1)[1].startswith(f"two-by-two-{slot.cell.id}-")
    measured = kept["measured"]
    assert measured["test"] == {"accuracy": 0.75, "loss": 0.25}
    assert measured["validation"] == {"accuracy": 0.65, "loss": 0.25}
    assert measured["rounds"] == [
        {
            "round": 3,
            "train_loss": 0.5,
            "examples": 100,
            "down": 6,
            "up": 4,
            "seconds": 2.0,
            "validation": {"accuracy": 0.65, "loss": 0.25},
            "test": {"accuracy": 0.75, "loss": 0.25},
        }
    ]
    assert (measured["trainable"], measured["bytes_per_message"]) == (1000, 4000)
    assert Archive(tmp_path).get(slot.cell.id) == slot.record


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.path("abc", "json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"abc\.json: 'format'\. Delete it to run"):
        archive.get("abc")
    assert archive.get("def") is None


def test_a_record_names_what_held_before_its_run_and_after(tmp_path: Path) -> None:
    commits = iter(["a", "a", "a", "b", "b", "b", "b", "b"])
    plan = plan_of(tmp_path, SMALL)
    runner = Pretence(tmp_path / "runs")
    now = conducted(plan, tmp_path, runner, made_with=lambda cell: {"commit": next(commits)})
    made_with = [slot.record.made_with["commit"] for slot in now.slots if slot.record]
    assert made_with == ["a", "a … b", "b", "b"]


def test_new_runs_are_not_put_beside_those_of_other_data(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("text,label\n", encoding="utf-8")
    text = SMALL + f"[config]\ndata.name = '{data}'\n"

    def run(seeds: str) -> list[str]:
        runner = Pretence(tmp_path / "runs")
        plan = plan_of(tmp_path, text.replace("[0, 1]", seeds))
        conducted(plan, tmp_path, runner, made_with=lambda cell: contents(cell.config))
        return runner.names

    assert run("[0]") == ["lora, seed 0", "head, seed 0"]
    data.touch()
    assert run("[0]") == []
    data.write_text("text,label\na,b\n", encoding="utf-8")
    with pytest.raises(LaunchError, match=r"content of data\.name.*'lora, seed 0'.* 2 finished"):
        run("[0, 1]")
    data.unlink()  # the table can be made where the data is not
    assert run("[0]") == []


def test_two_studies_do_not_share_a_folder(tmp_path: Path) -> None:
    with Archive(tmp_path / "new").held():
        with (
            pytest.raises(LaunchError, match="found one. Wait until it ends"),
            Archive(tmp_path / "new").held(),
        ):
            pass
        with Archive(tmp_path / "other").held():
            pass
    with Archive(tmp_path / "new").held():
        pass
