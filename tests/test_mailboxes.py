"""Messages of simulated nodes: sorted by node, and otherwise as Flower gives them out."""

import random
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.fleet.vce.vce_api import _register_nodes
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState, RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

from fedpeft_app.mailboxes import sort_mail


def simulation(nodes: int) -> tuple[InMemoryGrid, list[int]]:
    """Make Flower's own grid of a simulation, and the ids of its nodes."""
    factory = LinkStateFactory(
        FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()
    )
    state = factory.state()
    assert isinstance(state, InMemoryLinkState)
    run = Run.create_empty(1)
    run.primary_task_id, run.federation_id = 1, NOOP_FEDERATION_ID
    state.run_ids[1] = RunRecord(run=run)
    state.task_store[1] = Task(task_id=1, run_id=1)
    grid = InMemoryGrid(state_factory=factory)
    grid.set_run(run)
    return grid, list(_register_nodes(nodes, factory))


def push(grid: Any, node_id: int, group: str = "") -> str:
    """Send a message to a node; give its id."""
    message = Message(
        content=RecordDict(), dst_node_id=node_id, message_type="train", group_id=group
    )
    return next(iter(grid.push_messages([message])))


def sweep(grid: Any, nodes: list[int], limit: int | None = 1) -> list[tuple[int, str]]:
    """Collect what waits for each node in turn, as Flower's simulation does."""
    return [
        (nodes.index(node_id), message.metadata.group_id)
        for node_id in nodes
        for message in grid.state.get_message_ins(node_id=node_id, limit=limit)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_sorted_mail_is_given_out_as_flower_does(seed: int) -> None:
    told = []
    for is_sorted in (False, True):
        grid, nodes = simulation(4)
        if is_sorted:
            sort_mail(grid)
        draw, ids, seen = random.Random(seed), [], []
        for step in range(60):
            what = draw.choice(["push", "push", "sweep", "delete", "all"])
            if what == "push":
                ids.append(push(grid, nodes[draw.randrange(4)], str(step)))
            elif what == "delete" and ids:
                grid.state.delete_messages({ids[draw.randrange(len(ids))]})
            else:
                seen.append(sweep(grid, nodes, None if what == "all" else 1))
        told.append(seen)
    assert told[0] == told[1]
    assert sum(map(len, told[0])) > 0


def test_a_sweep_looks_at_each_message_once(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, nodes = simulation(50)
    sort_mail(grid)
    looks = []
    check = InMemoryLinkState._check_stored_messages
    monkeypatch.setattr(
        InMemoryLinkState,
        "_check_stored_messages",
        lambda state, ids, run_id=None: (looks.append(ids), check(state, ids, run_id))[1],
    )
    for node_id in nodes:
        push(grid, node_id)
    assert len(sweep(grid, nodes)) == 50
    assert sweep(grid, nodes) == []
    assert len(looks) == 50  # Flower itself looks 50 · 51 / 2 + 50 · 50 times


def test_what_is_out_already_is_sorted_too_and_only_once() -> None:
    grid, nodes = simulation(2)
    push(grid, nodes[1], "before")
    sort_mail(grid)
    push(grid, nodes[1], "after")
    sort_mail(grid)  # the second time
    assert sweep(grid, nodes) == [(1, "before")]
    assert sweep(grid, nodes) == [(1, "after")]
    assert sweep(grid, nodes) == []


def test_mail_that_is_too_old_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, nodes = simulation(1)
    sort_mail(grid)
    push(grid, nodes[0])
    message = next(iter(grid.state.message_ins_store.values()))
    monkeypatch.setattr(message.metadata, "_ttl", -1.0)
    assert sweep(grid, nodes) == []


def test_other_connections_are_left_alone() -> None:
    grid = object()
    sort_mail(grid)
    assert not hasattr(grid, "state")
