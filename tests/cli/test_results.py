"""Runs, listed, removed, exported and used for predictions from the command line."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS, LocalGrid
from rich.console import Console
from typer.testing import CliRunner, Result

from fedpeft_app.cli.main import app
from fedpeft_app.cli.results import list_runs_table, outcome
from fedpeft_app.config import defaults, parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.errors import FedPeftError, RunFolderError
from fedpeft_app.observe.journal import Journal
from fedpeft_app.runs.checkpoint import kept_rounds, load_checkpoint, save_checkpoint
from fedpeft_app.runs.directory import RunFolder, create_run, find_run, runs_parent


def fedpeft(*arguments: str, answer: str = "") -> Result:
    """Run a command; errors pass through."""
    return CliRunner().invoke(app, list(arguments), input=answer, catch_exceptions=False)


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path
) -> Iterator[Path]:
    """A home with one real run: two rounds of LoRA, both kept."""
    home = tmp_path_factory.mktemp("home")
    settings = {
        "rounds": 2,
        "model.name": str(tiny_model),
        "method.rank": 2,
        "data.name": str(tiny_data),
        "data.max-length": 16,
        "data.partitioner": "iid",
        "train.learning-rate": 1e-2,
        "train.head-learning-rate": 5e-2,
        "train.precision": "fp32",
        "output.name": "real",
        "output.keep": "all",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDPEFT_HOME", str(home))
        coordinate(LocalGrid(4, settings), parse(settings), run_id=1)
    return home


@pytest.fixture
def real(made: Path, own_home: Path) -> RunFolder:
    """A copy of the real run, alone in this test's home."""
    shutil.copytree(made / "runs", own_home / "runs")
    return find_run(runs_parent(), "real")


def made_up(name: str, *events: str) -> RunFolder:
    """Write a run folder with a few events."""
    run = create_run(runs_parent(), name, run_id=1, config=defaults())
    journal = Journal(run.journal)
    for event in events:
        journal.note(event, test={"accuracy": 0.5})
    journal.close()
    return run


def test_no_runs_are_said_to_be_none(own_home: Path) -> None:
    assert fedpeft("runs").output == f"no runs in {own_home / 'runs'}\n"


def test_a_pipe_gets_tabs(real: RunFolder) -> None:
    header, line = fedpeft("runs").output.splitlines()
    assert header.split("\t")[0] == "run"
    accuracy = real.events()[-1]["test"]["accuracy"]
    data = Path(real.config()["data.name"]).name
    expected = [real.path.name, "federated", "lora", data, "2/2", "finished", "accuracy"]
    assert line.split("\t") == [*expected, f"{accuracy:.4f}", ""]


@pytest.mark.parametrize(
    ("finished", "shown"),
    [
        ({"metric": "auroc", "test": {"accuracy": 0.5, "loss": 1.0}}, ["accuracy", "0.5000"]),
        (
            {"test": {}, "clients_test": {"metric": "loss", "mean": 0.25}},
            ["loss (nodes)", "0.2500"],
        ),
        ({"test": {}}, ["", ""]),
    ],
)
def test_the_list_says_what_was_measured_and_by_whom(
    finished: dict[str, Any], shown: list[str]
) -> None:
    run = create_run(runs_parent(), "run", run_id=1, config=defaults())
    with closing(Journal(run.journal)) as journal:
        journal.note("run_finished", **finished)
    assert fedpeft("runs").output.splitlines()[1].split("\t")[6:8] == shown


@pytest.mark.parametrize(
    ("private", "told", "rows", "said"),
    [
        ({}, {}, {}, ""),
        ({"privacy.unsafe-seed": -1}, {"epsilon": 3.001}, {"privacy": "…"}, "3.01"),
        ({}, {"epsilon": 3.0}, {"privacy": "…", "not known": "…"}, "at least 3.00"),
        ({}, {"epsilon": None}, {"privacy": "not known", "not known": "…"}, "not known"),
        ({"privacy.unsafe-seed": 3}, {"epsilon": 3.0}, {"privacy": "…"}, "3.00 UNSAFE"),
    ],
)
def test_the_list_says_what_was_spent_of_privacy(
    private: dict[str, Any],
    told: dict[str, Any],
    rows: dict[str, str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = create_run(runs_parent(), "run", run_id=1, config={**defaults(), **private})
    with closing(Journal(run.journal)) as journal:
        if rows:
            journal.note("privacy_statement", rows=rows, final=True, **told)
    assert fedpeft("runs").output.splitlines()[1].split("\t")[-1] == said
    list_runs_table(Console(force_terminal=True, width=200, color_system=None))
    assert ("epsilon" in capsys.readouterr().out) == bool(said)


def test_a_terminal_gets_a_table_with_whole_names(
    real: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    list_runs_table(Console(force_terminal=True, width=200, color_system=None))
    output = capsys.readouterr().out
    assert real.path.name in output
    assert "finished" in output


def test_a_narrow_terminal_folds_nothing(
    real: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    list_runs_table(Console(force_terminal=True, width=80, color_system=None))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    accuracy = f"{real.events()[-1]['test']['accuracy']:.4f}"
    assert [real.path.name, "2/2", "finished", "accuracy", accuracy] in lines
    assert ["federated,", "lora,", Path(real.config()["data.name"]).name] in lines


@pytest.mark.parametrize(
    ("events", "word"),
    [
        ([], "unfinished"),
        (["run_started", "round_finished"], "unfinished"),
        (["run_started", "run_failed"], "failed"),
        (["run_started", "run_finished"], "finished"),
    ],
)
def test_the_journal_says_how_a_run_ended(events: list[str], word: str) -> None:
    assert outcome(made_up("run", *events)) == word


def test_a_run_whose_process_lives_is_running() -> None:
    run = create_run(runs_parent(), "run", run_id=1, config=defaults())
    journal = Journal(run.journal)
    assert outcome(run) == "running"
    journal.close()
    assert outcome(run) == "unfinished"


@pytest.mark.parametrize("file", ["config.json", "journal.jsonl"])
def test_a_damaged_run_does_not_hide_the_others(real: RunFolder, file: str) -> None:
    (made_up("damaged").path / file).write_text("{\n", encoding="utf-8")
    lines = fedpeft("runs").output.splitlines()
    assert sorted(line.split("\t")[5] for line in lines[1:]) == ["finished", "unreadable"]


def test_cleaning_removes_what_did_not_finish(real: RunFolder) -> None:
    failed, ended = made_up("failed", "run_failed"), made_up("ended", "run_started")
    assert fedpeft("runs", "clean", "--unfinished", "--yes").exit_code == 0
    assert [run.path.exists() for run in (real, failed, ended)] == [True, False, False]


def test_cleaning_all_spares_what_is_running(real: RunFolder) -> None:
    run = create_run(runs_parent(), "busy", run_id=1, config=defaults())
    journal = Journal(run.journal)
    fedpeft("runs", "clean", "--all", "--yes")
    assert not real.path.exists()
    assert run.path.exists()
    with pytest.raises(RunFolderError, match=r"Still running, not removed: .*-busy-00000001"):
        fedpeft("runs", "clean", "busy", "--yes")
    journal.close()
    fedpeft("runs", "clean", "busy", "--yes")
    assert not run.path.exists()


@pytest.mark.parametrize(("answer", "status", "left"), [("y\n", 0, False), ("n\n", 1, True)])
def test_cleaning_asks_first(real: RunFolder, answer: str, status: int, *, left: bool) -> None:
    done = fedpeft("runs", "clean", "real", answer=answer)
    assert f"{real.path}\nRemove 1 run folder?" in done.output
    assert (done.exit_code, real.path.exists()) == (status, left)


def test_cleaning_nothing_says_how(real: RunFolder) -> None:
    assert "name runs, or use --unfinished or --all" in fedpeft("runs", "clean", "--yes").output
    assert real.path.exists()


def test_cleaning_one_unknown_name_removes_nothing(real: RunFolder) -> None:
    with pytest.raises(RunFolderError, match="no run fits"):
        fedpeft("runs", "clean", "real", "rael", "--yes")
    assert real.path.exists()


def test_an_export_goes_where_it_is_told(real: RunFolder, tmp_path: Path) -> None:
    done = fedpeft("export", "latest", "--round", "1", "--to", str(tmp_path / "out"))
    assert done.output.startswith(f"exported to {tmp_path / 'out'}\n\nimport json\n")
    assert f'folder = "{tmp_path / "out"}"\n' in done.output
    readme = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| exported round | 1" in readme
    assert f"| run | {real.path.name} |" in readme


@pytest.mark.parametrize(
    ("option", "name"),
    [("--merge", "adapter-merged"), ("--self-contained", "adapter-self-contained")],
)
def test_an_export_goes_beside_the_runs_own(real: RunFolder, option: str, name: str) -> None:
    before = (real.adapter / "adapter_model.safetensors").read_bytes()
    fedpeft("export", "latest", option)
    assert (real.path / name / "labels.json").exists()
    assert (real.adapter / "adapter_model.safetensors").read_bytes() == before


def test_a_card_has_the_test_of_its_own_round(real: RunFolder, tmp_path: Path) -> None:
    events = [event for event in real.events() if event["event"] == "round_finished"]
    for event in events:
        path = tmp_path / str(event["round"])
        fedpeft("export", "latest", "--round", path.name, "--to", str(path))
        row = f"| test accuracy | {round(event['test']['accuracy'], 4)} |"
        assert row in (path / "README.md").read_text(encoding="utf-8")


def test_a_card_claims_no_test_in_low_precision(real: RunFolder, tmp_path: Path) -> None:
    (other,) = {1, 2} - {real.events()[-1]["round"]}
    checkpoint = load_checkpoint(real, other)
    metrics = {**checkpoint.metrics, "precision": "bf16"}
    save_checkpoint(real, replace(checkpoint, metrics=metrics))
    fedpeft("export", "latest", "--round", str(other), "--to", str(tmp_path / "out"))
    assert "test accuracy" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latest", "--round", "9"], r"No checkpoint of round 9 in .*; kept: 1, 2"),
        (
            ["latest", "--round", "first"],
            "Expected a round's number, 'best' or 'last', got 'first'",
        ),
        (["missing"], "no run fits"),
    ],
)
def test_an_impossible_export_is_refused(
    real: RunFolder, arguments: list[str], message: str
) -> None:
    with pytest.raises(RunFolderError, match=message):
        fedpeft("export", *arguments)


def test_another_model_under_the_same_name_is_refused(
    real: RunFolder, tmp_path: Path, tiny_model: Path
) -> None:
    """What an adapter was trained on cannot be exchanged behind its back."""
    from safetensors.numpy import load_file, save_file

    other = tmp_path / "model"
    shutil.copytree(tiny_model, other)
    tensors = load_file(other / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    config = {**real.config(), "model.name": str(other)}
    (real.path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(FedPeftError, match="This state is for adapter"):
        fedpeft("export", "latest", "--to", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_predictions_are_one_line_a_text(real: RunFolder) -> None:
    texts = ["wheat corn wheat grain", "oil\tbarrel\ncrude", "money " * 20]
    rows = [line.split("\t") for line in fedpeft("predict", "latest", *texts).output.splitlines()]
    assert {row[0] for row in rows} <= set(LABELS)
    assert all(1 / len(LABELS) < float(row[1]) <= 1 for row in rows)
    assert [row[2] for row in rows] == [texts[0], "oil barrel crude", f"{texts[2][:69]}…"]


def test_both_rounds_were_kept(real: RunFolder) -> None:
    assert kept_rounds(real) == [1, 2]


def test_a_configured_folder_of_runs_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {"output.dir": "mine"}
    assert runs_parent(parse(settings).output.dir) == tmp_path / "mine"
    assert runs_parent(parse({}).output.dir) == runs_parent()
