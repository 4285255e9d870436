"""Going back to the end of a round: nothing that counted goes, nothing that did not count stays."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedpeft_app.adapters import AdapterState
from fedpeft_app.config import defaults
from fedpeft_app.errors import RunFolderError
from fedpeft_app.observe.journal import Journal
from fedpeft_app.runs.checkpoint import Checkpoint, kept_rounds, prune, save_checkpoint
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


def test_what_nobody_can_go_on_from_is_set_aside_once(
    folder: RunFolder, state: AdapterState
) -> None:
    for number in (3, 2):
        path = folder.checkpoints / f"round-00000{number}.safetensors"
        path.write_bytes(path.read_bytes()[:-5])
        found, _ = last_sound(folder)
        rewind(folder, found.round_number)
        names = sorted(path.name for path in folder.checkpoints.iterdir())
        whole = [f"round-00000{number}.safetensors" for number in range(1, number)]
        assert names == [*whole, f"{path.name}.damaged"]  # the one of round 3 is not kept for ever
    prune(folder, set())
    assert [path.name for path in folder.checkpoints.iterdir()] == [f"{path.name}.damaged"]
    assert kept_rounds(folder) == []


def test_what_killed_processes_left_is_swept_away(folder: RunFolder) -> None:
    places = (folder.path / ".config.json", folder.checkpoints / ".round-000004.safetensors")
    left = [path.with_name(f"{path.name}.0123456789abcdef.tmp") for path in places]
    for path in left:
        path.touch()
    rewind(folder, 3)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("line", [b"\0\0\0\0\n", b'{"event": \n', b'"round_finished"\n', b"\xff\n"])
def test_a_damaged_line_of_the_journal_is_named_and_nothing_changes(
    folder: RunFolder, line: bytes
) -> None:
    with folder.journal.open("ab") as file:
        file.write(line)
    before = folder.journal.read_bytes()
    with pytest.raises(RunFolderError, match="Expected an event in line 9 of .*journal is damaged"):
        rewind(folder, 3)
    for path in folder.checkpoints.iterdir():
        path.unlink()
    with pytest.raises(RunFolderError, match="Expected an event in line 9 of .*journal is damaged"):
        last_sound(folder)
    assert folder.journal.read_bytes() == before


def test_what_is_secret_goes_back_too_and_stays_secret(folder: RunFolder) -> None:
    secret = folder.path / "secret.jsonl"
    secret.touch(mode=0o600)
    secret.write_bytes(b"".join(folder.journal.read_bytes().splitlines(keepends=True)[1:]))
    whole = secret.read_bytes()
    rewind(folder, 2)
    assert [json.loads(line)["round"] for line in secret.read_bytes().splitlines()] == [1, 1, 2, 2]
    aside = folder.path / "interrupted-secret.jsonl"
    assert secret.read_bytes() + aside.read_bytes() == whole
    assert {path.stat().st_mode & 0o777 for path in (secret, aside)} == {0o600}
    # What reached the disk too late is no hindrance: the round's end, and what a crash left.
    secret.write_bytes(b"".join(secret.read_bytes().splitlines(keepends=True)[:-1]) + b"\0\0\n")
    rewind(folder, 2)
    assert [json.loads(line)["round"] for line in secret.read_bytes().splitlines()] == [1, 1]
    assert aside.read_bytes().endswith(b"\0\0\n")


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


@pytest.mark.parametrize("trouble", ["unreadable", "another version"])
def test_what_may_be_sound_is_not_passed_over(folder: RunFolder, trouble: str) -> None:
    path = folder.checkpoints / "round-000003.safetensors"
    if trouble == "unreadable":
        path.unlink()
        path.mkdir()
    else:
        save_file({"x": np.zeros(1)}, path, metadata={"format": "fedpeft-checkpoint-9"})
    with pytest.raises(RunFolderError, match="move the file away to do without it"):
        last_sound(folder)
    assert kept_rounds(folder) == [1, 2, 3]


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
