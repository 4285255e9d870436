"""What a SuperLink that was killed has started is ended all the same."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedpeft_app.cli.superlink import _stop, log_tail

SLEEP = [sys.executable, "-c", "print(flush=True); import time; time.sleep(60)"]


@pytest.fixture
def ended() -> "Iterator[list[subprocess.Popen[bytes]]]":
    """Processes that are ended after the test."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("by", ["variable", "folder", "nothing"])
def test_what_a_killed_superlink_leaves_is_found_and_ended(
    tmp_path: Path, ended: "list[subprocess.Popen[bytes]]", by: str
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    left = subprocess.Popen(
        SLEEP,
        env={"FLWR_HOME": str(home)} if by == "variable" else {},
        cwd=home if by == "folder" else elsewhere,  # as Ray's, which overwrite their variables
        stdout=subprocess.PIPE,
    )
    ended.append(left)
    assert left.stdout is not None
    left.stdout.readline()
    superlink = subprocess.Popen(["true"])
    superlink.wait()
    _stop(superlink, home)
    assert (left.poll() is None) == (by == "nothing")


def test_the_exceptions_of_a_log_are_what_is_told(tmp_path: Path) -> None:
    log = tmp_path / "flower.log"
    log.write_text(
        "INFO: Starting\nTraceback (most recent call last):\n  File x\n    raise cause\n"
        "flwr.client.LoadError: no module\n\nRuntimeError: simulation\n"
        "flwr.client.LoadError: no module\nERROR : Exit Code: 700\n",
        encoding="utf-8",
    )
    assert log_tail(log) == "flwr.client.LoadError: no module\nRuntimeError: simulation"


@pytest.mark.parametrize(
    ("text", "told"),
    [("INFO: up\n\x1b[91mERROR\x1b[0m: port taken", "ERROR: port taken"), ("INFO: up", "INFO: up")],
)
def test_without_exceptions_trouble_is_told_or_all(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "flower.log").write_text(text, encoding="utf-8")
    assert log_tail(tmp_path / "flower.log") == told
    assert log_tail(tmp_path / "other.log") == "(no log)"
