"""A study's page: its table as in Markdown, its runs, what is missing; whole or under way."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from reported_runs import ATTACK, Read, read_page
from study_samples import TUNED, TWO_BY_TWO, Pretence, conducted, plan_of
from typer.testing import CliRunner

from fedpeft_app.cli.main import app
from fedpeft_app.errors import RunFolderError
from fedpeft_app.observe.report.study import StudyStory
from fedpeft_app.observe.report.study_page import study_page
from fedpeft_app.studies.conduct import standing
from fedpeft_app.studies.page import to_markdown
from fedpeft_app.studies.plan import Cell, Plan
from fedpeft_app.studies.record import KEPT_STUDY, Archive, Ending
from fedpeft_app.studies.story import study_story

RESULTS = Path(__file__).parents[2] / "results"
FAILED = Ending(exit_status=1, run=None, message=ATTACK)


def accuracy(cell: Cell) -> float | Ending:
    """Make up what a run measures: more for LoRA, and more for higher seeds."""
    return 0.5 + 0.25 * (cell.config["method.name"] == "lora") + 0.05 * float(cell.config["seed"])


def told(plan: Plan, folder: Path) -> StudyStory:
    return study_story(plan, standing(plan, Archive(folder)), command="fedpeft study it")


def page(plan: Plan, folder: Path) -> Read:
    return read_page(study_page(told(plan, folder)))


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Plan, Path]:
    plan = plan_of(tmp_path, TWO_BY_TWO)
    conducted(plan, tmp_path / "results", Pretence(tmp_path / "runs", accuracy))
    return plan, tmp_path / "results"


def test_the_page_has_the_figures_of_the_table(whole: tuple[Plan, Path]) -> None:
    plan, folder = whole
    text = page(plan, folder).text
    rows = [
        line
        for line in to_markdown(plan.study, standing(plan, Archive(folder))).splitlines()
        if line.startswith(("| full", "| lora"))
    ]
    assert len(rows) == 6  # by column, and in full
    for row in rows:
        for figure in row.strip("| ").split(" | "):
            if "±" in figure:
                assert figure.strip("*") in text
    assert "finished" in text
    assert "12 runs" in text


def test_points_and_curves_are_those_of_the_runs(whole: tuple[Plan, Path]) -> None:
    story = told(*whole)
    assert story.curve_metric == "test accuracy"
    lora = next(row for row in story.rows if row.row == "lora")
    (moment,) = lora.moments  # the made-up journals have one round
    assert (moment.round, moment.sent) == (3, 10.0)
    assert moment.value == pytest.approx(0.8)
    assert lora.run_bytes == 30


def test_every_chart_names_its_column(whole: tuple[Plan, Path]) -> None:
    text = page(*whole).text
    for alpha in ("0.1", "1.0"):
        assert f"Test accuracy over rounds, data.dirichlet-alpha = {alpha}" in text
        assert f"Test accuracy over bytes, data.dirichlet-alpha = {alpha}" in text


def test_what_never_travels_has_no_bytes(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TUNED)
    conducted(plan, tmp_path / "results", Pretence(tmp_path / "runs", accuracy))
    pooled = next(row for row in told(plan, tmp_path / "results").rows if "central" in row.row)
    assert [moment.sent for moment in pooled.moments] == [None]


def test_a_study_under_way_says_what_is_left(tmp_path: Path) -> None:
    plan, folder = plan_of(tmp_path, TWO_BY_TWO), tmp_path / "results"
    with pytest.raises(KeyboardInterrupt):
        conducted(plan, folder, Pretence(tmp_path / "runs", stopping(after=4)))
    text = page(plan, folder).text
    assert "4 of 12 runs finished" in text
    assert "8 of 12 runs missing" in text
    assert "not run" in text


def stopping(after: int) -> Any:
    """Stop the study after so many runs."""
    done: list[Cell] = []

    def measured(cell: Cell) -> float | BaseException:
        done.append(cell)
        return 0.5 if len(done) <= after else KeyboardInterrupt()

    return measured


def test_a_study_of_which_nothing_ran_has_a_page(tmp_path: Path) -> None:
    read = page(plan_of(tmp_path, TWO_BY_TWO), tmp_path / "results")
    assert "0 of 12 runs finished" in read.text
    assert "plots" not in read.ids()


def test_why_runs_failed_is_text(tmp_path: Path) -> None:
    plan, folder = plan_of(tmp_path, TWO_BY_TWO), tmp_path / "results"
    conducted(plan, folder, Pretence(tmp_path / "runs", lambda cell: FAILED))
    read = page(plan, folder)
    assert ATTACK in read.text
    assert [kind for kind, _ in read.scripts].count("") == len(read.scripts) == 1


def test_a_row_may_have_any_name(tmp_path: Path) -> None:
    name = json.dumps(ATTACK)
    text = f'{TWO_BY_TWO}\n[[cell]]\nrow = {name}\nset = {{mode = "central"}}\n'
    plan, folder = plan_of(tmp_path, text), tmp_path / "results"
    conducted(plan, folder, Pretence(tmp_path / "runs", accuracy))
    read = page(plan, folder)
    assert "img" not in {tag for tag, _ in read.tags}
    assert ATTACK in read.text


def test_what_is_no_number_is_a_dash(tmp_path: Path) -> None:
    plan, folder = plan_of(tmp_path, TWO_BY_TWO), tmp_path / "results"
    conducted(plan, folder, Pretence(tmp_path / "runs", lambda cell: math.nan))
    assert "nan" not in page(plan, folder).text


# ------------------------------------------------------------------ the command


def fedpeft(*arguments: str) -> str:
    """Run a command and give what it prints; errors pass through."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False).output


def test_shipped_results_are_reported_by_their_shipped_study(tmp_path: Path) -> None:
    shutil.copytree(RESULTS / "methods-r8", tmp_path / "methods-r8")
    (tmp_path / "methods-r8" / KEPT_STUDY).unlink()
    path = Path(fedpeft("report", str(tmp_path / "methods-r8")).strip())
    assert path == tmp_path / "methods-r8" / "report.html"
    read = read_page(path.read_text(encoding="utf-8"))
    assert "0.9420 ± 0.0075" in read.text
    assert "fedpeft study study-methods-r8" in read.text


def test_results_are_found_by_name_in_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(RESULTS.parent)
    wanted = tmp_path / "out.html"
    assert fedpeft("report", "wire-r8", "--output", str(wanted)) == f"{wanted}\n"
    assert "topk(0.1)+int8" in read_page(wanted.read_text(encoding="utf-8")).text


def test_the_study_that_results_keep_comes_first(whole: tuple[Plan, Path]) -> None:
    _, folder = whole
    (folder / KEPT_STUDY).write_text(TWO_BY_TWO.replace("1.0]", "10.0]"), encoding="utf-8")
    text = read_page(Path(fedpeft("report", str(folder)).strip()).read_text(encoding="utf-8")).text
    assert "6 of 12 runs finished" in text


def test_results_without_their_study_are_refused_with_a_remedy(whole: tuple[Plan, Path]) -> None:
    _, folder = whole
    with pytest.raises(RunFolderError, match=r"Expected the study of .*--study FILE"):
        fedpeft("report", str(folder))
    assert fedpeft("report", str(folder), "--study", str(folder.parent / "study.toml"))
