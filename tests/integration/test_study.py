"""A whole study through Flower and Ray: tiny runs, then the same study again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fedpeft_app.cli.settings import to_toml

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("flower")]
FEDPEFT = str(Path(sys.executable).with_name("fedpeft"))


def study(home: Path, file: Path) -> "subprocess.CompletedProcess[str]":
    """Run a study in the folder of its file."""
    return subprocess.run(
        [FEDPEFT, "study", file.name],
        cwd=file.parent,
        env={**os.environ, "FEDPEFT_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def file(tmp_path: Path, tiny_settings: dict[str, Any]) -> Path:
    """A study of two tiny runs."""
    path = tmp_path / "tiny.toml"
    grid = '[grid]\nmethod.name = ["lora", "head"]\n[table]\nbaseline = "lora"\n'
    head = 'name = "tiny"\nnodes = 4\nseeds = [3]\n[config]\n'
    path.write_text(head + to_toml(tiny_settings) + grid, encoding="utf-8")
    return path


def test_a_study_that_was_killed_repeats_no_finished_run(
    own_home: Path, tmp_path: Path, file: Path
) -> None:
    cells = tmp_path / "results" / "tiny" / "cells"
    killed = subprocess.Popen(
        [FEDPEFT, "study", file.name],
        cwd=tmp_path,
        env={**os.environ, "FEDPEFT_HOME": str(own_home)},
        stdout=subprocess.DEVNULL,
    )
    while not (finished := list(cells.glob("*.json"))):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    kept = {path: path.read_bytes() for path in finished}
    done = study(own_home, file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(kept) == 1
    assert len(list(cells.glob("*.json"))) == 2
    assert {path: path.read_bytes() for path in kept} == kept
    assert (tmp_path / "results" / "tiny" / "report.html").is_file()


def test_two_cells_are_run_and_then_kept(own_home: Path, tmp_path: Path, file: Path) -> None:
    done = study(own_home, file)
    assert done.returncode == 0, done.stdout + done.stderr
    paths = list((tmp_path / "results" / "tiny" / "cells").glob("*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    assert [record["status"] for record in records] == ["finished"] * 2
    for record in records:
        journal = own_home / "runs" / record["run"] / "journal.jsonl"
        last = json.loads(journal.read_text(encoding="utf-8").splitlines()[-1])
        measured = record["measured"]
        assert measured["test"] == last["test"]
        assert measured["down"] + measured["up"] == last["down"] + last["up"]
        assert [row["round"] for row in measured["rounds"]] == [1, 2]
    again = study(own_home, file)
    assert again.returncode == 0
    assert "[1/" not in again.stdout
    assert again.stdout.strip() in done.stdout  # the same table, to the last digit
    assert len(list((own_home / "runs").iterdir())) == 2
