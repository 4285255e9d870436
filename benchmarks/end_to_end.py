"""fedpeft against an app as people write it today, from the command to its end.

LoRA on MiniLM, Reuters R8, 128 tokens, batches of 16, two Ray actors of one thread, five passes
over every document. The stock app (`stock_app`) is in the style of Flower's fine-tuning examples:
for every message it loads the model, reads and tokenises its table, pads to the full length, and
trains a plain loop in float32 under stock FedAvg. fedpeft runs as it comes: bfloat16 where the
processor has it, batches of similar length; with all layers adapted, and with the last k, where
frozen layers run once per document, which the first pass pays for.

Of the stock app two rounds are run and the others taken to cost what the second did: every round
of it loads everything anew. fedpeft begins with nothing but the model on disk: it tokenises, and
fills what it keeps of frozen layers, within the time that is measured. Both have the same
documents. Nobody evaluates. Sides take turns.

    python benchmarks/end_to_end.py [--repeats 3] [--clients 4] [--documents 200] [--out FILE]
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ratios import Ratio, write
from rich.console import Console
from rich.table import Table
from stock_run import run_stock

from fedpeft_app.cli.launch import Simulation
from fedpeft_app.cli.superlink import executable
from fedpeft_app.config import parse
from fedpeft_app.data.read import read
from fedpeft_app.data.sources import find_source
from fedpeft_app.data_plan import columns, make_task
from fedpeft_app.mirrors import cache_dir
from fedpeft_app.run_data import find_model

ACTORS, PASSES, LENGTH = 2, 5, 128
LEAST = {"all": 2.5, "last2": 6.0}  # times the documents per second of the stock app
ENOUGH = 2400  # documents from which on that is asked; with fewer, a run is mostly start-up
LABELS = ",".join(map(str, range(8)))
LAYERS = {"all": "all", "last2": "last:2", "last1": "last:1"}


def fedpeft(tables: Path, clients: int, layers: str) -> dict[str, float]:
    """Run fedpeft; give documents per second from the command to its end, and of later rounds."""
    settings = {
        "rounds": PASSES,
        "data.name": tables / "train.csv",
        "data.labels": LABELS,
        "data.max-length": LENGTH,
        "data.test-fraction": 0,
        "data.partitioner": "iid",
        "evaluate.server": "false",
        "evaluate.every": 0,
        "method.layers": layers,
        "strategy.fraction-train": 1.0,
        "strategy.min-replies": clients,
        "strategy.min-nodes": clients,
    }
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "cache").mkdir()
        (Path(home) / "cache" / "mirrors").symlink_to(cache_dir() / "mirrors")
        command = [executable("fedpeft"), "run", "--nodes", str(clients), "--actors", str(ACTORS)]
        command += [f"{key}={value}" for key, value in settings.items()]
        began = time.monotonic()
        own = {**os.environ, "FEDPEFT_HOME": home}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=own)
        seconds = time.monotonic() - began
        (journal,) = Path(home).glob("runs/*/journal.jsonl")
        events = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    rounds = [event for event in events if event["event"] == "round_finished"]
    later = sum(event["seconds"] for event in rounds[1:])
    return {
        "whole": sum(event["examples"] for event in rounds) / seconds,
        "later": sum(event["examples"] for event in rounds[1:]) / later,
        "start": seconds - sum(event["seconds"] for event in rounds),
    }


def stock(tables: Path, clients: int, documents: int) -> dict[str, float]:
    """Run the stock app; give the same."""
    settings = {
        "rounds": 2,
        "train": True,
        "max-steps": 0,
        "model": str(find_model(parse({}).model.name, "").path),
        "data": str(tables),
        "length": LENGTH,
        "pad-to-length": True,
    }
    nodes = Simulation(nodes=clients, client_cpus=1, client_gpus=0.0, actors=ACTORS)
    run = run_stock(settings, nodes)
    first, second = (one["seconds"] for one in run.rounds)
    return {
        "whole": PASSES * clients * documents / (run.seconds + (PASSES - 2) * second),
        "later": clients * documents / second,
        "start": run.seconds - first - second,
    }


def lay_out(tables: Path, clients: int, documents: int) -> None:
    """Write the documents as tables: those of each client, and all."""
    config = parse({})
    examples, _ = read(find_source(config.data.name), columns(config), make_task(config).reads)
    train = examples["train"]
    rows = list(zip(map(str, train.inputs), map(int, train.labels), strict=True))
    for client in range(clients):
        own = rows[client * documents : (client + 1) * documents]
        write_table(tables / f"{client}.csv", own)
    write_table(tables / "train.csv", rows[: clients * documents])


def write_table(path: Path, rows: Sequence[tuple[str, int]]) -> None:
    """Write a table of texts."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=LAYERS, default=["all", "last2"])
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    turns: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as scratch:
        tables = Path(scratch)
        lay_out(tables, asked.clients, asked.documents)
        for _ in range(asked.repeats):
            turn = {"stock": stock(tables, asked.clients, asked.documents)}
            for name in asked.only:
                turn[name] = fedpeft(tables, asked.clients, LAYERS[name])
            turns.append(turn)
            print(json.dumps(turn), file=sys.stderr, flush=True)
    show(turns)
    documents = asked.clients * asked.documents
    gains = []
    for name in asked.only:
        whole = Ratio(
            what=f"documents/s of a whole run on {documents:,}, {name}, to a stock Flower app",
            values=tuple(over(turns, name, "whole")),
            least=LEAST.get(name, 0.0) if documents >= ENOUGH else 0.0,
        )
        later = Ratio(
            what=f"documents/s of rounds 2 and later, {name}, to a stock Flower app",
            values=tuple(over(turns, name, "later")),
        )
        gains += [whole, later]
    write(asked.out, gains, turns)
    sys.exit(not all(gain.holds for gain in gains))


def over(turns: Sequence[dict[str, dict[str, float]]], name: str, part: str) -> list[float]:
    """Give how many times the documents per second of the stock app, turn by turn."""
    return [turn[name][part] / turn["stock"][part] for turn in turns]


def show(turns: Sequence[dict[str, dict[str, float]]]) -> None:
    """Print medians, and ratios of the same turn."""
    table = Table("", "documents/s, whole run", "later rounds", "start-up, s", "times stock")
    for name in turns[0]:
        cells = [
            f"{statistics.median(turn[name][key] for turn in turns):.1f}"
            for key in ("whole", "later", "start")
        ]
        ratios = over(turns, name, "whole")
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
        table.add_row(name, *cells, spread)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
