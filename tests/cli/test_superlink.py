"""What a SuperLink that was killed has started is ended all the same."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedpeft_app.cli.superlink import _stop

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
