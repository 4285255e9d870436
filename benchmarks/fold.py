"""How fast, and in how much memory, does a server fold the replies of a round?

A thousand replies of a 1.2 MB adapter, folded into the next state on one core, in one run: by
fedpeft, as in a run (whole messages; the guard reads and decodes each and lets go of it again,
the aggregator decodes it once more), in float32 and in int8; and by Flower's own
FedAvg.aggregate_train, over messages that carry the same values as one array, and as one array
for each of 48 tensors, which is how Flower apps send them. Rates count the values in float32,
however they travelled. Seconds are CPU seconds of the one thread there is, so that other work on
the machine does not count. Memory is what Python and NumPy allocate at most while folding
(tracemalloc, in folds of their own), beyond the messages: of all replies, and of a tenth of them.

    python benchmarks/fold.py [--replies 1000] [--values 300000] [--repeats 5] [--out FILE]
"""

import argparse
import logging
import os
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from ratios import Ratio, write

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.guard import admit
from fedpeft_app.strategies.strategy import Assignment, Member
from fedpeft_app.wire.catalogue import parse_codec
from fedpeft_app.wire.record import DELTA, Update, section_of, write_update

NEEDED_GB_PER_S = 1.0  # of float32, on one core, decode and guard included
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
SAME = 1e-5  # largest difference of the means: Flower adds up in float32
TENSORS = 48
MOST_EXAMPLES = 500


@dataclass(frozen=True)
class Side:
    """One way to do it.

    Attributes:
        fold: Makes the mean of messages.
        content: Writes a reply of a delta and its weight.
        exact: Whether the mean is that of the deltas as they were.
    """

    fold: Callable[[Sequence[Message]], np.ndarray]
    content: Callable[[np.ndarray, int], RecordDict]
    exact: bool = True


def messages(side: Side, count: int, values: int) -> list[Message]:
    """Draw deltas with weights, the same at every call, and write the replies."""
    generator = np.random.default_rng(0)
    found = []
    for node in range(count):
        delta = generator.standard_normal(values, dtype=np.float32)
        content = side.content(delta, int(generator.integers(10, MOST_EXAMPLES)))
        order = Message(content=RecordDict(), dst_node_id=node, message_type="train")
        order.metadata.__dict__["_message_id"] = f"order-{node}"
        found.append(Message(content, reply_to=order))
    return found


def ours(values: int, codec: str) -> Side:
    """Write and fold as fedpeft does."""
    sizes = [len(part) for part in np.array_split(np.empty(values), TENSORS)]
    tensors = [TensorSpec(name=f"tensor-{n}", shape=(size,)) for n, size in enumerate(sizes)]
    spec = AdapterSpec(method="lora", backbone="0" * 16, tensors=tuple(tensors), ranks={})
    task = Assignment(state=AdapterState(spec=spec, vector=np.zeros(values, dtype=np.float32)))

    def content(delta: np.ndarray, weight: int) -> RecordDict:
        state = AdapterState(spec=spec, vector=delta)
        section = section_of(DELTA, state, parse_codec(codec), np.random.default_rng(weight))
        numbers = {"num-examples": float(weight), "examples-trained": float(weight), "loss": 1.0}
        return write_update(Update(spec=spec, sections=[section], round_number=1, metrics=numbers))

    def fold(replies: Sequence[Message]) -> np.ndarray:
        good = []
        for node, reply in enumerate(replies):
            member = Member(node_id=node, partition=node, examples=MOST_EXAMPLES)
            outcome = admit(reply, member, task, 1)
            if isinstance(outcome, str):
                sys.exit(f"a good reply was rejected: {outcome}")
            good.append(outcome)
        return Composition().aggregate(1, task.state, good).vector

    return Side(fold=fold, content=content, exact=codec == "float32")


def flowers(tensors: int) -> Side:
    """Write and fold as Flower's FedAvg does, each delta as so many arrays."""

    def content(delta: np.ndarray, weight: int) -> RecordDict:
        parts = enumerate(np.array_split(delta, tensors))
        arrays = ArrayRecord({f"tensor-{number}": Array(part) for number, part in parts})
        numbers = MetricRecord({"num-examples": weight, "loss": 1.0})
        return RecordDict({"arrays": arrays, "metrics": numbers})

    def fold(replies: Sequence[Message]) -> np.ndarray:
        arrays, _ = FedAvg().aggregate_train(1, replies)
        return np.concatenate(arrays.to_numpy_ndarrays())

    return Side(fold=fold, content=content)


def measure(side: Side, arguments: argparse.Namespace) -> tuple[dict[str, Any], np.ndarray]:
    """Time some folds, and watch the memory of two more: of all replies, and of a tenth."""
    replies = messages(side, arguments.replies, arguments.values)
    seconds = []
    for _ in range(arguments.repeats):
        started = time.process_time()
        mean = side.fold(replies)
        seconds.append(time.process_time() - started)
    gigabytes = arguments.replies * arguments.values * 4 / 1e9
    rates = sorted(gigabytes / each for each in seconds)
    peaks = {len(some): peak(side, some) for some in (replies[: len(replies) // 10], replies)}
    return {"gb_per_s": rates, "median": rates[len(rates) // 2], "peak_bytes": peaks}, mean


def peak(side: Side, replies: Sequence[Message]) -> int:
    """Give the most bytes that are allocated at once while folding."""
    tracemalloc.start()
    side.fold(replies)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def main() -> None:
    if not ONE_CORE.items() <= os.environ.items():  # NumPy reads them when it is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_CORE})
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replies", type=int, default=1000)
    parser.add_argument("--values", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1  # as in a run
    sides = {
        "fedpeft, float32": ours(arguments.values, "float32"),
        "fedpeft, int8": ours(arguments.values, "int8"),
        "Flower FedAvg, 1 array": flowers(1),
        f"Flower FedAvg, {TENSORS} arrays": flowers(TENSORS),
    }
    rows, means = {}, {}
    for name, side in sides.items():
        rows[name], mean = measure(side, arguments)
        means.update({name: mean} if side.exact else {})
        print(worded(name, rows[name]), flush=True)
    apart = max(float(abs(means["fedpeft, float32"] - mean).max()) for mean in means.values())
    print(f"the means of what travelled as it was are {apart:.1e} apart at most")
    flower = rows[f"Flower FedAvg, {TENSORS} arrays"]["gb_per_s"]
    against = Ratio(
        what=f"GB/s folded, float32, fedpeft to Flower's FedAvg ({TENSORS} arrays)",
        values=tuple(
            own / theirs
            for own, theirs in zip(rows["fedpeft, float32"]["gb_per_s"], flower, strict=True)
        ),
    )
    result = {"replies": arguments.replies, "values": arguments.values, **rows}
    write(arguments.out, [against], result)
    if apart > SAME:
        sys.exit("the means differ by more than float32 explains")
    for name in ("fedpeft, float32", "fedpeft, int8"):
        complain(name, rows[name], 4 * arguments.values)


def worded(name: str, row: dict[str, Any]) -> str:
    """Put a row into a line."""
    rates = row["gb_per_s"]
    memory = ", ".join(
        f"{bytes_ / 2**20:.2f} MiB for {n}" for n, bytes_ in row["peak_bytes"].items()
    )
    return (
        f"{name:24s}  {row['median']:.2f} GB/s of float32 (min {rates[0]:.2f}, "
        f"max {rates[-1]:.2f}), at most {memory} replies beyond the messages"
    )


def complain(name: str, row: dict[str, Any], adapter_bytes: int) -> None:
    """End with an error if what was promised of us does not hold."""
    few, many = row["peak_bytes"].values()
    if row["median"] < NEEDED_GB_PER_S:
        sys.exit(f"{name} folded less than {NEEDED_GB_PER_S} GB/s")
    if many - few >= adapter_bytes:  # what is kept of a reply, beside its message, is 1 KB
        sys.exit(f"{name} took an adapter's memory more for ten times the replies")


if __name__ == "__main__":
    main()
