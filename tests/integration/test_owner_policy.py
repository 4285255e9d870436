"""Owners' policies in whole runs: who refuses is left out by name, and the run goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import LocalGrid, read_events
from flwr.app import Message, RecordDict
from private_settings import SAMPLE

from fedpeft_app import assembly, client_app
from fedpeft_app.assembly import make_worker
from fedpeft_app.backbone.locate import locate
from fedpeft_app.config import parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.errors import PolicyError, QuorumError, RollCallError
from fedpeft_app.node import shelf
from fedpeft_app.node_privacy import SampleLevel
from fedpeft_app.privacy.accountant import epsilon
from fedpeft_app.privacy.events import Event
from fedpeft_app.runs.directory import RunFolder

EVERYONE = {"strategy.fraction-train": 1.0, "rounds": 1}
DELTA = 1e-5
Owner = Callable[[LocalGrid, int, str], Path]


@pytest.fixture
def owns(tmp_path: Path) -> Owner:
    """Give one node of a grid a policy, and data that are not to be looked at."""

    def write(grid: LocalGrid, partition: int, text: str) -> Path:
        path = tmp_path / f"policy-{partition}.toml"
        path.write_text(text, encoding="utf-8")
        node = grid._contexts[1000 + 7 * partition].node_config
        node.update({"policy": str(path)})
        return path

    return write


def run(settings: dict[str, Any], grid: LocalGrid) -> RunFolder:
    return coordinate(grid, parse(settings), run_id=1)


def events(folder: RunFolder, name: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder.journal) if event["event"] == name]


def asked(grid: LocalGrid, kind: str) -> set[int]:
    """The Flower ids of the nodes that were asked something."""
    return {
        message.metadata.dst_node_id
        for message in grid.sent
        if message.metadata.message_type == kind
    }


def test_a_run_goes_on_without_the_node_whose_owner_refuses_it(
    tiny_settings: dict[str, Any], owns: Owner
) -> None:
    settings = {**tiny_settings, **EVERYONE, "rounds": 2}
    grid = LocalGrid(4, settings)
    owns(grid, 2, 'max-rounds = 1\nmethods = ["bias"]\nprivacy = ["sample"]')
    grid._contexts[1014].node_config["data-path"] = "/gone"  # it is not looked for
    folder = run(settings, grid)
    (called,) = events(folder, "roll_call")
    assert called["refused"] == {
        "node 1014": "Expected a run that this node's policy allows, got one with method.name = "
        "'lora' (methods: 'bias'); rounds = 2 (max-rounds = 1); privacy.mode = 'none' (privacy: "
        "'sample'). Change the run, or leave this node out."
    }
    assert asked(grid, "train") == {1000, 1007, 1021}
    assert folder.adapter.is_dir()


def test_a_run_that_too_few_owners_allow_does_not_begin(
    tiny_settings: dict[str, Any], own_home: Path
) -> None:
    settings = {**tiny_settings, **EVERYONE}
    own_home.mkdir()
    (own_home / "policy.toml").write_text("max-rouns = 3", encoding="utf-8")
    grid = LocalGrid(4, settings)
    with pytest.raises(RollCallError, match="0 of 4 nodes passed") as caught:
        run(settings, grid)
    assert "node 1000, node 1007, node 1014, node 1021" in str(caught.value)
    assert "Did you mean 'max-rounds'" in str(caught.value)
    assert asked(grid, "train") == set()


def test_a_policy_that_changes_during_a_run_counts_from_then_on(
    tiny_settings: dict[str, Any], owns: Owner
) -> None:
    settings = {**tiny_settings, **EVERYONE, "rounds": 2}
    grid = LocalGrid(4, settings)
    path = owns(grid, 3, "")

    def change(_: Any, reply: Any) -> Any:
        path.write_text("models = []", encoding="utf-8")
        return reply

    grid.tampered[3] = change
    folder = run(settings, grid)
    first, second = (event for event in events(folder, "reply") if event["node"] == 3)
    assert (first["round"], first["problem"]) == (1, "")
    assert second["round"] == 2
    assert "(models: none)" in second["problem"]
    assert folder.adapter.is_dir()


def test_a_node_that_does_not_evaluate_is_not_asked_to(
    tiny_settings: dict[str, Any], owns: Owner
) -> None:
    settings = {**tiny_settings, **EVERYONE, "strategy.fraction-evaluate": 1.0}
    grid = LocalGrid(4, settings)
    owns(grid, 0, "evaluation = false")
    run(settings, grid)
    assert asked(grid, "evaluate") == {1007, 1014, 1021}


def test_weights_that_are_not_named_are_refused_before_data_is_touched(
    tiny_settings: dict[str, Any], owns: Owner
) -> None:
    settings = {**tiny_settings, **EVERYONE}
    found = locate(settings["model.name"]).fingerprint
    grid = LocalGrid(4, settings)
    owns(grid, 0, f'model-fingerprints = ["{"0" * 16}", "{found}"]')
    owns(grid, 1, f'model-fingerprints = ["{"0" * 16}"]')
    grid._contexts[1007].node_config["data-path"] = "/gone"
    folder = run(settings, grid)
    (called,) = events(folder, "roll_call")
    assert list(called["refused"]) == ["node 1007"]
    assert f"the model's weights are {found}" in called["refused"]["node 1007"]


@pytest.mark.parametrize("kind", ["query.roll_call", "train", "evaluate"])
def test_nothing_is_made_for_a_message_that_is_refused(
    kind: str, tiny_settings: dict[str, Any], owns: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object) -> None:
        raise AssertionError

    for name in ("make_presence", "make_participation"):
        monkeypatch.setattr(assembly, name, reached)
    grid = LocalGrid(1, tiny_settings)
    owns(grid, 0, "models = []")
    message = Message(content=RecordDict(), dst_node_id=1000, message_type=kind)
    message.metadata.__dict__["_message_id"] = "message"
    with pytest.raises(PolicyError, match=r"\(models: none\)"):
        client_app.app(message, grid._contexts[1000])


# ------------------------------------------------------------------ ε of all runs together


def one_round(settings: dict[str, Any]) -> Event:
    """What a node of four spends in a round: all of them hold 27 examples."""
    worker = make_worker(parse(settings), {"partition-id": 1, "num-partitions": 4})
    return SampleLevel(delta=DELTA, noise=1.0).event(len(worker.train), worker.settings)


def limit(own_home: Path, most: float) -> None:
    own_home.mkdir(exist_ok=True)
    text = f"max-total-epsilon = {most!r}\nmax-delta = {DELTA}"
    (own_home / "policy.toml").write_text(text, encoding="utf-8")


def written() -> int:
    return sum(len(book.rows()) for book in shelf.books())


@pytest.fixture
def private(tiny_settings: dict[str, Any]) -> dict[str, Any]:
    return {**tiny_settings, **SAMPLE, **EVERYONE, "strategy.min-replies": 1}


def test_nodes_sit_out_a_run_that_would_bring_all_runs_beyond_the_limit(
    private: dict[str, Any], own_home: Path
) -> None:
    once = one_round(private)
    limit(own_home, epsilon([once] * 5, DELTA))  # one home, so all four nodes' books count
    run(private, LocalGrid(4, private))
    assert written() == 4
    folder = run(private, LocalGrid(4, private))
    assert written() == 5
    (finished,) = events(folder, "round_finished")
    assert (finished["ok"], len(finished["rejected"])) == (1, 3)
    assert all("max-total-epsilon" in reason for reason in finished["rejected"].values())


def test_where_a_record_is_damaged_nothing_more_is_spent(
    private: dict[str, Any], own_home: Path
) -> None:
    run(private, LocalGrid(4, private))
    limit(own_home, 1e6)
    damaged = shelf.books()[0].path
    damaged.write_bytes(damaged.read_bytes().replace(b'"steps": ', b'"steps": 1'))
    before = {book.path for book in shelf.books()}
    with pytest.raises(QuorumError, match="one record is damaged"):
        run(private, LocalGrid(4, private))
    assert {book.path for book in shelf.books()} == before
