"""Silos with data of their own, which nobody has numbered."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import LocalGrid, make_texts, read_events
from private_settings import SAMPLE

from fedpeft_app.assembly import adapted_model, own_rank
from fedpeft_app.config import parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.errors import DataError, RollCallError
from fedpeft_app.node.identity import node_number
from fedpeft_app.runs.directory import RunFolder

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


@pytest.fixture
def private(settings: dict[str, Any]) -> dict[str, Any]:
    least = {"strategy.min-nodes": 1, "strategy.min-replies": 1}
    return {**settings, **SAMPLE, **least, "rounds": 1, "strategy.fraction-evaluate": 0.0}


def resumed(folder: RunFolder, private: dict[str, Any], silos: list[dict[str, str]]) -> LocalGrid:
    """A grid for a run that goes on for a round."""
    return LocalGrid(len(silos), {**private, "rounds": 2, "resume": folder.path.name}, silos)


def lose(home: Path, identity: str, number: int) -> None:
    """Lose what a home has of a silo: its identity, its book, and all else."""
    (home / "identity" / identity).unlink()
    for folder in (home / "nodes").glob(f"*/node-{number:04d}"):
        shutil.rmtree(folder)


def test_a_silo_that_lost_its_home_spends_nothing_more(
    private: dict[str, Any], silos: list[dict[str, str]], own_home: Path
) -> None:
    folder = coordinate(LocalGrid(2, private, silos[:2]), parse(private), run_id=1)
    lose(own_home, "name-ward-c", node_number(silos[0]))
    grid = resumed(folder, private, silos[:2])
    coordinate(grid, parse({**private, "rounds": 2, "resume": folder.path.name}), run_id=2)
    events = list(folder.events())
    *_, called = [event for event in events if event["event"] == "roll_call"]
    assert list(called["examples"]) == ["0"]
    (reason,) = called["refused"].values()
    assert "Bring that home back from a backup, or start a new run" in reason
    *_, stated = [event for event in events if event["event"] == "privacy_statement"]
    assert "joined" not in stated["rows"]


def test_where_nobody_can_tell_the_statement_says_so(
    private: dict[str, Any], silos: list[dict[str, str]], own_home: Path
) -> None:
    nameless = {"data-path": silos[1]["data-path"]}
    both = [silos[0], nameless]
    folder = coordinate(LocalGrid(2, private, both), parse(private), run_id=1)
    lose(own_home, "unnamed", node_number(nameless))
    grid = resumed(folder, private, [*both, nameless])
    del grid._contexts[1007]  # its Flower id, which without a key is another each time
    coordinate(grid, parse({**private, "rounds": 2, "resume": folder.path.name}), run_id=2)
    *_, stated = [event for event in folder.events() if event["event"] == "privacy_statement"]
    assert stated["rows"]["joined"].startswith("node 2 came later and may hold the examples of")
    assert "only if nodes hold different examples" in stated["rows"]["privacy"]


def test_ranks_by_turns_are_for_nodes_with_numbers(
    settings: dict[str, Any], silos: list[dict[str, Any]]
) -> None:
    turns = {**settings, "method.node-ranks": "1,2", "method.rank": 2, "strategy.name": "flexlora"}
    config = parse(turns)
    adapted = adapted_model(config, ("crude", "grain", "money"))
    with pytest.raises(DataError, match="method.node-ranks = '1,2' gives ranks out by partition"):
        own_rank(config, silos[0], adapted)
    assert own_rank(config, {**silos[0], "rank": 1}, adapted) == 1
    assert own_rank(config, {"partition-id": 2}, adapted) == 1
