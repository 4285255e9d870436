"""What a round costs beyond training on real machines: with warm workers, without, and stock.

python benchmarks/deployment_overhead.py [--repeats 3] [--rounds 5]

One SuperLink and two SuperNodes on loopback, MiniLM, two tables of R8 documents, four optimizer
steps a round. Four apps take turns, run by run: an empty stock Flower app (it sends back what
came), fedpeft with a warm worker on each node, fedpeft without, and a stock app in the style of
Flower's fine-tuning examples, which loads model and data for every message. The first round of
each run, in which things are loaded, is left out. Overhead of a round: its seconds, less the
training of its slower node, less the median round of the empty app of the same turn.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from federation import BINARIES, CONNECTION, Federation, wait_for
from thin_processes import ThinProcesses

from fedpeft_app.config import parse
from fedpeft_app.data.read import read
from fedpeft_app.data.sources import find_source
from fedpeft_app.data_plan import columns, make_task
from fedpeft_app.mirrors import cache_dir
from fedpeft_app.run_data import find_model
from fedpeft_app.runs.directory import list_runs, runs_parent

NODES, DOCUMENTS, STEPS = 2, 200, 4
STOCK = Path(__file__).parent / "stock_app"
LABELS = ",".join(map(str, range(8)))
OURS = {
    "data.labels": LABELS,
    "train.max-steps": STEPS,
    "evaluate.server": False,
    "evaluate.every": 0,
    "strategy.fraction-train": 1.0,
    "strategy.fraction-evaluate": 0.0,
}
MOST_S = 1.0  # that a round of ours may cost beyond training and an empty round
Round = dict[str, float]  # "seconds" of it, and "trained": those of the slower node's training


class Bench:
    """A federation, and the ways to run something on it.

    Args:
        folder: For everything.
        rounds: Of each run, the first of which does not count.
    """

    def __init__(self, folder: Path, rounds: int) -> None:
        self._folder, self._rounds = folder, rounds
        self._homes = [folder / f"node-{node}" for node in range(NODES)]
        self.federation = Federation(folder, Path(os.environ["FEDPEFT_HOME"]))
        self.loads: list[int] = []  # of backbones, by each node in the last run of ours
        self.warm_loads: list[int] = []  # and in all with workers
        self.peaks: list[int] = []  # of memory, of the processes that hand work to them

    def start(self) -> None:
        """Start the SuperLink and its nodes."""
        self.federation.start_superlink()
        cache = Path(os.environ["FEDPEFT_HOME"]) / "cache"
        for home, rows in zip(self._homes, shares(), strict=True):
            home.mkdir()
            (home / "cache").symlink_to(cache)
            table = home / "data.csv"
            with table.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["text", "label"], *rows])
            self.federation.start_node(home.name, f'data-path="{table}"', home=home)
        wait_for(lambda: list(self.federation.nodes().values()).count("online") == NODES, "nodes")

    def warm(self) -> list[Round]:
        """Run ours with workers."""
        for home in self._homes:
            worker(home, "start", "--cpus", "1")
        try:
            with ThinProcesses() as thin:
                rounds = self.ours()
        finally:
            for home in self._homes:
                worker(home, "stop")
        self.peaks += thin.peaks.values()
        self.warm_loads += self.loads
        return rounds

    def ours(self) -> list[Round]:
        """Run ours, and read its journal."""
        run = self.federation.submit(self._folder / "run.log", {**OURS, "rounds": self._rounds})
        if run.wait():
            raise RuntimeError((self._folder / "run.log").read_text(encoding="utf-8"))
        events = next(iter(list_runs(runs_parent()))).events()
        began = [one["clock"] for one in events if one["event"] == "round_started"]
        ended = [one for one in events if one["event"] == "round_finished"]
        loads: dict[str, dict[str, int]] = {}  # node → process → backbones that it has loaded
        for one in ended:
            for node, told in one["nodes"].items():
                loads.setdefault(node, {})[told["process"]] = told["backbone-loads"]
        self.loads = [sum(processes.values()) for processes in loads.values()]
        trained = [max(told["seconds"] for told in one["nodes"].values()) for one in ended]
        seconds = [one["clock"] - at for one, at in zip(ended, began, strict=True)]
        return [{"seconds": s, "trained": t} for s, t in zip(seconds, trained, strict=True)][1:]

    def stock(self, *, train: bool) -> list[Round]:
        """Run the stock app."""
        times = self._folder / f"times-{train}.jsonl"
        times.unlink(missing_ok=True)
        settings = {
            "rounds": self._rounds,
            "train": str(train).lower(),
            "model": json.dumps(str(find_model(parse({}).model.name, "").path)),
            "times": json.dumps(str(times)),
            "max-steps": STEPS,
        }
        said = " ".join(f"{key}={value}" for key, value in settings.items())
        app = shutil.copytree(STOCK, self._folder / "stock", dirs_exist_ok=True)
        command = [str(BINARIES / "flwr"), "run", str(app), CONNECTION, "-c", said, "--stream"]
        with (self._folder / "stock.log").open("ab") as log:
            environment = self.federation.environment
            subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
        told = times.read_text(encoding="utf-8") if times.exists() else ""
        rows = [json.loads(line) for line in told.splitlines()]
        if len(rows) != self._rounds:
            raise RuntimeError((self._folder / "stock.log").read_text(encoding="utf-8"))
        return rows[1:]


def shares() -> list[list[tuple[str, int]]]:
    """Give each node its own documents of R8."""
    config = parse({})
    source = find_source(config.data.name)
    examples, _ = read(source, columns(config), make_task(config).reads)
    train = examples["train"]
    rows = [(str(text), int(label)) for text, label in zip(train.inputs, train.labels, strict=True)]
    return [rows[node * DOCUMENTS : (node + 1) * DOCUMENTS] for node in range(NODES)]


def worker(home: Path, *command: str) -> None:
    """Do something with the worker of a node."""
    environment = {**os.environ, "FEDPEFT_HOME": str(home)}
    called = [str(BINARIES / "fedpeft"), "worker", *command]
    subprocess.run(called, env=environment, check=True, stdout=subprocess.DEVNULL)


def report(
    name: str, turns: list[list[Round]], empty: list[list[Round]]
) -> tuple[float, float, float]:
    """Print what rounds of an app cost beyond training and beyond an empty app."""
    over = [
        one["seconds"] - one["trained"] - statistics.median(row["seconds"] for row in base)
        for turn, base in zip(turns, empty, strict=True)
        for one in turn
    ]
    seconds = statistics.median(one["seconds"] for turn in turns for one in turn)
    found = (min(over), statistics.median(over), max(over))
    print(
        f"{name:<34} {seconds:6.2f} s a round, overhead {found[1]:6.2f} s "
        f"({found[0]:.2f} to {found[2]:.2f}; {len(over)} rounds)"
    )
    return found


def main() -> int:
    """Measure, and say whether warm rounds keep to the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache, own = cache_dir(), Path(scratch) / "home"
        own.mkdir()
        (own / "cache").symlink_to(cache)  # what was downloaded; runs go with the folder
        os.environ["FEDPEFT_HOME"] = str(own)
        bench = Bench(Path(scratch), chosen.rounds)
        apps: Mapping[str, Callable[[], list[Round]]] = {
            "stock, empty": lambda: bench.stock(train=False),
            "fedpeft, warm workers": bench.warm,
            "fedpeft, a process a message": bench.ours,
            "stock, loads for every message": lambda: bench.stock(train=True),
        }
        turns: dict[str, list[list[Round]]] = {name: [] for name in apps}
        try:
            bench.start()
            for repeat in range(chosen.repeats):
                for name, run in apps.items():
                    turns[name].append(run())
                    shown = [round(one["seconds"], 2) for one in turns[name][-1]]
                    print(f"turn {repeat + 1}: {name}: {shown}", flush=True)
        finally:
            bench.federation.end()
    found: dict[str, Any] = {
        name: report(name, rounds, turns["stock, empty"]) for name, rounds in turns.items()
    }
    print(f"ClientApp processes with a worker: at most {max(bench.peaks) / 1e6:.0f} MB each")
    warm, cold = sorted(set(bench.warm_loads)), sorted(set(bench.loads))
    print(f"backbone loads of a node in a run: {warm} with a worker, {cold} without")
    return int(found["fedpeft, warm workers"][1] > MOST_S)


if __name__ == "__main__":
    sys.exit(main())
