"""Who looks on: chosen by name or path, with options, and refused before anything starts."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedpeft_app.cli.launch import _names_a_path
from fedpeft_app.config import parse
from fedpeft_app.errors import ConfigError
from fedpeft_app.names import NAME_CHECKS
from fedpeft_app.observe.observers.tensorboard import TensorBoard
from fedpeft_app.observing import make_observers, watched
from fedpeft_app.runs.directory import RunFolder


class Shouting(TensorBoard):
    """An observer of a user's own."""

    def __init__(self, volume: float = 1.0) -> None:
        self.volume = volume


@pytest.fixture(autouse=True)
def own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_observers")
    module.Shouting, module.text = Shouting, lambda: "text"  # type: ignore[attr-defined]
    module.__all__ = ["Shouting", "text"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_observers", module)


def made(to: str, options: str = "{}") -> dict[str, Any]:
    return make_observers(parse({"observe.to": to, "observe.options": options}, NAME_CHECKS))


def test_nobody_looks_on_unless_asked() -> None:
    assert made("") == {}


def test_several_are_made_each_with_its_options() -> None:
    observers = made(
        "tensorboard, my_observers:Shouting", '{"my_observers:Shouting": {"volume": 2}}'
    )
    assert list(observers) == ["tensorboard", "my_observers:Shouting"]
    assert observers["my_observers:Shouting"].volume == 2.0


@pytest.mark.parametrize(
    ("to", "options", "problem"),
    [
        ("tensorbord", "{}", "unknown observer 'tensorbord'.*Did you mean 'tensorboard'"),
        ("tensorboard,tensorboard", "{}", "'tensorboard' stands there twice"),
        ("my_observers:Shoutin", "{}", "Did you mean 'Shouting'"),
        ("my_observers:text", "{}", "makes a str, which has no method begin, tell, end"),
        ("tensorboard", '{"tensorboard": {"depth": 1}}', "tensorboard: .*takes no arguments"),
        ("tensorboard", '{"tensorboard": 1}', "tensorboard: expected an object of options, got 1"),
        ("tensorboard", '{"mlflow": {}}', "no observer 'mlflow' in observe.to"),
        (
            "my_observers:Shouting",
            '{"my_observers:Shouting": {"volume": "loud"}}',
            "volume must be a valid number, got 'loud'",
        ),
    ],
)
def test_what_is_wrong_is_refused(to: str, options: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        made(to, options)


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        made("tensorboard,my_observers:text", '{"mlflow": {}, "tensorboard": {"depth": 1}}')
    assert len(caught.value.faults) == 3


def test_observers_are_not_told_what_opens_doors(tmp_path: Path) -> None:
    config = parse({"observe.options": '{"mlflow": {"tracking_uri": "http://a"}}', "seed": 7})
    told = watched(config, RunFolder(path=tmp_path), None)
    assert told.config["seed"] == 7
    assert not {"observe.options", "privacy.unsafe-seed"} & set(told.config)


def test_a_path_among_observers_is_found_from_where_the_run_is_started() -> None:
    assert _names_a_path(parse({"observe.to": "tensorboard,my_observers:Shouting"}))
    assert not _names_a_path(parse({"observe.to": "tensorboard"}))
