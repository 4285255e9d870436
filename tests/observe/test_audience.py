"""Those who look on: told in order, in threads of their own; none ends a run, or holds it up."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedpeft_app.observe.lines import describe
from fedpeft_app.observe.observers.audience import Audience
from fedpeft_app.observe.observers.observer import Outcome, Watched


class Heard:
    """Remembers what it is told; raises, or waits, where it is asked to."""

    def __init__(self, raises: str = "", waits: threading.Event | None = None) -> None:
        self.told: list[str] = []
        self.at = threading.Event()
        self._raises, self._waits = raises, waits

    def begin(self, watched: Watched) -> None:
        self._hear(f"begin {watched.name}")

    def tell(self, event: Mapping[str, Any]) -> None:
        self._hear(event["event"])

    def end(self, outcome: Outcome) -> None:
        self._hear(f"end {outcome}")

    def _hear(self, what: str) -> None:
        self.told.append(what)
        if self._waits:
            self._waits.wait(60)
        if what == self._raises:
            raise OSError("no way to https://me:secret@server/api")


def listen(folder: Path, **observers: Heard) -> tuple[Audience, list[str]]:
    """Give an audience, and the lines that are logged."""
    lines: list[str] = []

    def log(event: Mapping[str, Any]) -> None:
        lines.extend(filter(None, [describe(event)]))

    watched = Watched(folder=folder, config={})
    return Audience(folder / "journal.jsonl", watched, observers, log), lines


def kinds(folder: Path) -> list[str]:
    return [
        json.loads(line)["event"] for line in (folder / "journal.jsonl").read_text().splitlines()
    ]


def test_an_observer_hears_all_in_order_and_how_it_ended(tmp_path: Path) -> None:
    for kind, outcome in (("run_finished", "finished"), ("run_failed", "failed"), ("x", "stopped")):
        folder = tmp_path / kind
        folder.mkdir()
        heard = Heard()
        audience, _ = listen(folder, one=heard)
        audience.journal.note("roll_call", examples={"0": 1}, refused={})
        audience.journal.note(
            kind, problem="", seconds=1.0, folder="", round=1, chosen="last", test={}
        )
        audience.close()
        assert heard.told == [f"begin {kind}", "roll_call", kind, f"end {outcome}"]


def test_who_fails_is_noted_once_and_left_out(tmp_path: Path) -> None:
    bad, good = Heard(raises="first"), Heard()
    audience, lines = listen(tmp_path, bad=bad, good=good)
    audience.journal.note("first")
    audience._seats[0]._thread.join(60)
    audience.journal.note("second")
    audience.journal.note("third")
    audience.close()
    assert kinds(tmp_path) == ["first", "second", "observer_failed", "third"]
    assert bad.told[1:] == ["first"]
    assert good.told[1:] == ["first", "second", "observer_failed", "third", "end stopped"]
    assert lines == [
        "observer bad is left out from now on: OSError: no way to https://…@server/api"
    ]


def test_who_cannot_begin_is_told_nothing(tmp_path: Path) -> None:
    bad = Heard(raises=f"begin {tmp_path.name}")
    audience, lines = listen(tmp_path, bad=bad)
    audience._seats[0]._thread.join(60)
    audience.journal.note("first")
    audience.close()
    assert bad.told == [f"begin {tmp_path.name}"]
    assert len(lines) == 1


def test_who_fails_at_the_end_leaves_the_journal_its_last_line(tmp_path: Path) -> None:
    audience, lines = listen(tmp_path, bad=Heard(raises="end failed"))
    audience.journal.note("run_failed", problem="no room")
    audience.close()
    assert kinds(tmp_path) == ["run_failed"]
    assert [line.partition(":")[0] for line in lines] == [
        "run failed",
        "observer bad is left out from now on",
    ]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("no way to https://me:se/cr@et@server/api", "no way to https://…@server/api"),
        ("401 for Bearer abc.def", "401 for Bearer …"),
    ],
)
def test_what_an_observer_ends_with_names_no_credentials(
    words: str, kept: str, tmp_path: Path
) -> None:
    class Ends(Heard):
        def tell(self, event: Mapping[str, Any]) -> None:
            event.clear()  # type: ignore[attr-defined]  # which is nobody else's
            raise SystemExit(words)

    other = Heard()
    audience, lines = listen(tmp_path, ends=Ends(), other=other)
    audience.journal.note("x")
    audience.close()
    assert any(line.endswith(f"SystemExit: {kept}") for line in lines)
    assert other.told[1:] == ["x", "end stopped"]


def test_nobody_waits_for_an_observer_that_hangs(tmp_path: Path) -> None:
    go_on = threading.Event()
    slow, quick = Heard(waits=go_on), Heard()
    audience, lines = listen(tmp_path, slow=slow, quick=quick)
    for _ in range(100):
        audience.journal.note("x")
    audience.close(patience_s=0.2)
    assert slow.told == [f"begin {tmp_path.name}"]
    assert len(quick.told) == 102
    assert len(lines) == 1
    assert "was not waited for" in lines[0]
    go_on.set()
