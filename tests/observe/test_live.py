"""The live view: plain lines in a pipe, a few moving ones on a terminal."""

import logging
import sys
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from fedpeft_app.observe.live import LiveView

_PATH = "/a/folder/whose/name/is/so/long/that/it/does/not/fit/on/any/line/of/eighty/columns/[red]"
_EVENTS: list[dict[str, Any]] = [
    {"event": "round_started", "round": 1, "rounds": 2, "asked": 2, "cohort": [0, 2]},
    {"event": "reply", "round": 1, "node": 0, "problem": ""},
    {"event": "reply", "round": 1, "node": 2, "problem": f"no file {_PATH}"},
    {"event": "evaluating", "split": "test", "share": 0.5},
    {"event": "run_failed", "problem": f"nothing in {_PATH} was good"},
]


def watch(console: Console, events: list[dict[str, Any]] = _EVENTS) -> list[list[str]]:
    """Feed all events; give what the moving lines said after each."""
    said = []
    with LiveView(console) as view:
        view.stage("checking model and data")
        for event in events:
            view.feed(event)
            said.append([line.plain for line in view._render().renderables])
    return said


def test_a_pipe_gets_plain_whole_lines() -> None:
    console = Console(file=StringIO(), width=80)
    watch(console)
    assert console.file.getvalue().splitlines() == [
        "checking model and data",
        f"round 1: node 2 failed: no file {_PATH}",
        f"run failed: nothing in {_PATH} was good",
    ]


def test_a_terminal_wraps_the_statement_and_nothing_else() -> None:
    rows = {"mechanism": " ".join(["noise"] * 30)}
    stated = {"event": "privacy_statement", "rows": rows, "final": True}
    for terminal in (True, False):
        console = Console(file=StringIO(), width=80, force_terminal=terminal, color_system=None)
        watch(console, [stated, _EVENTS[2]])
        lines = [line for line in console.file.getvalue().splitlines() if "noise" in line]
        assert len(lines) == (3 if terminal else 1)
        assert all(line.startswith("    noise") for line in lines[1:])
        assert f"no file {_PATH}" in console.file.getvalue()


def test_the_moving_lines_say_what_goes_on() -> None:
    said = watch(Console(file=StringIO(), width=80))
    assert [" ".join(lines).partition("─ ")[2].partition(" (")[0].strip() for lines in said] == [
        "training",
        "training",
        "aggregating",
        "evaluating on the test set: 50%",
        "evaluating on the test set: 50%",
    ]
    assert [lines[1] for lines in said[:2]] == [
        "clients: 0/2 done · 2 in flight",
        "clients: 1/2 done · 1 in flight",
    ]


def test_what_is_logged_meanwhile_goes_above_the_moving_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "__stderr__", terminal)
    logger = logging.getLogger("somebody")
    logger.addHandler(handler := logging.StreamHandler())  # as Flower does at import
    console = Console(file=StringIO(), width=80, force_terminal=True)
    try:
        with LiveView(console):
            logger.warning("mind the gap")
        logger.warning("afterwards")
    finally:
        logger.removeHandler(handler)
    assert "mind the gap\n" in console.file.getvalue()
    assert terminal.getvalue() == "afterwards\n"


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console = Console(file=StringIO(), width=200, force_terminal=True)
    watch(console)
    assert "\x1b" not in console.file.getvalue()
    first, second, *_ = console.file.getvalue().splitlines()
    assert first == "checking model and data"
    assert second.startswith("round 1: node 2 failed")


def test_a_terminal_shows_the_same_lines_and_is_left_clean() -> None:
    console = Console(file=StringIO(), width=200, force_terminal=True)
    watch(console)
    output = console.file.getvalue()
    assert f"run failed: nothing in {_PATH} was good" in output
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1  # the cursor is back


def test_a_terminal_is_left_clean_after_an_error() -> None:
    console = Console(file=StringIO(), force_terminal=True)
    try:
        with LiveView(console) as view:
            view.stage("starting Flower and Ray")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert "\x1b[?25h" in console.file.getvalue()
    assert not view._live.is_started
