"""A ClientApp that misbehaves as a plan says, around fedpeft's own: for tests and measurements.

It is laid out as `fedpeft_app/faulty_client.py` with `fault_plan.py` beside it (`faulty_app`).
The plan has, each with a default that changes nothing:

- "fails": probability of a node to fail in a round; "seed" draws who does;
- "byzantine": kinds of what the nodes of "liars" send instead of their update, in turns;
- "slow": partition → seconds that it waits, in the rounds of "slow_rounds" (all if empty);
- "dies": partition → rounds in which its process is killed, the first time that it is asked.
"""

import hashlib
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from fedpeft_app.fault_plan import PLAN  # type: ignore[import-not-found]
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedpeft_app import client_app
from fedpeft_app.adapters import AdapterState
from fedpeft_app.assembly import make_worker
from fedpeft_app.config import parse
from fedpeft_app.wire import record

app = ClientApp()


@app.query("roll_call")
def roll_call(message: Message, context: Context) -> Message:
    """Answer as ever."""
    return client_app.app(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer as ever."""
    return client_app.app(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train, unless the plan has something else."""
    node, round_number = int(context.node_config["partition-id"]), int(message.metadata.group_id)
    if round_number in PLAN.get("dies", {}).get(str(node), ()) and _first(node, round_number):
        os.kill(os.getpid(), signal.SIGKILL)
    if round_number in (PLAN.get("slow_rounds") or [round_number]):
        time.sleep(PLAN.get("slow", {}).get(str(node), 0.0))
    liar = node in PLAN.get("liars", ())
    if not liar and _luck(node, round_number) < PLAN.get("fails", 0.0):
        raise RuntimeError("the network is down")
    good = client_app.app(message, context)
    if not liar:
        return good
    kinds = PLAN["byzantine"]
    return _lie(kinds[(round_number - 1) % len(kinds)], message, context, good)


def _luck(node: int, round_number: int) -> float:
    """Draw a number in [0, 1) from the plan's seed."""
    text = f"{PLAN.get('seed', 0)}/{node}/{round_number}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def _first(node: int, round_number: int) -> bool:
    """Say whether this has not been asked before, by any process."""
    try:
        (Path(PLAN["marks"]) / f"{node}-{round_number}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _lie(kind: str, message: Message, context: Context, good: Message) -> Message:
    """Answer with something else."""
    if kind == "silence":
        time.sleep(3600)
    if kind == "garbage":
        noise = np.random.default_rng(0).integers(0, 256, 10_000, dtype=np.uint8).tobytes()
        arrays = ArrayRecord({name: _noise(array, noise) for name, array in _arrays(good)})
        content = RecordDict({**good.content, _name_of_arrays(good): arrays})
        return Message(content, reply_to=message)
    spec = make_worker(parse(context.run_config), context.node_config).adapted.spec
    update = record.read_update(good.content, spec)
    delta = update.sections[0].decode()
    if kind == "stale":
        return _sent(replace(update, round_number=update.round_number - 1), message)
    if kind == "shape":
        tensors = delta.spec.tensors
        cut = replace(delta.spec, tensors=tensors[:-1])
        delta = AdapterState(spec=cut, vector=delta.vector[: cut.size].copy())
    factors = {"nan": np.nan, "huge": 1e30, "long": 1e3, "flipped": -20.0}
    vector = delta.vector * np.float32(factors.get(kind, 1.0))
    lied = AdapterState(spec=delta.spec, vector=vector.astype(np.float32))
    sections = (record.section_of(record.DELTA, lied), *update.sections[1:])
    return _sent(replace(update, sections=sections), message)


def _sent(update: Any, message: Message) -> Message:
    return Message(record.write_update(update), reply_to=message)


def _name_of_arrays(reply: Message) -> str:
    (name,) = reply.content.array_records
    return str(name)


def _arrays(reply: Message) -> list[tuple[str, Array]]:
    return list(reply.content.array_records[_name_of_arrays(reply)].items())


def _noise(array: Array, noise: bytes) -> Array:
    return Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=noise)
