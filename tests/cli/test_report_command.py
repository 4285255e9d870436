"""`fedpeft report`: which run it finds, where the file goes, and the command that repeats a run."""

import shlex
import zipfile
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flwr.cli.build import build_fab_from_disk
from hypothesis import given
from hypothesis import strategies as st
from reported_runs import ATTACK, read_page
from typer.testing import CliRunner

from fedpeft_app.cli.app_folder import app_folder
from fedpeft_app.cli.main import app
from fedpeft_app.cli.report import run_command, run_story
from fedpeft_app.cli.settings import read_settings
from fedpeft_app.config import defaults, flatten, parse
from fedpeft_app.errors import RunFolderError
from fedpeft_app.observe.journal import Journal
from fedpeft_app.runs.directory import RunFolder, create_run, runs_parent


def fedpeft(*arguments: str) -> str:
    """Run a command and give what it prints; errors pass through."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False).output


def made_up(name: str, *events: dict[str, Any], **config: Any) -> RunFolder:
    """Write a run's folder with a few events."""
    run = create_run(runs_parent(), name, run_id=1, config={**defaults(), **config})
    with closing(Journal(run.journal)) as journal:
        for event in events:
            journal.note(**event)
    return run


def called(nodes: int, **more: Any) -> dict[str, Any]:
    """Make up a roll call."""
    examples = {str(node): 9 for node in range(nodes)}
    return {"event": "roll_call", "examples": examples, "refused": {}, **more}


# ------------------------------------------------------------------ which run, and where to


@pytest.mark.parametrize("reference", ["latest", "first"])
def test_a_run_is_found_as_everywhere(reference: str) -> None:
    run = made_up("first")
    assert fedpeft("report", reference) == f"{run.path / 'report.html'}\n"
    assert run.path.name in read_page((run.path / "report.html").read_text(encoding="utf-8")).text


def test_the_file_goes_where_it_is_wanted(tmp_path: Path) -> None:
    run, wanted = made_up("first"), tmp_path / "there.html"
    assert fedpeft("report", str(run.path), "--output", str(wanted)) == f"{wanted}\n"
    assert wanted.is_file()
    assert not (run.path / "report.html").exists()


def test_a_run_that_is_not_there_is_refused() -> None:
    with pytest.raises(RunFolderError, match="Expected one run for 'nothing'.* no run fits"):
        fedpeft("report", "nothing")


def test_a_damaged_journal_is_refused() -> None:
    run = made_up("first")
    run.journal.write_text("{}\nnonsense\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match="is damaged"):
        fedpeft("report", "first")


def test_settings_may_hold_anything() -> None:
    made_up("first", {"event": "run_failed", "problem": ATTACK}, **{"data.name": ATTACK})
    path = fedpeft("report", "first").strip()
    read = read_page(Path(path).read_text(encoding="utf-8"))
    assert [kind for kind, _ in read.scripts] == [""]
    assert read.text.count(ATTACK) >= 3


def test_a_run_under_way_is_told_from_one_that_was_ended() -> None:
    run = made_up("first", called(4))
    assert run_story(run).standing == "unfinished"
    with closing(Journal(run.journal)):
        assert run_story(run).standing == "running"


# ------------------------------------------------------------------ how to do it again


def command_of(**config: Any) -> list[str]:
    """Write the command of a simulated run, and part it as a shell does."""
    flat = flatten(parse(config))
    return shlex.split(run_command(flat, 7, simulated=True))


def test_defaults_are_not_repeated() -> None:
    assert command_of() == ["fedpeft", "run", "--nodes", "7"]
    assert command_of(rounds=9)[4:] == ["rounds=9"]


@pytest.mark.parametrize(
    "settings",
    [
        {"evaluate.server": False, "strategy.fraction-evaluate": 1.0, "train.learning-rate": 3e-05},
        {"method.options": '{"a": "b c"}', "data.text-column": "it's", "data.labels": "1"},
        {"data.text-column": '"quoted"', "data.label-column": " blanks "},
        {"data.name": "true", "model.name": "12.5", "data.subset": "[1]"},
    ],
)
def test_the_command_has_the_same_configuration(settings: dict[str, Any]) -> None:
    assert flatten(read_settings(None, command_of(**settings)[4:])) == flatten(parse(settings))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20))
def test_the_command_keeps_any_text(value: str) -> None:
    settings = {"data.text-column": value} if value else {}
    expected = parse(settings).data.text_column
    assert read_settings(None, command_of(**settings)[4:]).data.text_column == expected


@pytest.mark.parametrize(
    ("events", "command"),
    [
        ([called(4, refused={"9": "other model"})], "fedpeft run --nodes 5 rounds=3"),
        ([called(4, identities={"a": 0})], "fedpeft run --connection NAME rounds=3"),
    ],
)
def test_the_nodes_are_those_that_answered(events: list[dict[str, Any]], command: str) -> None:
    run = made_up("first", *events, rounds=3)
    assert command in run_story(run).commands.values()


def test_a_run_that_did_not_end_well_can_go_on() -> None:
    commands = run_story(made_up("first", called(4))).commands.values()
    assert f"fedpeft run --resume {next(iter(runs_parent().iterdir())).name}" in commands
    done = made_up("second", called(4), {"event": "run_finished", "round": 1, "chosen": "last"})
    assert not any("--resume" in one for one in run_story(done).commands.values())


# ------------------------------------------------------------------ what carries the page


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # flwr on pathspec
def test_the_app_bundle_does_without_the_pages_parts(tmp_path: Path) -> None:
    bundle = build_fab_from_disk(app_folder(tmp_path))
    names = zipfile.ZipFile(BytesIO(bundle)).namelist()
    assert "fedpeft_app/observe/report/document.py" in names
    assert not [name for name in names if name.endswith((".html", ".css", ".js"))]
