"""What do more nodes, larger cohorts and more rounds cost the server of a simulation?

    python benchmarks/scale.py [--long 50] [--most 10000] [--out FILE] [KEY=VALUE ...]

Runs through Flower and Ray, each on a BERT of two layers with random weights and made-up texts,
two of them a node, one step of training: what is left is what the machinery costs.

- Roll calls of 100, 300, 1,000 and of `--most` nodes: what a further node costs.
- Rounds of 10, 30 and 100 of 1,000 nodes, and of 10 of 100 and of 300.
- 100 of 1,000 nodes for `--long` rounds: time, CPU, memory, open files, and what a round adds to
  the journal, to its checkpoint and to the run's folder.

The server is the process in which Flower's simulation has ServerApp, SuperLink's state and Ray's
driver. Judge by its CPU seconds: other work on the machine changes the seconds on the clock.
Exit status 1 where cost per node or per member of a cohort grows with their number, or memory, CPU
or checkpoints grow with the rounds.
"""

import argparse
import contextlib
import csv
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy.stats import theilslopes

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from tiny_bert import TOPICS, save_tiny_bert

FEDPEFT = str(Path(sys.executable).with_name("fedpeft"))
SERVER = "flwr-simulation"
NODES, COHORTS = (100, 300, 1000), (10, 30, 100)
EACH = 2  # training examples of a node
TESTED = 100  # examples of the test set, on which the last round is judged
SHORT = 6  # rounds from which the cost of one is read
LOOK_S = 0.05
LOOKED_AT = ("roll_call", "round_finished")
WARM_UP = 0.25  # of the rounds
MOST_KIB = 64.0  # of the server's memory, a round: the allocator's noise in 50 rounds
GROWTH = 2.0  # times the cost of a node among few that one among many may have
FLAT = 1.25  # times the second quarter's CPU a round that the last quarter's may be


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen of the server when an event had been written.

    Attributes:
        event: The event's name.
        clock: When it was written, seconds.
        cpu_s: CPU seconds of the server's process until then.
        rss_kib: Its memory, KiB.
        files: Its open files.
        journal: Bytes of the journal.
        checkpoint: Bytes of the newest checkpoint.
        folder: Bytes of the run's folder.
    """

    event: str
    clock: float
    cpu_s: float
    rss_kib: float
    files: int
    journal: int
    checkpoint: int
    folder: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One simulation, as it was seen.

    Attributes:
        nodes: Nodes of the federation.
        cohort: Nodes of a round.
        called_s: Seconds until the roll was called.
        called_cpu_s: CPU seconds of the server until then, its start included.
        rounds: Looks, one a round.
    """

    nodes: int
    cohort: int
    called_s: float
    called_cpu_s: float
    rounds: tuple[Look, ...]

    def steps(self, name: str) -> list[float]:
        """Give how much a counter rose from round to round."""
        values = [getattr(look, name) for look in self.rounds]
        return [after - before for before, after in itertools.pairwise(values)]


def simulate(scratch: Path, nodes: int, cohort: int, rounds: int, more: Sequence[str]) -> Run:
    """Run a simulation and look at its server after each event that ends something."""
    runs = scratch / f"runs-{nodes}-{cohort}-{rounds}"
    said = {
        "model.name": scratch / "model",
        "data.name": made_up(scratch, nodes),
        "data.partitioner": "iid",
        "data.min-examples": EACH,
        "data.max-length": 16,
        "data.max-test-examples": TESTED,
        "data.validation-fraction": 0.0,
        "rounds": rounds,
        "train.max-steps": 1,
        "strategy.fraction-train": cohort / nodes,
        "strategy.round-timeout": 3600,
        "evaluate.every": 0,
        "output.dir": runs,
    }
    command = [FEDPEFT, "run", "--nodes", str(nodes), "--actors", "2"]
    command += [f"{key}={value}" for key, value in said.items()] + list(more)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    looks = watch(process, runs)
    if process.wait() != 0:
        sys.exit(f"the run of {nodes} nodes ended with {process.returncode}")
    events = [json.loads(line) for line in journal_of(runs).read_text("utf-8").splitlines()]
    ended = next(event for event in events if event["event"] == "run_finished")
    called = next(look for look in looks if look.event == "roll_call")
    return Run(
        nodes=nodes,
        cohort=cohort,
        called_s=called.clock - (ended["clock"] - ended["seconds"]),
        called_cpu_s=called.cpu_s,
        rounds=tuple(look for look in looks if look.event == "round_finished"),
    )


def made_up(scratch: Path, nodes: int) -> Path:
    """Write texts for so many nodes, and for the test set; make the model where it is missing."""
    if not (scratch / "model").exists():
        save_tiny_bert(scratch / "model")
    folder = scratch / f"data-{nodes}"
    folder.mkdir(exist_ok=True)
    draw, labels = random.Random(0), tuple(TOPICS)
    for split, count in (("train", EACH * nodes), ("test", TESTED)):
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "label"])
            for place in range(count):
                label = labels[place % len(labels)]
                rows.writerow([" ".join(draw.choices(TOPICS[label], k=6)), label])
    return folder


def journal_of(runs: Path) -> Path:
    """Find the journal of the only run."""
    return next(runs.glob("*/journal.jsonl"))


def watch(process: "subprocess.Popen[bytes]", runs: Path) -> list[Look]:
    """Look at the server whenever the roll was called or a round has ended."""
    server: psutil.Process | None = None
    looks: list[Look] = []
    read = 0
    while process.poll() is None:
        time.sleep(LOOK_S)
        try:
            server = server or found(process.pid)
            if server is None or not list(runs.glob("*/journal.jsonl")):
                continue
            text = journal_of(runs).read_bytes()
            events = [json.loads(line) for line in text[read:].splitlines(keepends=True)]
            looks += [look(server, one, runs) for one in events if one["event"] in LOOKED_AT]
            read = len(text)
        except (psutil.Error, FileNotFoundError, ValueError):  # it ends, or writes
            continue
    return looks


def found(pid: int) -> psutil.Process | None:
    """Find the server among what a process has started."""
    for child in psutil.Process(pid).children(recursive=True):
        if any(Path(part).name == SERVER for part in child.cmdline()[:2]):
            return child
    return None


def look(server: psutil.Process, event: Mapping[str, Any], runs: Path) -> Look:
    """Look at the server and at what it has written."""
    journal = journal_of(runs)
    checkpoints = sorted(journal.parent.glob("checkpoints/*.safetensors"))
    times = server.cpu_times()
    return Look(
        event=event["event"],
        clock=event["clock"],
        cpu_s=times.user + times.system,
        rss_kib=server.memory_info().rss / 1024,
        files=server.num_fds(),
        journal=journal.stat().st_size,
        checkpoint=checkpoints[-1].stat().st_size if checkpoints else 0,
        folder=weight(journal.parent),
    )


def weight(folder: Path) -> int:
    """Add up the bytes of all files in a folder, as far as they stay there meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def roll_calls(runs: Sequence[Run]) -> list[str]:
    """Print what calling the roll cost by nodes; say what should not be."""
    faults, costs = [], []
    print("\nroll call: nodes, seconds, server's CPU seconds with its start, ms a further node")
    for before, run in itertools.pairwise([None, *runs]):
        cost = 0.0
        if before:
            cost = 1000 * (run.called_cpu_s - before.called_cpu_s) / (run.nodes - before.nodes)
            costs.append(cost)
        print(f"{run.nodes:8,}{run.called_s:10.1f}{run.called_cpu_s:10.1f}{cost:10.2f}")
    if len(costs) > 1 and costs[-1] > GROWTH * max(costs[:-1]):
        faults.append("a further node costs more the more there are")
    return faults


def rounds(runs: Sequence[Run]) -> list[str]:
    """Print what rounds cost by nodes and cohort; say what should not be."""
    print("\nrounds (means): nodes, cohort, seconds, server's CPU ms, CPU ms of a member")
    members: dict[int, float] = {}
    for run in runs:
        seconds, cpu_s = (statistics.mean(run.steps(name)) for name in ("clock", "cpu_s"))
        members[run.cohort] = 1000 * cpu_s / run.cohort
        print(
            f"{run.nodes:8,}{run.cohort:6}{seconds:10.2f}{1000 * cpu_s:10.0f}"
            f"{members[run.cohort]:10.2f}"
        )
    few, *_, many = (members[cohort] for cohort in sorted(members))
    return ["a member costs more the larger the cohort"] if many > GROWTH * few else []


def over_rounds(run: Run) -> list[str]:
    """Print what grew over the rounds of the long run; say what should not."""
    late = run.rounds[int(WARM_UP * len(run.rounds)) :]
    numbers = np.arange(len(late))
    print(f"\n{run.cohort} of {run.nodes:,} nodes, {len(run.rounds)} rounds, after a quarter:")
    slopes = {}
    for name, unit in (
        ("rss_kib", "KiB of memory"),
        ("files", "open files"),
        ("checkpoint", "bytes of checkpoint"),
        ("journal", "bytes of journal"),
        ("folder", "bytes of folder"),
    ):
        values = [getattr(look, name) for look in late]
        slopes[name] = float(theilslopes(values, numbers).slope)
        span = f"{values[0]:,.0f}, at the end {values[-1]:,.0f}"
        print(f"  {unit}: {span}; {slopes[name]:+,.2f} a round")
    quarters = np.array_split(np.array(run.steps("cpu_s")), 4)
    cpu = [float(np.mean(quarter)) for quarter in quarters]
    print("  server's CPU seconds a round, by quarters: " + ", ".join(f"{one:.2f}" for one in cpu))
    clock = [float(np.mean(quarter)) for quarter in np.array_split(np.array(run.steps("clock")), 4)]
    print("  seconds a round, by quarters: " + ", ".join(f"{one:.2f}" for one in clock))
    return [
        fault
        for wrong, fault in (
            (slopes["rss_kib"] > MOST_KIB, "memory grows with the rounds"),
            (slopes["files"] > 0, "open files grow with the rounds"),
            (cpu[-1] > FLAT * cpu[1], "CPU of a round grows with the rounds"),
        )
        if wrong
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", type=int, default=50)
    parser.add_argument("--most", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)

        def run(nodes: int, cohort: int, rounds: int) -> Run:
            return simulate(scratch, nodes, cohort, rounds, asked.settings)

        few = [run(nodes, COHORTS[0], SHORT) for nodes in NODES]
        larger = [run(NODES[-1], cohort, SHORT) for cohort in COHORTS[1:-1]]
        long = run(NODES[-1], COHORTS[-1], asked.long)
        most = [run(asked.most, 1, 1)] if asked.most else []
    faults = roll_calls([*few, *most]) + rounds([*few, *larger, long]) + over_rounds(long)
    if asked.out:
        everything = [asdict(one) for one in (*few, *larger, long, *most)]
        asked.out.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    for fault in faults:
        print(f"MUST NOT BE: {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
