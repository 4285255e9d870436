"""A whole study through Flower and Ray: two tiny runs, then the same study again."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedpeft_app.cli.settings import to_toml

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


@pytest.mark.slow
def test_two_cells_are_run_and_then_kept(
    own_home: Path, tmp_path: Path, tiny_settings: dict[str, Any]
) -> None:
    file = tmp_path / "tiny.toml"
    grid = '[grid]\nmethod.name = ["lora", "head"]\n[table]\nbaseline = "lora"\n'
    head = 'name = "tiny"\nnodes = 4\nseeds = [3]\n[config]\n'
    file.write_text(head + to_toml(tiny_settings) + grid, encoding="utf-8")
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
