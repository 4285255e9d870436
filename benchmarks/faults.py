"""Accuracy with nodes that fail at random and one that lies, against a run without faults.

python benchmarks/faults.py [--seeds 0 1 2 3 4] [--fails 0.3] [KEY=VALUE ...]

Eleven nodes share Reuters R8. With faults everyone is asked in every round, each honest node fails
with probability 0.3, and node 0 lies: NaN, huge values, another shape, bytes of noise, a reply to
another round, its delta a thousand times as long, or flipped and twenty times as long. Without
faults as many nodes are asked as reply on average. Runs through Flower and Ray, with the same seed
and the same split of the data; what differs is who takes part.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from faulty_app import misbehaving

from fedpeft_app.cli.launch import Simulation, run_simulation
from fedpeft_app.cli.settings import read_settings
from fedpeft_app.runs.directory import RunFolder
from fedpeft_app.strategies.guard import short_reason

NODES, LIAR = 11, 0
LIES = ["nan", "huge", "shape", "garbage", "stale", "long", "flipped"]
SETTINGS = {
    "rounds": 7,
    "data.max-examples": 1320,
    "data.max-length": 32,
    "data.max-test-examples": 1000,
    "data.dirichlet-alpha": 0.5,
    "evaluate.test": "end",
    "strategy.norm-bound": 5.0,
    "strategy.quarantine-after": 0,  # so that every kind of lie has its turn
}
_MOST_LOST = 0.01  # of accuracy
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided, n - 1 degrees


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--fails", type=float, default=0.3)
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_args()
    changes = dict(pair.split("=", 1) for pair in asked.settings)
    honest = round((NODES - 1) * (1 - asked.fails))
    gains, accepted = [], 0
    for seed in asked.seeds:
        plan = {"fails": asked.fails, "seed": seed, "liars": [LIAR], "byzantine": LIES}
        faulty = run(plan, {"strategy.fraction-train": 1.0, "seed": seed, **changes})
        sound = run({}, {"strategy.fraction-train": honest / NODES, "seed": seed, **changes})
        gains.append(faulty["accuracy"] - sound["accuracy"])
        print(
            f"seed {seed}: {faulty['accuracy']:.4f} with faults ({faulty['replies']:.1f} replies a "
            f"round), {sound['accuracy']:.4f} without ({sound['replies']:.1f})",
            flush=True,
        )
        for reason in faulty["lies"]:
            accepted += reason.endswith(": accepted")
            print(f"    {reason}")
    mean = statistics.mean(gains)
    spread = T_95.get(len(gains), 0.0) * statistics.stdev(gains) / len(gains) ** 0.5
    print(f"difference {100 * mean:+.2f} ± {100 * spread:.2f} points (95 %, paired)")
    print(f"{accepted} lies accepted")
    sys.exit(mean < -_MOST_LOST or accepted > 0)


def run(plan: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Run once; give the accuracy, the replies of a round, and what became of the lies."""
    with tempfile.TemporaryDirectory() as parent, misbehaving(plan):
        chosen = {**SETTINGS, **changes, "output.dir": parent}
        config = read_settings(None, [f"{key}={value}" for key, value in chosen.items()])
        simulation = Simulation(nodes=NODES, client_cpus=1, client_gpus=0.0, actors=0)
        folder = run_simulation(config, simulation, Console(quiet=True))
        return told(folder, plan)


def told(folder: RunFolder, plan: dict[str, Any]) -> dict[str, Any]:
    """Read a run's journal."""
    events = folder.events()
    rounds = [event for event in events if event["event"] == "round_finished"]
    lies = [
        f"round {event['round']}, {LIES[(event['round'] - 1) % len(LIES)]}: "
        f"{short_reason(event['rejected'].get(str(LIAR), 'accepted'))[:120]}"
        for event in rounds
        if plan
    ]
    return {
        "accuracy": events[-1]["test"]["accuracy"],
        "replies": statistics.mean(event["ok"] for event in rounds),
        "lies": lies,
    }


if __name__ == "__main__":
    main()
