"""Run folders: made, listed, found, read, removed."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedpeft_app.config import defaults
from fedpeft_app.errors import RunFolderError
from fedpeft_app.observe.journal import Journal
from fedpeft_app.runs import directory
from fedpeft_app.runs.directory import (
    RunFolder,
    create_run,
    find_run,
    list_runs,
    remove_run,
    short_id,
)


@pytest.fixture
def three(tmp_path: Path) -> list[RunFolder]:
    """Three runs of three days, the oldest first."""
    found = []
    for day, name in ((1, "lora"), (2, "full"), (3, "lora")):
        run = create_run(tmp_path, name, run_id=day, config=defaults())
        path = tmp_path / f"2026010{day}T000000Z-{name}-0000000{day}"
        found.append(RunFolder(path=run.path.rename(path)))
    return found


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock."""

    class Noon(directory.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Noon":
            return cls(2026, 7, 4, 12, 0, 5, tzinfo=tz)

    monkeypatch.setattr(directory, "datetime", Noon)


@pytest.mark.usefixtures("noon")
def test_a_run_is_named_after_time_name_and_the_last_digits_of_its_id(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs", "demo", run_id=98_700_000_042, config=defaults())
    assert run.path == tmp_path / "runs" / "20260704T120005Z-demo-00000042"
    assert run.config() == defaults()
    assert run.events() == []


@pytest.mark.usefixtures("noon")
def test_a_run_never_takes_the_folder_of_another(tmp_path: Path) -> None:
    first, second, third = (
        create_run(tmp_path, "demo", run_id=1, config={**defaults(), "seed": seed})
        for seed in (1, 2, 3)
    )
    assert first.path.name == "20260704T120005Z-demo-00000001"
    assert second.path.name == "20260704T120005Z.2-demo-00000001"
    assert [run.config()["seed"] for run in (first, second, third)] == [1, 2, 3]
    assert [run.path for run in list_runs(tmp_path)] == [third.path, second.path, first.path]


def test_short_ids_keep_their_zeros() -> None:
    assert short_id(1_000_000_007) == "00000007"


def test_runs_are_listed_newest_first(tmp_path: Path, three: list[RunFolder]) -> None:
    assert list(list_runs(tmp_path)) == three[::-1]


def test_what_is_no_run_is_not_listed(tmp_path: Path, three: list[RunFolder]) -> None:
    (tmp_path / "notes.txt").touch()
    model = tmp_path / "bert"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    assert list(list_runs(tmp_path)) == three[::-1]
    assert list(list_runs(tmp_path / "missing")) == []


@pytest.mark.parametrize(
    ("reference", "day"), [("latest", 3), ("full", 2), ("20260101", 1), ("00000003", 3)]
)
def test_a_run_is_found_by_part_of_its_name(
    tmp_path: Path, three: list[RunFolder], reference: str, day: int
) -> None:
    assert find_run(tmp_path, reference) == three[day - 1]


def test_a_run_is_found_by_its_path_from_anywhere(
    tmp_path: Path, three: list[RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    assert find_run(elsewhere, three[0].path.name) == three[0]
    assert find_run(elsewhere, str(three[1].path)) == three[1]


def test_an_ambiguous_reference_is_refused(tmp_path: Path, three: list[RunFolder]) -> None:
    with pytest.raises(RunFolderError, match=r"one run for 'lora' in .*, but 2 runs fit"):
        find_run(tmp_path, "lora")


@pytest.mark.parametrize("reference", ["latest", "lora"])
def test_a_reference_to_nothing_is_refused(tmp_path: Path, reference: str) -> None:
    with pytest.raises(RunFolderError, match="no run fits.*`fedpeft runs` lists"):
        find_run(tmp_path, reference)


def test_a_half_written_last_line_is_not_read(three: list[RunFolder]) -> None:
    journal = Journal(three[0].journal)
    journal.note("run_started", labels=["é"])
    journal.close()
    whole = three[0].journal.read_bytes()
    assert len(three[0].events()) == 1
    for cut in range(len(whole), 2 * len(whole)):  # in the middle of the "é", too
        three[0].journal.write_bytes((whole + whole)[:cut])
        assert [event["labels"] for event in three[0].events()] == [["é"]]


def test_odd_line_separators_inside_a_text_are_no_line_ends(three: list[RunFolder]) -> None:
    journal = Journal(three[0].journal)
    journal.note("reply", problem="one\u2028two\x85three\r\nfour")
    journal.close()
    assert [event["problem"] for event in three[0].events()] == ["one\u2028two\x85three\r\nfour"]


def test_a_damaged_journal_is_named(three: list[RunFolder]) -> None:
    three[0].journal.write_text("no json\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"The journal .*journal.jsonl is damaged"):
        three[0].events()


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "bert"}'])
def test_a_damaged_config_is_named(three: list[RunFolder], content: str) -> None:
    (three[0].path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        three[0].config()


def test_a_removed_run_is_gone_with_all_it_held(tmp_path: Path, three: list[RunFolder]) -> None:
    (three[1].checkpoints / "round-000001.safetensors").touch()
    remove_run(three[1])
    assert list(list_runs(tmp_path)) == [three[2], three[0]]
    assert not three[1].path.exists()


def test_only_run_folders_are_removed(tmp_path: Path) -> None:
    model = tmp_path / "bert"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    with pytest.raises(RunFolderError, match="no run fits"):
        find_run(tmp_path, str(model))
    with pytest.raises(RunFolderError, match="is not a run folder"):
        remove_run(RunFolder(path=model))
    assert (model / "config.json").exists()


def test_the_latest_run_is_one_with_something_to_show(tmp_path: Path) -> None:
    names = ("20260101T000000Z-good-00000001", "20260102T000000Z-failed-00000002")
    for name in names:
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text('{"rounds": 1}', encoding="utf-8")
        (tmp_path / name / "journal.jsonl").touch()
    assert find_run(tmp_path, "latest").path.name == names[1]
    (tmp_path / names[0] / "checkpoints" / "round-000001.safetensors").touch()
    assert find_run(tmp_path, "latest").path.name == names[0]
