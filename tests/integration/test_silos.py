"""Silos with data of their own, which nobody has numbered."""

from pathlib import Path
from typing import Any

import pytest
from conftest import LocalGrid, make_texts, read_events

from fedpeft_app.config import parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.errors import RollCallError

ON_NODES = {
    "rounds": 2,
    "evaluate.server": False,
    "strategy.fraction-evaluate": 1.0,
    "strategy.fraction-train": 1.0,
    "data.node-validation-fraction": 0.3,
    "data.labels": "crude,grain,money",
}


def own_table(folder: Path, name: str, seed: int) -> str:
    """Write a silo's own table."""
    texts, labels = make_texts(40, seed=seed)
    path = folder / f"{name}.csv"
    rows = "".join(f"{text},{label}\n" for text, label in zip(texts, labels, strict=True))
    path.write_text(f"text,label\n{rows}", encoding="utf-8")
    return str(path)


@pytest.fixture
def settings(tiny_settings: dict[str, Any]) -> dict[str, Any]:
    public = {key: value for key, value in tiny_settings.items() if key != "data.name"}
    return {**public, **ON_NODES}


@pytest.fixture
def silos(tmp_path: Path) -> list[dict[str, str]]:
    return [
        {"data-path": own_table(tmp_path, name, seed), "name": name}
        for seed, name in enumerate(["ward-c", "ward-a", "ward-b"])
    ]


def test_silos_need_no_numbers(settings: dict[str, Any], silos: list[dict[str, str]]) -> None:
    folder = coordinate(LocalGrid(3, settings, silos), parse(settings), run_id=1)
    events = read_events(folder.journal)
    (called,) = [event for event in events if event["event"] == "roll_call"]
    assert called["names"] == {"0": "ward-a", "1": "ward-b", "2": "ward-c"}
    assert sorted(called["identities"].values()) == [0, 1, 2]
    assert events[-1]["event"] == "run_finished"


def test_a_resumed_run_knows_its_silos(
    settings: dict[str, Any], silos: list[dict[str, str]]
) -> None:
    two = LocalGrid(2, settings, silos[:2])
    folder = coordinate(two, parse(settings), run_id=1)
    more = {**settings, "rounds": 3, "resume": folder.path.name}
    coordinate(LocalGrid(3, more, silos), parse(more), run_id=2)
    first, again = [event for event in folder.events() if event["event"] == "roll_call"]
    assert first["names"] == {"0": "ward-a", "1": "ward-c"}
    assert again["names"] == {"0": "ward-a", "1": "ward-c", "2": "ward-b"}


def test_silos_that_share_a_home_without_names_are_refused_with_the_remedy(
    settings: dict[str, Any], silos: list[dict[str, str]]
) -> None:
    nameless = [{"data-path": silo["data-path"]} for silo in silos]
    with pytest.raises(RollCallError, match="the same identity .* a name each"):
        coordinate(LocalGrid(3, settings, nameless), parse(settings), run_id=1)


def test_a_silo_without_its_data_is_refused_by_name_and_the_others_go_on(
    settings: dict[str, Any], silos: list[dict[str, str]]
) -> None:
    silos[1]["data-path"] += ".gone"
    folder = coordinate(LocalGrid(3, settings, silos), parse(settings), run_id=1)
    (called,) = [event for event in folder.events() if event["event"] == "roll_call"]
    assert list(called["names"].values()) == ["ward-b", "ward-c"]
    (reason,) = called["refused"].values()
    assert reason.startswith("ward-a: ")
    assert silos[1]["data-path"] in reason
