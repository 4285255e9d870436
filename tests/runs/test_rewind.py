"""Going back to the end of a round: nothing that counted goes, nothing that did not count stays."""

import json
from pathlib import Path

import pytest

from fedpeft_app.adapters import AdapterState
from fedpeft_app.config import defaults
from fedpeft_app.errors import RunFolderError
from fedpeft_app.observe.journal import Journal
from fedpeft_app.runs.checkpoint import Checkpoint, kept_rounds, save_checkpoint
from fedpeft_app.runs.directory import RunFolder, create_run
from fedpeft_app.runs.rewind import last_sound, put_aside, rewind
from fedpeft_app.snapshot import Snapshot


@pytest.fixture
def folder(tmp_path: Path, state: AdapterState) -> RunFolder:
    """Three rounds ended, the fourth began."""
    made = create_run(tmp_path, "demo", run_id=1, config=defaults())
    journal = Journal(made.journal)
    journal.note("run_started")
    for number in (1, 2, 3):
        journal.note("round_started", round=number, text="round_finished")
        journal.note("round_finished", round=number)
        save(made, number, state)
    journal.note("round_started", round=4)
    journal.close()
    return made


def save(folder: RunFolder, number: int, state: AdapterState) -> Path:
    return save_checkpoint(
        folder, Checkpoint(state=state, round_number=number, progress=Snapshot())
    )


def told(folder: RunFolder) -> list[tuple[str, int]]:
    return [(event["event"], event.get("round", 0)) for event in folder.events()]


WHOLE = [
    ("run_started", 0),
    *[(name, number) for number in (1, 2, 3) for name in ("round_started", "round_finished")],
]


def test_what_came_after_the_round_is_put_aside(folder: RunFolder) -> None:
    assert [event["round"] for event in rewind(folder, 3)] == [4]
    assert told(folder) == WHOLE
    assert rewind(folder, 3) == []
    assert [event["round"] for event in rewind(folder, 2)] == [3, 3]
    assert told(folder) == WHOLE[:-2]
    aside = (folder.path / "interrupted.jsonl").read_text(encoding="utf-8").splitlines()
    rounds = [(json.loads(line)["event"], json.loads(line)["round"]) for line in aside]
    assert rounds == [("round_started", 4), ("round_started", 3), ("round_finished", 3)]
    assert kept_rounds(folder) == [1, 2]


def test_half_a_line_is_put_aside_too(folder: RunFolder) -> None:
    with folder.journal.open("ab") as file:
        file.write(b'{"event": "round_fin')
    assert len(rewind(folder, 3)) == 1
    assert told(folder) == WHOLE
    aside = (folder.path / "interrupted.jsonl").read_text(encoding="utf-8")
    assert aside.endswith('{"event": "round_fin\n')


def test_a_round_that_did_not_end_is_refused_and_nothing_changes(folder: RunFolder) -> None:
    before = folder.journal.read_bytes()
    with pytest.raises(RunFolderError, match="Expected the end of round 4 in .*journal"):
        rewind(folder, 4)
    folder.journal.unlink()
    with pytest.raises(RunFolderError, match="Expected the end of round 3"):
        rewind(folder, 3)
    folder.journal.write_bytes(before)
    assert told(folder)[-1] == ("round_started", 4)


def test_the_newest_sound_checkpoint_is_taken(folder: RunFolder) -> None:
    found, problems = last_sound(folder)
    assert (found.round_number, problems) == (3, ())
    path = folder.checkpoints / "round-000003.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    found, problems = last_sound(folder)
    assert found.round_number == 2
    assert [problem.split(" is damaged")[0] for problem in problems] == [f"The checkpoint {path}"]


def test_without_any_every_reason_is_told(folder: RunFolder, state: AdapterState) -> None:
    for number in (1, 2):
        (folder.checkpoints / f"round-00000{number}.safetensors").write_bytes(b"")
    save_checkpoint(folder, Checkpoint(state=state, round_number=3))
    with pytest.raises(RunFolderError, match="no round to go on from") as refusal:
        last_sound(folder)
    assert "round 3 has the adapter alone" in str(refusal.value)
    assert str(refusal.value).count("is damaged") == 2
    for path in folder.checkpoints.iterdir():
        path.unlink()
    with pytest.raises(RunFolderError, match="its checkpoints are gone"):
        last_sound(folder)


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_run_that_never_had_a_checkpoint_begins_again(folder: RunFolder, rounds: int) -> None:
    for path in folder.checkpoints.iterdir():
        path.unlink()
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    ends = [place for place, line in enumerate(lines) if b'"round_finished"' in line]
    folder.journal.write_bytes(b"".join(lines[: ends[rounds]]))
    assert last_sound(folder) == (None, ())
    later = rewind(folder, 0)
    assert folder.events() == []
    assert put_aside(folder) == later
    assert len(later) == ends[rounds]
