"""Two processes do not write to one run."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedpeft_app.config import defaults
from fedpeft_app.errors import RunFolderError
from fedpeft_app.runs.directory import RunFolder, create_run
from fedpeft_app.runs.lock import writing

HOLDER = """
import sys, time
from pathlib import Path
from fedpeft_app.runs.directory import RunFolder
from fedpeft_app.runs.lock import writing
with writing(RunFolder(path=Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, "demo", run_id=1, config=defaults())


def enter(folder: RunFolder) -> None:
    with writing(folder):
        pass


def test_a_second_process_is_refused_until_the_first_is_killed(folder: RunFolder) -> None:
    command = [sys.executable, "-c", HOLDER, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match="Another process is writing"), writing(folder):
            pass
        holder.kill()
        holder.wait()
        with writing(folder):
            pass


def test_a_folder_in_which_no_lock_can_be_made_is_not_called_busy() -> None:
    # No file can be made in /proc, not by the superuser either.
    folder = RunFolder(path=Path("/proc"))
    with pytest.raises(RunFolderError, match="Cannot write to the run folder /proc: "):
        enter(folder)


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    folder = RunFolder(path=tmp_path / "gone")
    with pytest.raises(RunFolderError, match="Cannot write to .*gone: No such file or directory"):
        enter(folder)


def test_what_fails_inside_is_told_as_it_is(folder: RunFolder) -> None:
    with pytest.raises(OSError, match="inside"), writing(folder):
        raise OSError("inside")


def test_it_is_given_back(folder: RunFolder) -> None:
    for _ in range(2):
        with writing(folder):
            pass
