"""What is gained by running frozen layers once per example? LoRA in the last k, and the head.

MiniLM, 128 tokens, batches of 16 grouped by length. In one process and on one thread,
`fit` trains the same documents again and again for every k, with activations kept and without; the
first pass with them fills the store and is shown apart. Sides take turns; every repeat fills anew.
Seconds are CPU seconds of that thread, so that other work on the machine counts little.

    python benchmarks/frozen_layers.py [--repeats 3] [--documents 320] [--data reuters-r8]
                                       [--pooling mean] [--out FILE]
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from ratios import Ratio, write
from rich.console import Console
from rich.table import Table

from fedpeft_app.assembly import forget_models, make_worker
from fedpeft_app.config import parse
from fedpeft_app.mirrors import cache_dir
from fedpeft_app.training.fit import FitSettings, fit
from fedpeft_app.training.worker import Worker

CASES = {  # what trains → its settings
    "all 6 layers": {"method.layers": "all"},
    "last 4": {"method.layers": "last:4"},
    "last 3": {"method.layers": "last:3"},
    "last 2": {"method.layers": "last:2"},
    "last 1": {"method.layers": "last:1"},
    "head": {"method.name": "head"},
}
LENGTH, EPOCHS = 128, 5
WAYS = ("without", "filling", "with")
LEAST = {"last 2": 3.0, "head": 50.0}  # times the documents per second of all layers


def examples_per_s(worker: Worker, settings: FitSettings) -> float:
    """Train one pass; give documents per CPU second."""
    worker.adapted.pour(worker.adapted.initial)
    began = time.process_time()
    report = fit(worker.adapted, worker.task, worker.train, settings, round_number=1, partition=0)
    return report.examples / (time.process_time() - began)


def measured(case: str, data: Mapping[str, Any]) -> dict[str, float]:
    """Measure one case: without activations, while they are filled, and with them."""
    config = parse(
        {
            **data,
            "data.validation-fraction": 0.1,
            "data.max-length": LENGTH,
            "data.partitioner": "iid",
            **CASES[case],
        }
    )
    worker = make_worker(config, {"partition-id": 0, "num-partitions": 1})
    without = replace(worker.settings, rounds=EPOCHS, epochs=1, frozen_cache_bytes=0)
    kept = replace(without, frozen_cache_bytes=2**33)
    examples_per_s(worker, replace(without, max_steps=2))  # warm-up
    found = {
        "without": examples_per_s(worker, without),
        "filling": examples_per_s(worker, kept),
        "with": examples_per_s(worker, kept),
    }
    forget_models()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--documents", type=int, default=320)
    parser.add_argument("--data", default="reuters-r8")
    parser.add_argument("--pooling", default="mean")
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    data = {
        "data.name": asked.data,
        "data.max-examples": asked.documents,
        "model.pooling": asked.pooling,
    }
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    home = cache_dir()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FEDPEFT_HOME"] = scratch  # nothing is known of frozen layers there
        cache = Path(scratch) / "cache"
        cache.mkdir()
        for known in ("mirrors", "examples"):
            if (home / known).exists():
                (cache / known).symlink_to(home / known)
        for _ in range(asked.repeats):
            shutil.rmtree(cache / "activations", ignore_errors=True)
            for case in CASES:
                rows[case].append(measured(case, data))
    show(rows)
    gains = [
        Ratio(
            what=f"documents/s, {case} with frozen layers kept, to all layers",
            values=tuple(ratios(rows, case)),
            least=LEAST.get(case, 0.0),
        )
        for case in list(CASES)[1:]
    ]
    write(asked.out, gains, rows)
    raise SystemExit(not all(gain.holds for gain in gains))


def ratios(rows: dict[str, list[dict[str, float]]], case: str) -> list[float]:
    """Give how many times the documents per second of all layers, repeat by repeat."""
    whole = rows["all 6 layers"]
    return [row["with"] / full["without"] for row, full in zip(rows[case], whole, strict=True)]


def median(values: Any) -> float:
    """Give the middle one."""
    return statistics.median(list(values))


def show(rows: dict[str, list[dict[str, float]]]) -> None:
    """Print the table: documents per CPU second, medians."""
    table = Table("trained", "without", "filling", "with", "times all layers", "min … max")
    whole = rows["all 6 layers"]
    for case, found in rows.items():
        times = ratios(rows, case)
        over_all = [
            (EPOCHS / full["without"]) / (1 / row["filling"] + (EPOCHS - 1) / row["with"])
            for row, full in zip(found, whole, strict=True)
        ]
        table.add_row(
            case,
            *(
                f"{median(row[key] for row in found):,.1f}"
                for key in ("without", "filling", "with")
            ),
            f"{median(times):.2f} ({median(over_all):.2f} over {EPOCHS} passes, filling counted)",
            f"{min(times):.2f} … {max(times):.2f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
