"""Whole runs that are looked at: event files grow, observers fail, runs do not."""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest
from private_settings import USER
from resumed_runs import SETTINGS, killed, resumed, run

from fedpeft_app.errors import ConfigError
from fedpeft_app.observe.observers.observer import Outcome, Watched
from fedpeft_app.observe.observers.scalars import scalars
from fedpeft_app.runs.checkpoint import load_checkpoint
from fedpeft_app.runs.directory import list_runs, runs_parent


class Diary:
    """Keeps all that it is told."""

    kept: list[Any]

    def __init__(self, *, fails: bool = False) -> None:
        self._fails = fails

    def begin(self, watched: Watched) -> None:
        type(self).kept = [watched]

    def tell(self, event: Mapping[str, Any]) -> None:
        self.kept.append(event)
        if self._fails and event["event"] == "round_started":
            raise ConnectionError("no network")

    def end(self, outcome: Outcome) -> None:
        self.kept.append(outcome)


@pytest.fixture(autouse=True)
def own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("diaries")
    module.Diary = Diary  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diaries", module)


def test_an_observer_sees_the_journal_and_the_run_has_the_same_bits(
    tiny_settings: dict[str, Any],
) -> None:
    plain = run({**tiny_settings, "output.name": "plain"})
    folder = run({**tiny_settings, "observe.to": "diaries:Diary, tensorboard"})
    begun, *events, outcome = Diary.kept
    assert (begun.folder, begun.config["rounds"], begun.round_number) == (folder.path, 2, 0)
    assert events == folder.events()
    assert outcome == "finished"
    (file,) = (folder.path / "tensorboard").iterdir()
    assert file.stat().st_size > 2000
    assert b"validation/accuracy" in file.read_bytes()
    bits = [load_checkpoint(one, 2).state.vector.tobytes() for one in (plain, folder)]
    assert bits[0] == bits[1]


def test_a_run_outlives_an_observer_that_fails(tiny_settings: dict[str, Any]) -> None:
    settings = {
        "observe.to": "diaries:Diary",
        "observe.options": '{"diaries:Diary": {"fails": true}}',
    }
    events = run({**tiny_settings, **settings}).events()
    assert events[-1]["event"] == "run_finished"
    (told,) = (event for event in events if event["event"] == "observer_failed")
    assert (told["observer"], told["problem"]) == ("diaries:Diary", "ConnectionError: no network")
    assert Diary.kept[-1]["event"] == "round_started"


def test_an_observer_goes_on_with_a_run(tiny_settings: dict[str, Any]) -> None:
    settings = {**tiny_settings, **SETTINGS, "observe.to": "tensorboard"}
    folder = killed(settings, 9)
    before = len(list((folder.path / "tensorboard").iterdir()))
    resumed({**settings, "observe.to": "tensorboard,diaries:Diary"}, folder)
    assert len(list((folder.path / "tensorboard").iterdir())) == before + 1
    assert Diary.kept[0].round_number > 0
    assert Diary.kept[1]["event"] == "run_resumed"


def test_a_private_run_tells_observers_nothing_of_who_was_drawn(
    tiny_settings: dict[str, Any],
) -> None:
    run({**tiny_settings, **USER, "observe.to": "diaries:Diary"})
    of_all = ("roll_call", "privacy_statement")  # and not of those who were drawn
    events = [event for event in Diary.kept[1:-1] if event["event"] not in of_all]
    assert "round_finished" in {event["event"] for event in events}
    told = {key for event in events for key in event}
    assert not told & {"cohort", "asked", "nodes", "bytes_by_node", "rejected", "up", "down"}
    sent = {name for event in events for name in scalars(event)}
    assert {"privacy/epsilon", "expected/up", "validation/accuracy"} <= sent
    assert not {name for name in sent if name.startswith(("bytes/", "replies/", "train/"))}


def test_what_is_wrong_with_an_observer_leaves_no_folder(tiny_settings: dict[str, Any]) -> None:
    before = len(list(list_runs(runs_parent())))
    with pytest.raises(ConfigError, match="takes no arguments"):
        run(
            {
                **tiny_settings,
                "observe.to": "tensorboard",
                "observe.options": '{"tensorboard": {"depth": 1}}',
            }
        )
    assert len(list(list_runs(runs_parent()))) == before
