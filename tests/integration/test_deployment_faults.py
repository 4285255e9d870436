"""Parts of a real federation that are killed, and come back: Flower on loopback."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from federation import Federation, events, wait_for

from fedpeft_app.observe.journal import is_being_written
from fedpeft_app.runs.checkpoint import kept_rounds
from fedpeft_app.runs.directory import list_runs, runs_parent

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("flower")]
NODES = 3


@pytest.fixture
def federation(tmp_path: Path, own_home: Path) -> Iterator[Federation]:
    """A federation of three nodes, in the clear."""
    with three_nodes(tmp_path, own_home) as made:
        yield made


@contextmanager
def three_nodes(tmp_path: Path, home: Path, *, secure: bool = False) -> Iterator[Federation]:
    """Start a federation, and end it."""
    folder = tmp_path / "flower"
    folder.mkdir()
    made = Federation(folder, home, secure=secure)
    try:
        made.start_superlink()
        for number in range(NODES):
            start_node(made, number)
        yield made
    finally:
        made.end()


def start_node(federation: Federation, number: int) -> None:
    """Start a node that has a part of the public data."""
    named = f'name="node-{number}"'  # for all have one home
    settings = (f"partition-id={number}", f"num-partitions={NODES}", named)
    federation.start_node(f"node-{number}", *settings)


@pytest.mark.timeout(1200)
def test_a_node_that_was_killed_comes_back(
    federation: Federation, tiny_settings: dict[str, Any], own_home: Path, tmp_path: Path
) -> None:
    settings = {
        **tiny_settings,
        "rounds": 40,
        "budget.minutes": 12.0,
        "data.min-examples": 1,
        "strategy.fraction-train": 1.0,
        "strategy.min-nodes": NODES,
        "strategy.round-timeout": 30.0,
        "strategy.quarantine-after": 0,
        "evaluate.test": "end",
    }
    run = federation.submit(tmp_path / "run.log", settings)
    try:
        wait_for(lambda: len(events("round_finished")) >= 1, "the first round")
        federation.kill("node-1")
        wait_for(lambda: events("nodes_left"), "the server to miss the node")
        missed = len(events("round_finished"))
        start_node(federation, 1)
        wait_for(lambda: events("nodes_joined"), "the node to be back")
        wait_for(lambda: events("round_finished")[-1]["ok"] == NODES, "its reply")
    finally:
        run.kill()
        run.wait()
    rounds = events("round_finished")
    assert events("nodes_left")[0]["nodes"] == [1]
    assert list(events("nodes_joined")[0]["examples"]) == ["1"]
    assert any(event["ok"] == NODES - 1 for event in rounds[: missed + 1])
    assert [event["round"] for event in rounds] == list(range(1, len(rounds) + 1))


@pytest.mark.timeout(1200)
def test_a_run_that_was_stopped_goes_on(
    federation: Federation, tiny_settings: dict[str, Any], own_home: Path, tmp_path: Path
) -> None:
    settings = {**tiny_settings, "rounds": 3, "strategy.min-nodes": NODES}
    run = federation.submit(tmp_path / "run.log", settings)
    wait_for(lambda: events("round_finished"), "the first round")
    run.send_signal(signal.SIGINT)  # which is `flwr stop`
    assert run.wait() == 130
    (folder,) = list_runs(runs_parent())
    wait_for(lambda: not is_being_written(folder.journal), "the server to stop")
    assert kept_rounds(folder)
    again = federation.submit(tmp_path / "run.log", {**settings, "resume": folder.path.name})
    assert again.wait() == 0, (tmp_path / "run.log").read_text(encoding="utf-8")
    assert [event["round"] for event in events("round_finished")] == [1, 2, 3]
    assert (folder.adapter / "adapter_config.json").is_file()


@pytest.mark.timeout(1200)
def test_a_run_whose_superlink_was_killed_fails_and_goes_on_when_that_is_back(
    tiny_settings: dict[str, Any], own_home: Path, tmp_path: Path
) -> None:
    settings = {**tiny_settings, "rounds": 3, "strategy.min-nodes": NODES}
    with three_nodes(tmp_path, own_home, secure=True) as federation:
        run = federation.submit(tmp_path / "run.log", settings)
        try:
            wait_for(lambda: events("round_finished"), "the first round")
            federation.kill("superlink", alone=True)
            federation.start_superlink()
            assert run.wait() == 1
        finally:
            run.kill()
            run.wait()
        nodes = federation.nodes
        wait_for(lambda: list(nodes().values()).count("online") == NODES, "nodes by themselves")
        (folder,) = list_runs(runs_parent())
        assert not is_being_written(folder.journal)
        again = federation.submit(tmp_path / "run.log", {**settings, "resume": folder.path.name})
        assert again.wait() == 0, (tmp_path / "run.log").read_text(encoding="utf-8")
    assert [event["round"] for event in events("round_finished")] == [1, 2, 3]
    assert "finished:failed" in (tmp_path / "run.log").read_text(encoding="utf-8")
