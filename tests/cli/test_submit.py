"""A command that waits until it is told to submit, and what Flower answered."""

import os
from pathlib import Path

import pytest

from fedpeft_app.cli import submit
from fedpeft_app.cli.submit import read_id, waiting
from fedpeft_app.errors import LaunchError

TAKEN = '{"success": true, "run-id": "17"}'


@pytest.fixture
def flwr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `flwr` that notes its arguments, and takes the run."""
    said = tmp_path / "said"
    code = f"def app():\n    open({str(said)!r}, 'w').write(' '.join(sys.argv[1:]))\n"
    monkeypatch.setattr(
        submit,
        "_WAITING",
        submit._WAITING.replace("from flwr.cli.app import app\n", f"{code}    print({TAKEN!r})\n"),
    )
    return said


def test_nothing_is_submitted_before_it_is_told_to(flwr: Path) -> None:
    with waiting(["flwr", "run", "app"], os.environ) as go:
        assert not flwr.exists()
        assert go() == 17
    assert flwr.read_text() == "run app"


def test_modules_in_the_working_directory_are_none_of_flowers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    with (
        waiting(["flwr", "--help"], os.environ) as go,
        pytest.raises(LaunchError, match="Usage: flwr"),
    ):
        go()


def test_what_is_not_told_to_submits_nothing_and_ends(flwr: Path) -> None:
    with pytest.raises(KeyError), waiting(["flwr", "run", "app"], os.environ):
        raise KeyError
    assert not flwr.exists()


def test_flowers_own_command_is_where_it_is_looked_for() -> None:
    with waiting(["flwr", "--help"], os.environ) as go, pytest.raises(LaunchError, match="Usage:"):
        go()


@pytest.mark.parametrize("output", ["", "not JSON", '{"success": false}', '{"success": true}'])
def test_a_run_that_was_not_taken_is_an_error_in_flowers_words(output: str) -> None:
    assert read_id(f"noise\n{TAKEN}\n", "") == 17
    with pytest.raises(LaunchError, match="did not take the run:\n.*no such app"):
        read_id(output, "no such app")
