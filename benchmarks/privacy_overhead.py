"""What does sample-level privacy cost? Seconds per example of DP-SGD against plain training.

LoRA on MiniLM, Reuters R8, 64 tokens, batches of 16 as they come (not grouped by length). In one
process and on one thread, both sides take a step on the same batch, in turns: plain training with
the gradient norm clipped, and training with privacy, with the gradient of every example, clipping
over all tensors, noise from the operating system, and the same optimizer. Each repeat goes over
all batches; the ratio is of seconds per example. Seconds are CPU seconds of that thread, so that
other work on the machine does not count.

Besides, whole rounds as nodes train them: batches grouped by length without privacy, and Poisson
samples, which differ in size, with it.

    python benchmarks/privacy_overhead.py [--repeats 5] [--examples 480] [--out FILE]
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from ratios import Ratio, write

from fedpeft_app.assembly import make_worker
from fedpeft_app.config import parse
from fedpeft_app.privacy.dp_sgd import NoisySum
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.mechanism import Mechanism
from fedpeft_app.privacy.per_sample import trained
from fedpeft_app.privacy.randomness import randomness
from fedpeft_app.training.engines import engine_of, losses_of
from fedpeft_app.training.fit import fit, fresh_optimizer, training_mode
from fedpeft_app.training.precision import autocast
from fedpeft_app.training.private import private_fit, schedule

MOST = 1.15  # of plain seconds
BATCH, TOKENS = 16, 64
CPU = torch.device("cpu")
Step = Callable[[dict[str, torch.Tensor]], None]


def mechanism(sampling: float = 1.0, steps: int = 1) -> Mechanism:
    secure = randomness(-1, "dp-sgd")
    event = Event(noise_multiplier=1.0, sampling=sampling, steps=steps)
    return Mechanism(event=event, clipping_norm=1.0, randomness=secure)


def seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def in_turns(worker: Any, repeats: int) -> list[float]:
    """Give the ratio of each repeat, both sides on the same batches."""
    model, task, precision = worker.adapted.model, worker.task, worker.settings.precision
    order = np.random.default_rng(0).permutation(len(worker.train))
    batches = [
        task.collate(worker.train, order[at : at + BATCH])
        for at in range(0, len(order) - BATCH + 1, BATCH)
    ]
    optimizer = fresh_optimizer(worker.adapted, worker.settings)
    parameters = list(trained(model).values())
    total = NoisySum(parameters, mechanism())

    def plain(batch: dict[str, torch.Tensor]) -> None:
        with autocast(precision, CPU):
            loss = task.loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def one(step: Step, batch: dict[str, torch.Tensor]) -> float:
        return seconds(lambda: step(batch))

    ratios = []
    with training_mode(model, 0):
        engine = engine_of(worker.adapted, task, worker.train, precision)
        for _ in range(repeats + 1):
            spent = {"plain": 0.0, "private": 0.0}
            for batch in batches:
                spent["plain"] += one(plain, batch)
                with engine(model, losses_of(task, precision, CPU)) as gradients:

                    def private(batch: dict[str, torch.Tensor], given: Any = gradients) -> None:
                        total.add(given(batch))
                        total.release(BATCH)
                        optimizer.step()
                        optimizer.zero_grad(set_to_none=True)

                    spent["private"] += one(private, batch)
            ratios.append(spent["private"] / spent["plain"])
    return ratios[1:]  # the first warms up


def in_rounds(worker: Any, repeats: int) -> list[float]:
    """Give the ratio of each repeat, of rounds as nodes train them."""
    common: dict[str, Any] = {"round_number": 1, "partition": 0}
    given = (worker.adapted, worker.task, worker.train, worker.settings)
    own = mechanism(*schedule(len(worker.train), worker.settings))
    ratios = []
    for _ in range(repeats):
        plain = seconds(lambda: fit(*given, **common))
        private = seconds(lambda: private_fit(*given, mechanism=own, **common))
        ratios.append(private / plain)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--examples", type=int, default=480)
    parser.add_argument("--method", default="lora")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = parse(
        {
            "method.name": arguments.method,
            "data.max-length": TOKENS,
            "data.max-examples": 2 * arguments.examples,
            "data.max-examples-per-node": arguments.examples,
            "data.partitioner": "iid",
            "train.batch-size": BATCH,
        }
    )
    worker = make_worker(config, {"partition-id": 0, "num-partitions": 1})
    rows: dict[str, dict[str, list[float]]] = {}
    for precision in ("fp32", "bf16"):
        one = replace(worker, settings=replace(worker.settings, precision=precision))
        worker.adapted.pour(worker.adapted.initial)
        rows[precision] = {
            "steps": in_turns(one, arguments.repeats),
            "rounds": in_rounds(one, arguments.repeats),
        }
        for name, ratios in rows[precision].items():
            print(
                f"{precision} {name}: with privacy takes {statistics.median(ratios):.3f} of plain "
                f"(min {min(ratios):.3f}, max {max(ratios):.3f})",
                flush=True,
            )
    steps = [
        Ratio(
            what=f"seconds a step, private to plain, {precision}",
            values=tuple(of["steps"]),
            most=MOST,
        )
        for precision, of in rows.items()
    ]
    write(arguments.out, steps, rows)
    if max(statistics.median(of["steps"]) for of in rows.values()) > MOST:
        sys.exit(f"privacy takes more than {MOST} of plain training")


if __name__ == "__main__":
    main()
