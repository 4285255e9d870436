"""A run of many rounds with a tiny model: do memory, file handles and the folder stay as they are?

python benchmarks/long_run.py [--rounds 200] [KEY=VALUE ...]

Looks at the server's process and at every Ray actor after each round, and prints the slope over
the rounds after a warm-up. Runs through Flower and Ray, on a BERT of two layers with random
weights and a made-up data set.
"""

import argparse
import csv
import itertools
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psutil
from scipy.stats import theilslopes

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from tiny_bert import TOPICS, save_tiny_bert

FEDPEFT = str(Path(sys.executable).with_name("fedpeft"))
WARM_UP = 0.25  # of the rounds
SETTINGS = ("train.max-steps=2", "evaluate.every=5", "output.keep=last:2,best:1,every:50")
KINDS = {"flwr-simulation": "server", "ray::ClientAppActor": "actor"}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        parent = Path(scratch) / "runs"
        command = [FEDPEFT, "run", "--nodes", "8", *tiny(Path(scratch)), *SETTINGS]
        command += [f"rounds={asked.rounds}"]
        command += [f"output.dir={parent}", *asked.settings]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        seen = watch(process, parent)
        if process.wait() != 0:
            sys.exit(f"the run ended with {process.returncode}")
        report(seen, asked.rounds)


def tiny(scratch: Path) -> list[str]:
    """Make a tiny model and tiny data; give the settings that name them."""
    model, data = scratch / "model", scratch / "data.csv"
    save_tiny_bert(model)
    draw, labels = random.Random(0), tuple(TOPICS)
    with data.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for place in range(600):
            label = labels[place % len(labels)]
            rows.writerow([" ".join(draw.choices(TOPICS[label], k=6)), label])
    return [
        f"model.name={model}",
        f"data.name={data}",
        "data.max-length=16",
        "data.min-examples=1",
    ]


Seen = dict[str, list[tuple[int, float, int, int]]]  # process → (round, MiB, handles, folder KiB)


def watch(process: "subprocess.Popen[bytes]", parent: Path) -> Seen:
    """Look at every process of a run after each round."""
    seen: Seen = defaultdict(list)
    last = 0
    while process.poll() is None:
        time.sleep(0.1)
        folders = [path.parent for path in parent.glob("*/journal.jsonl")]
        if not folders:
            continue
        text = (folders[0] / "journal.jsonl").read_bytes()
        rounds = text.count(b'"event": "round_finished"')
        if rounds == last:
            continue
        last = rounds
        size = sum(path.stat().st_size for path in (folders[0] / "checkpoints").iterdir()) // 1024
        for name, memory, handles in processes(process.pid):
            seen[name].append((rounds, memory, handles, size))
    return seen


def processes(pid: int) -> list[tuple[str, float, int]]:
    """Give memory (MiB of its own, USS) and open files of the server and of every actor."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            line = " ".join(child.cmdline())
            kind = next((name for part, name in KINDS.items() if part in line), None)
            if kind:
                memory = child.memory_full_info().uss / 2**20
                found.append((f"{kind} {child.pid}", memory, child.num_fds()))
        except psutil.Error:
            continue
    return found


def report(seen: Seen, rounds: int) -> None:
    """Print what grew: the median of the slopes between all pairs of rounds (Theil, Sen)."""
    for name, rows in sorted(seen.items()):
        table = np.array([row for row in rows if row[0] > WARM_UP * rounds], dtype=np.float64)
        if len(table) < 10:  # a process of the beginning
            continue
        memory, handles = (theilslopes(table[:, at], table[:, 0]).slope for at in (1, 2))
        quarters = ", ".join(f"{row[1]:.0f}" for row in table[:: max(1, len(table) // 4)])
        print(
            f"{name}: {1024 * memory:+.2f} KiB a round after round {table[0, 0]:.0f} "
            f"(MiB in turn: {quarters}, {table[-1, 1]:.0f}); {table[0, 2]:.0f} open files, then "
            f"{table[-1, 2]:.0f}: {handles:+.4f} a round"
        )
    sizes = [row[3] for row in itertools.chain.from_iterable(seen.values())]
    print(f"checkpoints: {max(sizes)} KiB at most")


if __name__ == "__main__":
    main()
