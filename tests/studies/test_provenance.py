"""A number names the code that made it."""

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from fedpeft_app.config import defaults
from fedpeft_app.studies import provenance as made
from fedpeft_app.studies.provenance import contents, provenance, spanning


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True)


def commit_of(file: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Ask as if the package were there."""
    monkeypatch.setattr(made.fedpeft_app, "__file__", str(file))
    return provenance(defaults()).get("commit")


def test_versions_are_the_installed_ones() -> None:
    found = provenance(defaults())
    assert found["torch"] == version("torch")
    assert found["fedpeft"] == version("fedpeft")


def test_a_commit_is_named_with_what_differs_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "code.py"
    file.touch()
    git(tmp_path, "init", "--quiet")
    assert commit_of(file, monkeypatch) is None  # in a repository, but not of it
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "x")
    clean = commit_of(file, monkeypatch)
    assert clean is not None
    assert len(clean) == 40
    file.write_text("x = 1\n", encoding="utf-8")
    assert commit_of(file, monkeypatch) == f"{clean}-dirty"


def test_no_git_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "commit" not in provenance(defaults())


def test_both_ends_of_a_change_are_named() -> None:
    before = {"torch": "2", "commit": "82287c3"}
    assert spanning(before, before) == before
    assert spanning(before, {"torch": "2", "commit": "f73d7e0"}) == {
        "torch": "2",
        "commit": "82287c3 … f73d7e0",
    }
    assert spanning({}, {"commit": "f73d7e0"}) == {"commit": "none … f73d7e0"}
    assert spanning({"commit": "82287c3"}, {}) == {"commit": "82287c3 … none"}


def test_only_what_is_on_this_machine_has_a_content(tmp_path: Path) -> None:
    assert contents(defaults()) == {}
    assert contents({**defaults(), "data.name": str(tmp_path / "none.csv")}) == {}


@pytest.mark.parametrize("prefix", ["", "scratch:"])
def test_the_content_of_a_folder_is_that_of_its_files(tmp_path: Path, prefix: str) -> None:
    config = {**defaults(), "model.name": f"{prefix}{tmp_path}"}

    def content() -> str:
        return contents(config)["content of model.name"]

    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    first = content()
    (tmp_path / "config.json").touch()
    assert content() == first  # a date is no content
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    assert content() != first
    (tmp_path / "other.json").rename(tmp_path / "config.json")
    assert content() == first
    (tmp_path / "config.json").write_text("{ }", encoding="utf-8")
    assert content() != first
