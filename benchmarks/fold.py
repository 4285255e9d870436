"""How fast, and in how much memory, does a server fold the replies of a round?

A thousand replies of a 1.2 MB adapter, folded into their mean on one core, in one run: by
fedpeft (each payload decoded and checked to be finite as the guard does, then decoded again by
the aggregator), and by Flower's own FedAvg.aggregate_train, over messages that carry the same
values as one array, and as one array for each of 48 tensors, which is how Flower apps send
them. Seconds are CPU seconds of the one thread there is, so that other work on the machine does
not count. Memory is what Python and NumPy allocate at most while folding (tracemalloc, in a fold
of its own), beyond the encoded messages.

    python benchmarks/fold.py [--replies 1000] [--values 300000] [--repeats 5] [--out FILE]
"""

import argparse
import json
import logging
import os
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity

from fedpeft_app.adapters.algebra import all_finite
from fedpeft_app.strategies.aggregators import Mean

NEEDED_GB_PER_S = 1.0  # of float32, on one core, decode and guard included
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
SAME = 1e-5  # largest difference of the means: Flower adds up in float32


@dataclass(frozen=True)
class Encoded:
    """Replies as they lie in their messages, decoded when their turn comes."""

    payloads: list[tuple[bytes, int]]

    def __len__(self) -> int:
        return len(self.payloads)

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        return ((np.frombuffer(data, dtype="<f4"), weight) for data, weight in self.payloads)


def replies(count: int, values: int) -> Iterator[tuple[np.ndarray, int]]:
    """Draw deltas with weights, the same at every call."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        yield generator.standard_normal(values, dtype=np.float32), int(generator.integers(10, 500))


def ours(count: int, values: int) -> Callable[[], np.ndarray]:
    """Encode the replies for fedpeft; give the fold."""
    deltas = Encoded([(delta.tobytes(), weight) for delta, weight in replies(count, values)])

    def fold() -> np.ndarray:
        if not all(all_finite(delta) for delta, _ in deltas):
            sys.exit("a reply that was drawn finite was found not to be")
        return Mean()(deltas)

    return fold


def flowers(count: int, values: int, tensors: int) -> Callable[[], np.ndarray]:
    """Encode the replies for Flower, each as so many arrays; give the fold."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1  # as in a run
    messages, strategy = [], FedAvg()
    for node, (delta, weight) in enumerate(replies(count, values)):
        order = Message(content=RecordDict(), dst_node_id=node, message_type="train")
        order.metadata.__dict__["_message_id"] = f"order-{node}"
        parts = enumerate(np.array_split(delta, tensors))
        arrays = ArrayRecord({f"tensor-{number}": Array(part) for number, part in parts})
        numbers = MetricRecord({"num-examples": weight, "loss": 1.0})
        messages.append(Message(RecordDict({"arrays": arrays, "metrics": numbers}), reply_to=order))

    def fold() -> np.ndarray:
        arrays, _ = strategy.aggregate_train(1, messages)
        return np.concatenate(arrays.to_numpy_ndarrays())

    return fold


def measure(
    make: Callable[[int, int], Callable[[], np.ndarray]], arguments: argparse.Namespace
) -> tuple[dict[str, Any], np.ndarray]:
    """Time some folds, and watch the memory of one more."""
    fold = make(arguments.replies, arguments.values)
    seconds = []
    for _ in range(arguments.repeats):
        started = time.process_time()
        mean = fold()
        seconds.append(time.process_time() - started)
    tracemalloc.start()
    fold()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gigabytes = arguments.replies * arguments.values * 4 / 1e9
    rates = sorted(gigabytes / each for each in seconds)
    return {"gb_per_s": rates, "median": rates[len(rates) // 2], "peak_bytes": peak}, mean


SIDES: dict[str, Callable[[int, int], Callable[[], np.ndarray]]] = {
    "fedpeft": ours,
    "Flower FedAvg, 1 array": partial(flowers, tensors=1),
    "Flower FedAvg, 48 arrays": partial(flowers, tensors=48),
}


def main() -> None:
    if not ONE_CORE.items() <= os.environ.items():  # NumPy reads them when it is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_CORE})
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replies", type=int, default=1000)
    parser.add_argument("--values", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    rows, means = {}, {}
    for name, make in SIDES.items():
        rows[name], means[name] = measure(make, arguments)
        rates = rows[name]["gb_per_s"]
        print(
            f"{name:24s}  {rows[name]['median']:.2f} GB/s of float32 "
            f"(min {rates[0]:.2f}, max {rates[-1]:.2f}), "
            f"peak {rows[name]['peak_bytes'] / 2**20:.2f} MiB beyond the messages",
            flush=True,
        )
    apart = max(float(abs(means["fedpeft"] - mean).max()) for mean in means.values())
    print(f"the means are {apart:.1e} apart at most")
    if arguments.out:
        result = {"replies": arguments.replies, "values": arguments.values, **rows}
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if apart > SAME:
        sys.exit("the means differ by more than float32 explains")
    if rows["fedpeft"]["median"] < NEEDED_GB_PER_S:
        sys.exit(f"fedpeft folded less than {NEEDED_GB_PER_S} GB/s")


if __name__ == "__main__":
    main()
