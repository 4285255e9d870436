"""Files are the old ones or the new ones, never half of one."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from fedpeft_app.atomic import make_folder, write_bytes, write_json


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"something much longer than what follows")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
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


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", ["é"])
    assert (tmp_path / "file.json").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "file.json").read_bytes() == '[\n  "é"\n]\n'.encode()
