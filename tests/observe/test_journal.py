"""The journal: every event at once, whole, in order."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpeft_app.observe.journal import Journal, is_being_written


def lines(path: Path) -> list[dict[str, Any]]:
    """Read whole lines."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal goes."""
    return tmp_path / "journal.jsonl"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """An open journal."""
    opened = Journal(path)
    yield opened
    opened.close()


def test_an_event_is_on_file_before_the_listener_hears_of_it(path: Path) -> None:
    heard = []

    def listen(event: Any) -> None:
        heard.append((event, lines(path)[-1]))

    journal = Journal(path, listen)
    noted = journal.note("reply", node=3, problem="a\nb é")
    journal.close()
    assert heard == [(noted, noted)]
    assert noted["event"] == "reply"
    assert noted["problem"] == "a\nb é"


def test_events_carry_universal_time_and_a_clock_that_never_goes_back(
    journal: Journal, path: Path
) -> None:
    before = datetime.now(UTC)
    events = [journal.note("tick", number=number) for number in range(3)]
    times = [datetime.fromisoformat(event["at"]) for event in events]
    assert abs((times[0] - before).total_seconds()) < 5
    assert times[0].utcoffset().total_seconds() == 0
    clocks = [event["clock"] for event in events]
    assert clocks == sorted(clocks)
    assert [event["number"] for event in lines(path)] == [0, 1, 2]


def test_what_is_no_json_leaves_no_trace(journal: Journal, path: Path) -> None:
    with pytest.raises(TypeError):
        journal.note("bad", value=object())
    journal.note("good")
    assert [event["event"] for event in lines(path)] == ["good"]


def test_what_is_not_finite_is_null(path: Path) -> None:
    heard: list[Any] = []
    journal = Journal(path, heard.append)
    nan, infinity = float("nan"), np.float64("inf")
    journal.note("round", loss=nan, nodes={"3": {"seconds": infinity, "steps": 2}}, rows=[nan, 0.5])
    journal.close()
    (event,) = [
        json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()
    ]
    assert [event] == heard
    assert (event["loss"], event["rows"]) == (None, [None, 0.5])
    assert event["nodes"] == {"3": {"seconds": None, "steps": 2}}


def test_a_journal_goes_on_after_a_half_written_line(path: Path) -> None:
    path.write_bytes(b'{"event": "whole"}\n{"event": "hal')
    journal = Journal(path)
    journal.note("next")
    journal.close()
    assert [event["event"] for event in lines(path)] == ["whole", "next"]


def test_syncing_forces_the_journals_own_file_to_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    journal = Journal(path)
    journal.note("event")
    assert synced == []
    journal.sync()
    journal.close()
    assert synced == [path.stat().st_ino] * 2


def test_a_journal_is_being_written_until_it_is_closed(path: Path) -> None:
    assert not is_being_written(path)
    journal = Journal(path)
    assert is_being_written(path)
    assert is_being_written(path)  # looking does not take the lock away
    journal.close()
    assert not is_being_written(path)


def test_a_killed_process_writes_no_more(path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from fedpeft_app.observe.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1])); print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "open\n"
        assert is_being_written(path)
        process.kill()
        process.wait()
    assert not is_being_written(path)
