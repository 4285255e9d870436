"""What does one message cost the machinery around fedpeft? CPU time and memory, piece by piece.

    python benchmarks/unit_costs.py [--out FILE]

Measured in this process, by its CPU time: no network, no TLS, no HTTP, and other work on the
machine does not count. `docs/scale.md` does its arithmetic with these.

- Flower's SuperLink, in memory (as without `--database`) and on SQLite: to take an order, hand it
  to its node, take the reply, hand it to the server and forget both, with few and with many other
  orders out; a node that asks for orders in vain; its heartbeat; who is there; memory of a node.
- Flower's simulation: to look for mail of all nodes once, as it does ten times a second, by itself
  and as fedpeft has it done.
- fedpeft's server: a round's own work, by nodes and by members of the cohort.
- Secure aggregation: to agree on one key, and to draw one mask of an adapter.

Exit status 1 where fedpeft's own share grows faster than linearly.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from flwr.app import Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.proto.federation_config_pb2 import SimulationConfig
from flwr.server.superlink.fleet.vce.vce_api import _register_nodes
from flwr.server.superlink.linkstate import InMemoryLinkState, LinkState, LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

sys.path += [str(Path(__file__).parents[1] / "tests" / part) for part in (".", "strategies")]
from strategy_samples import ScriptedGrid, numbers, plan, state_of, update

from fedpeft_app.adapters import AdapterSpec, TensorSpec
from fedpeft_app.criterion import Criterion
from fedpeft_app.mailboxes import sort_mail
from fedpeft_app.observe.journal import Journal
from fedpeft_app.recorder import Recorder
from fedpeft_app.runs.directory import create_run
from fedpeft_app.runs.retention import retention
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.joining import Door
from fedpeft_app.strategies.roll_call import Presence, make_roster
from fedpeft_app.strategies.rounds import run_rounds
from fedpeft_app.strategies.strategy import Member
from fedpeft_app.wire.ledger import Ledger
from fedpeft_app.wire.record import read_order

OUT = (1, 1000)  # orders that are out beside the one that is measured
PAIRS = 200  # orders with their replies
VALUES = 2_000  # of the adapter in rounds: what a member costs beside its values
MASKED = 76_808  # the demo's adapter, in 4 bytes each
SWEPT = ((1000, 100), (1000, 1000), (3000, 3000))  # nodes, and orders that are out
ROUNDS = 5
GROWTH = 2.0  # times as much a member, or a node, may cost among a hundred times as many
Rows = dict[str, float]


def cpu_ms(work: Callable[[], Any], times: int = 1) -> float:
    """Give the CPU milliseconds of one time."""
    started = time.process_time()
    for _ in range(times):
        work()
    return 1000 * (time.process_time() - started) / times


def superlink(database: str, nodes: int) -> tuple[LinkState, list[int]]:
    """Make a SuperLink's account with a run and some nodes."""
    factory = LinkStateFactory(database, NoOpFederationManager(), ObjectStoreFactory(database))
    state = factory.state()
    run_id = state.create_run(
        "", "", "", {}, NOOP_FEDERATION_ID, SimulationConfig(), NOOP_FLWR_AID, TaskType.SERVER_APP
    )
    TaskIdentity.run_id = run_id
    return state, list(_register_nodes(nodes, factory))


def orders(nodes: Sequence[int]) -> list[Message]:
    """Write an order for each node, with the id that Flower gives it."""
    made = [
        Message(content=RecordDict(), dst_node_id=node_id, message_type="train")
        for node_id in nodes
    ]
    for number, message in enumerate(made):
        message.metadata.__dict__["_message_id"] = f"order-{time.monotonic_ns()}-{number}"
    return made


def pairs(database: str) -> Rows:
    """Measure an order with its reply, with few and with many other orders out."""
    found = {}
    for out in OUT:
        with tempfile.TemporaryDirectory() as folder:
            found |= beside(database or str(Path(folder) / "superlink.db"), out)
    return found


def beside(database: str, out: int) -> Rows:
    """Measure what a SuperLink does beside so many orders that are out."""
    state, nodes = superlink(database, out + PAIRS)
    run_id = TaskIdentity.run_id
    for message in orders(nodes[:out]):
        state.store_message_ins(message)
    some = iter(orders(nodes[out:]))
    return {
        f"order and reply, {out} others out": cpu_ms(lambda: pair(state, next(some)), PAIRS),
        f"a node asks in vain, {out} others out": cpu_ms(
            lambda: state.get_message_ins(node_id=nodes[-1], limit=1), PAIRS
        ),
        "heartbeat": cpu_ms(lambda: state.acknowledge_node_heartbeat(nodes[0], 30.0), PAIRS),
        f"who is there, of {len(nodes)}": cpu_ms(lambda: state.get_nodes(run_id), 5),
    }


def pair(state: LinkState, order: Message) -> None:
    """Take an order through all that becomes of it."""
    node_id, message_id = order.metadata.dst_node_id, order.metadata.message_id
    state.store_message_ins(order)
    taken = state.get_message_ins(node_id=node_id, limit=1)[0]
    reply = Message(RecordDict(), reply_to=taken)
    reply.metadata.__dict__["_message_id"] = f"reply-{message_id}"
    reply.metadata.__dict__["_src_node_id"] = node_id
    if state.store_message_res(reply) is None:
        raise RuntimeError("Expected the SuperLink to take a reply, it did not.")
    if len(state.get_message_res({message_id}, order.metadata.run_id)) != 1:
        raise RuntimeError("Expected one reply from the SuperLink, got none.")
    state.delete_messages({message_id})


def node_bytes(nodes: int = 50_000) -> float:
    """Measure the memory of a node in a SuperLink that keeps all in memory."""
    factory = LinkStateFactory(
        FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory()
    )
    state, process = factory.state(), psutil.Process()
    before = process.memory_info().rss  # what protobuf takes, tracemalloc does not see
    for _ in range(nodes):
        state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, os.urandom(32), 30.0)
    return (process.memory_info().rss - before) / nodes


def sweeps() -> Rows:
    """Measure a look for mail of all nodes, when all orders were handed out already."""
    found = {}
    for is_sorted in (False, True):
        for count, out in SWEPT:
            state, nodes = superlink(FLWR_IN_MEMORY_DB_NAME, count)
            grid = InMemoryGrid(state_factory=_Factory(state))  # type: ignore[arg-type]
            if is_sorted:
                sort_mail(grid)
            for message in orders(nodes[:out]):
                state.store_message_ins(message)

            def sweep(state: LinkState = state, nodes: Sequence[int] = nodes) -> None:
                for node_id in nodes:
                    state.get_message_ins(node_id=node_id, limit=1)

            sweep()
            whose = "fedpeft" if is_sorted else "Flower"
            found[f"{count} nodes, {out} orders out, {whose}"] = cpu_ms(sweep)
    return found


class _Factory:
    """Gives a grid the state there is."""

    def __init__(self, state: LinkState) -> None:
        self._state = cast(InMemoryLinkState, state)

    def state(self) -> InMemoryLinkState:
        """Give it."""
        return self._state


class _Grid(ScriptedGrid):
    """A grid whose nodes answer at once, and whose own work does not count."""

    aside_s = 0.0

    def push_messages(self, messages: Any) -> Any:
        started = time.process_time()
        ids = super().push_messages(messages)
        self.aside_s += time.process_time() - started
        return ids

    def pull_messages(self, message_ids: Any) -> Any:
        found, self._ready = self._ready, []
        return found


def rounds() -> Rows:
    """Measure a round of the server alone: draw, order, guard, fold, journal, checkpoint."""
    spec = AdapterSpec(
        method="lora",
        backbone="0" * 16,
        tensors=(TensorSpec(name="a", shape=(VALUES,)),),
        ranks={},
    )

    def node(message: Message) -> Message:
        number = read_order(message.content, spec).round_number
        return update(message, state_of(spec, 0.1), number, numbers())

    found = {}
    for nodes, cohort in ((100, 10), (100, 10), (1000, 100), (10_000, 100), (10_000, 1000)):
        grid = _Grid({number + 1: node for number in range(nodes)})
        everyone = [Member(node_id=n + 1, partition=n, examples=10) for n in range(nodes)]
        with tempfile.TemporaryDirectory() as parent:
            started = time.process_time()
            run_server(grid, everyone, spec, cohort, Path(parent))
            spent = time.process_time() - started - grid.aside_s
        found[f"round, {cohort} of {nodes}"] = 1000 * spent / ROUNDS  # the first one warms up
    return found


def run_server(
    grid: _Grid, everyone: Sequence[Member], spec: AdapterSpec, cohort: int, parent: Path
) -> None:
    """Drive rounds as a run does, with journal and checkpoints."""
    folder, book = create_run(parent, "x", 1, {}), Ledger(backbone_bytes=0, full_parameters=1)
    journal = Journal(folder.journal)
    recorder = Recorder(
        folder=folder,
        journal=journal,
        ledger=book,
        examiner=cast(Any, None),  # never asked
        rounds=ROUNDS,
        every=0,
        precision="fp32",
        criterion=Criterion(metric="accuracy"),
        test_rounds=False,
        keep=retention("last-best"),
    )
    nobody = cast(Any, None)  # none joins, none leaves
    run_rounds(
        grid,
        Composition(),
        everyone,
        state_of(spec, 0.0),
        plan(rounds=ROUNDS, fraction_train=cohort / len(everyone)),
        ledger=book,
        watcher=recorder,
        renew=Door(grid=grid, call=nobody, came=nobody, left=nobody, patience_s=1),
    )
    journal.close()


def rosters() -> Rows:
    """Measure what a roll call's answers cost, without the messages."""

    found = {}
    for count in (1000, 10_000):
        told: list[tuple[int, Presence | str]] = [
            (n + 1, Presence(partition=n, examples=2, labels=("a", "b"), agreed={}))
            for n in range(count)
        ]
        make = partial(make_roster, told, expected={}, minimum=1)
        found[f"roster of {count}"] = cpu_ms(make)
    return found


def masks() -> Rows:
    """Measure what secure aggregation repeats for each pair of nodes."""
    own, other = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()
    zeros = bytes(4 * MASKED)

    def mask() -> Any:
        stream = Cipher(algorithms.ChaCha20(bytes(32), bytes(16)), mode=None).encryptor()
        return np.frombuffer(stream.update(zeros), dtype=np.uint32)

    total = np.zeros(MASKED, dtype=np.uint32)
    return {
        "key agreement": cpu_ms(lambda: own.exchange(other), 500),
        f"mask of {MASKED} values, drawn and added": cpu_ms(
            lambda: np.add(total, mask(), out=total), 200
        ),
    }


def faults(found: dict[str, Rows]) -> list[str]:
    """Say what of fedpeft's own share grows faster than linearly."""
    own, rows = found["fedpeft's server"], found["roll call, fedpeft's server"]
    wrong = []
    if own["round, 1000 of 10000"] / 1000 > GROWTH * own["round, 10 of 100"] / 10:
        wrong.append("a member costs more the larger the cohort")
    if rows["roster of 10000"] / 10 > GROWTH * rows["roster of 1000"]:
        wrong.append("an answer to the roll call costs more the more there are")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1  # as in a run
    found = {
        "SuperLink in memory": pairs(FLWR_IN_MEMORY_DB_NAME),
        "SuperLink on SQLite": pairs(""),
        "simulation, a look for mail": sweeps(),
        "fedpeft's server": rounds(),
        "roll call, fedpeft's server": rosters(),
        "secure aggregation, a pair": masks(),
    }
    for name, rows in found.items():
        print(f"{name}:")
        for what, value in rows.items():
            print(f"  {what:42s}{value:12.3f} ms of CPU")
    memory = node_bytes()
    print(f"memory of a node in a SuperLink: {memory:,.0f} bytes")
    if arguments.out:
        result = {**found, "node_bytes": memory}
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    wrong = faults(found)
    for fault in wrong:
        print(f"MUST NOT BE: {fault}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
