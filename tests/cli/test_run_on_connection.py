"""A run on a SuperLink of somebody's, whose `flwr` is played by a script."""

import io
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from fedpeft_app.cli import launch, submit
from fedpeft_app.config import parse
from fedpeft_app.errors import LaunchError

_FLWR = """#!/bin/sh
echo "$*" >> '{folder}/asked'
case $1 in
  run) echo '{{"success": true, "run-id": 7}}' ;;
  log) {log} ;;
  list)
    status=$(head -n 1 '{folder}/statuses')
    sed -i 1d '{folder}/statuses'
    test "$status" = unreachable && exit 1
    test "$status" = forgotten &&
      echo '{{"success": false, "error-message": "[code: 16] Run ID not found."}}' &&
      exit 0
    echo "{{\\"runs\\": [{{\\"status\\": \\"$status\\"}}]}}" ;;
esac
"""
Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Give what puts a `flwr` in place, with its answers to `list` and what `log` does."""

    def put(statuses: Sequence[str], log: str = "true") -> None:
        (tmp_path / "statuses").write_text("".join(f"{one}\n" for one in statuses))
        (tmp_path / "flwr").write_text(_FLWR.format(folder=tmp_path, log=log))
        (tmp_path / "flwr").chmod(0o755)

    for module in (launch, submit):
        monkeypatch.setattr(module, "executable", lambda name: str(tmp_path / name))
    monkeypatch.setattr(launch, "_AGAIN_S", 0.0)
    return put


def asked(folder: Path) -> list[str]:
    """List the commands that were given, without `run`."""
    lines = (folder / "asked").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("run ")]


def follow() -> str:
    """Run, and give what was shown."""
    shown = io.StringIO()
    launch.run_on_connection(parse({}), "hospitals", Console(file=shown, width=300))
    return shown.getvalue()


LIST = "list hospitals --run-id 7 --format json"


def test_a_run_that_completes_is_followed_once(play: Play, tmp_path: Path) -> None:
    play(["finished:completed"])
    assert "run 7 completed" in follow()
    assert asked(tmp_path) == ["log 7 hospitals", LIST]


def test_a_log_that_breaks_off_is_no_failed_run(play: Play, tmp_path: Path) -> None:
    play(["running", "unreachable", "unreachable", "running", "finished:completed"])
    text = follow()
    assert text.count("broke off; 'hospitals' says that it is running; asking again") == 1
    assert text.count("broke off; 'hospitals' does not answer; asking again") == 1
    assert "run 7 completed" in text
    log = "log 7 hospitals"
    assert asked(tmp_path) == [log, LIST, log, LIST, LIST, LIST, log, LIST]


@pytest.mark.parametrize("end", ["finished:failed", "finished:stopped"])
def test_a_run_that_ends_otherwise_is_an_error(play: Play, end: str) -> None:
    play(["running", end])
    with pytest.raises(LaunchError, match=f"Run 7 on 'hospitals' ended as {end}"):
        follow()


def test_where_nobody_answers_the_run_may_go_on_and_it_says_how_to_follow(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_UNANSWERED", 3)
    play(["unreachable"] * 3)
    with pytest.raises(LaunchError, match=r"may still be going on\. .*flwr log 7 hospitals"):
        follow()


def test_a_run_that_its_superlink_has_forgotten_has_ended(play: Play, tmp_path: Path) -> None:
    play(["unreachable", "forgotten", "finished:completed"])
    with pytest.raises(LaunchError, match=r"no such run: .*without its database.*resume=RUN"):
        follow()
    assert asked(tmp_path) == ["log 7 hospitals", LIST, LIST]


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_a_signal_ends_the_run(play: Play, tmp_path: Path, name: str) -> None:
    def not_handled(*_: object) -> None:
        raise AssertionError("the run would go on")

    signals = [signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.signal(number, not_handled) for number in signals}
    try:
        play([], log=f"sleep 1; kill -{name} $PPID; exec sleep 60")  # when it is followed
        with pytest.raises(KeyboardInterrupt):
            follow()
        assert [signal.getsignal(number) for number in signals] == [not_handled] * 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert asked(tmp_path) == ["log 7 hospitals", "stop 7 hospitals"]
