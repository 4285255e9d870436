"""Files are the old ones or the new ones, never half of one."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedpeft_app.atomic import make_folder, sweep, write_bytes, write_json


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something much longer than what follows")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, set[str]]]:
    """Every folder that is forced to disk: its inode, and the names in it at that time."""
    found: list[tuple[int, set[str]]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        if stat.S_ISDIR((state := os.fstat(descriptor)).st_mode):
            found.append((state.st_ino, set(os.listdir(descriptor))))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return found


def test_a_new_name_is_on_disk_too(tmp_path: Path, synced: list[tuple[int, set[str]]]) -> None:
    write_bytes(tmp_path / "file", b"new")
    assert synced == [(tmp_path.stat().st_ino, {"file"})]


def test_new_folders_are_on_disk_up_to_the_first_old_one(
    tmp_path: Path, synced: list[tuple[int, set[str]]]
) -> None:
    for _ in range(2):  # the second time nothing is new
        make_folder(tmp_path / "a" / "b")
    assert sorted(synced) == sorted(
        [(tmp_path.stat().st_ino, {"a"}), ((tmp_path / "a").stat().st_ino, {"b"})]
    )


def test_an_interrupted_write_leaves_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == []


def test_what_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"seed": 1})
    with pytest.raises(TypeError):
        write_json(path, {"seed": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"seed": 1}
    assert os.listdir(tmp_path) == ["file.json"]


def test_json_is_written_as_it_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", ["é"])
    assert (tmp_path / "file.json").read_bytes() == '[\n  "é"\n]\n'.encode()


@pytest.fixture(params=[0o022, 0o027, 0o000])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """What the user wants to deny to others."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_who_may_read_a_file_is_up_to_the_umask_unless_it_is_private(
    tmp_path: Path, umask: int
) -> None:
    for _ in range(2):
        write_bytes(tmp_path / "open", b"")
        write_bytes(tmp_path / "own", b"", private=True)
        assert (tmp_path / "open").stat().st_mode & 0o777 == 0o666 & ~umask
        assert (tmp_path / "own").stat().st_mode & 0o777 == 0o600
        (tmp_path / "own").chmod(0o644)  # as an earlier version wrote it


WRITER = """
import os, signal, sys
from pathlib import Path
from fedpeft_app.atomic import write_bytes
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
write_bytes(Path(sys.argv[1]), b"half")
"""


def test_what_a_killed_writer_left_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    others = {"file", ".hidden", ".file.tmp", ".vimrc.markdown.tmp", "file.0123456789abcdef.tmp"}
    for name in others:
        (tmp_path / name).touch()
    for name in ("round-1.bin", "round-2.bin"):
        subprocess.run([sys.executable, "-c", WRITER, str(tmp_path / name)], check=False)
    assert len(set(os.listdir(tmp_path)) - others) == 2
    sweep(tmp_path, lambda name: name < "round-2.bin")
    (left,) = set(os.listdir(tmp_path)) - others
    assert left.startswith(".round-2.bin.")
    sweep(tmp_path)
    assert set(os.listdir(tmp_path)) == others
    sweep(tmp_path / "missing")


def test_a_writer_whose_scratch_is_gone_says_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def swept(descriptor: int) -> None:
        fsync(descriptor)
        sweep(tmp_path)

    monkeypatch.setattr(os, "fsync", swept)
    with pytest.raises(FileNotFoundError, match=r"\.file\..*\.tmp.* -> .*file"):
        write_bytes(tmp_path / "file", b"new")
