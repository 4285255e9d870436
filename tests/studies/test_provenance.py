"""A number names the code that made it."""

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from fedpeft_app.studies import provenance as made
from fedpeft_app.studies.provenance import provenance


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True)


def commit_of(file: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Ask as if the package were there."""
    monkeypatch.setattr(made.fedpeft_app, "__file__", str(file))
    return provenance().get("commit")


def test_versions_are_the_installed_ones() -> None:
    found = provenance()
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
    assert "commit" not in provenance()
