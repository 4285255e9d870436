"""Is federated work nearly free? Examples per second of a run against bare training loops.

Both sides train the same batches of the same clients, with the same number of processes,
threads per process and precision, one after the other, several times, in changing order. The
federated side is a real `fedpeft run`, measured from the first train message sent to the last
reply received, rounds 2 and later, evaluation off. The bare side is a plain PyTorch loop over
batches that were collated beforehand: no Flower, no Ray, no adapters poured, no checkpoints.

    python benchmarks/federation_overhead.py [--repeats 3] [--examples 1600] [--out FILE]
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratios import Ratio, write

CLIENTS, ACTORS, ROUNDS = 4, 2, 4
LEAST = 0.9  # of the bare loop's documents per second
SETTINGS = {
    "rounds": ROUNDS,
    "data.max-length": 128,
    "data.partitioner": "iid",
    "data.min-examples": 10,
    "strategy.fraction-train": 1.0,
    "strategy.min-replies": CLIENTS,
    "strategy.min-nodes": CLIENTS,
    "evaluate.every": 0,
}
Settings = Mapping[str, Any]


def federated(settings: Settings) -> dict[str, Any]:
    """Run a federation and read its journal."""
    with tempfile.TemporaryDirectory() as runs:
        return _federated(settings, Path(runs))


def _federated(settings: Settings, runs: Path) -> dict[str, Any]:
    """Run a federation into a folder."""
    command = [str(Path(sys.executable).with_name("fedpeft")), "run"]
    command += [f"{key}={value}" for key, value in settings.items()]
    command += ["--nodes", str(CLIENTS), "--actors", str(ACTORS), f"output.dir={runs}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    journal = max(runs.glob("*/journal.jsonl"))
    events = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    rounds = [event for event in events if event["event"] == "round_finished"][1:]
    loads = {
        node["process"]: node["backbone-loads"]
        for event in rounds
        for node in event["nodes"].values()
    }
    return {
        "examples_per_s": sum(event["examples"] for event in rounds)
        / sum(event["seconds"] for event in rounds),
        "processes": len(loads),
        "backbone_loads_per_process": sorted(loads.values()),
    }


def bare(settings: Settings) -> dict[str, Any]:
    """Train the same batches in plain loops, in as many processes with as many threads."""
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(ACTORS), context.Queue()
    processes = [
        context.Process(target=_bare_process, args=(settings, index, ready, results))
        for index in range(ACTORS)
    ]
    for process in processes:
        process.start()
    measured = [results.get() for _ in processes]
    for process in processes:
        process.join()
    started = min(row["started"] for row in measured)
    ended = max(row["ended"] for row in measured)
    examples = sum(row["examples"] for row in measured)
    return {"examples_per_s": examples / (ended - started)}


def _bare_process(settings: Settings, index: int, ready: Any, results: Any) -> None:
    """Train every client whose turn this process has, rounds 2 and later."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    from fedpeft_app.assembly import make_worker
    from fedpeft_app.config import parse
    from fedpeft_app.training.fit import step_groups
    from fedpeft_app.training.precision import autocast

    config = parse(settings)
    cpu = torch.device("cpu")
    batches = []
    for client in range(index, CLIENTS, ACTORS):
        node = {"partition-id": client, "num-partitions": CLIENTS}
        worker = make_worker(config, node)
        for number in range(1, ROUNDS + 1):
            groups = step_groups(worker.train.lengths, worker.settings, number, client)
            rows = [worker.task.collate(worker.train, group[0]) for group in groups]
            batches.append((number, client, rows))
    batches.sort(key=lambda row: row[:2])
    model, trainable = worker.adapted.model.train(), worker.adapted.trainable

    def loop(rows: list[dict[str, torch.Tensor]]) -> int:
        optimizer = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.0, fused=True)
        for batch in rows:
            with autocast(worker.settings.precision, cpu):
                loss = worker.task.loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return sum(len(batch["labels"]) for batch in rows)

    for number, _, rows in batches:
        if number == 1:
            loop(rows)  # warm-up, as the federated side's first round
    ready.wait()
    started = time.time()
    examples = sum(loop(rows) for number, _, rows in batches if number > 1)
    results.put({"started": started, "ended": time.time(), "examples": examples})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--examples", type=int, default=1600)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    settings = {**SETTINGS, "data.max-examples": arguments.examples}
    rows = []
    for repeat in range(arguments.repeats):
        if repeat % 2:
            run, plain = federated(settings), bare(settings)
        else:
            plain, run = bare(settings), federated(settings)
        ratio = run["examples_per_s"] / plain["examples_per_s"]
        rows.append({"federated": run, "bare": plain, "ratio": ratio})
        print(
            f"repeat {repeat + 1}: federated {run['examples_per_s']:.1f}/s, "
            f"bare {plain['examples_per_s']:.1f}/s, ratio {ratio:.3f}, backbone loads "
            f"{run['backbone_loads_per_process']} in {run['processes']} processes",
            flush=True,
        )
        if set(run["backbone_loads_per_process"]) != {1}:
            sys.exit("a process loaded the backbone more than once")
    ratios = sorted(row["ratio"] for row in rows)
    median = ratios[len(ratios) // 2]
    print(f"ratio: min {ratios[0]:.3f}, median {median:.3f}, max {ratios[-1]:.3f}")
    row = Ratio(
        what="documents/s of federated rounds to bare PyTorch loops on the same batches",
        values=tuple(ratios),
        least=LEAST,
    )
    write(arguments.out, [row], rows)
    sys.exit(not row.holds)


if __name__ == "__main__":
    main()
