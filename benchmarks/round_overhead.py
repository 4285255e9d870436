"""What does a round cost in which nobody trains? fedpeft, bare Flower, NVFlare and pfl.

Ten of ten clients send back 76,808 float32 values plus a constant, over and over. One round after
the other is timed where it begins on the server, so that all that a framework does between two
rounds counts, in fedpeft the fold, the ledger, the journal and the checkpoint on disk. The first
round does not count. The frameworks take turns; ratios are of the same turn.

    python benchmarks/round_overhead.py [--repeats 3] [--rounds 21] [--out FILE]

fedpeft and bare Flower (stock FedAvg, an app of a few lines: `stock_app`) run on the same kind of
SuperLink, in the same environment, with two Ray actors. NVFlare's simulator has a process for
every client and connections between them. pfl is one process and a loop over users: nothing is
serialised, sent or kept. It says how far the floor lies below all of them.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from peers import NVFLARE, PFL, PeerError, run_peer
from ratios import Ratio, write
from rich.console import Console
from stock_run import run_stock

from fedpeft_app.cli.launch import Simulation, run_simulation
from fedpeft_app.cli.settings import read_settings

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from swapped_client import lay_out, runs_of

HERE = Path(__file__).parent
CLIENTS, ACTORS, VALUES = 10, 2, 76_808  # the demo's adapter: 301 KiB
MOST = 1.2  # times bare Flower's round
SETTINGS = {
    "evaluate.every": 0,
    "strategy.fraction-train": 1.0,
    "strategy.min-replies": CLIENTS,
    "strategy.min-nodes": CLIENTS,
}
SIMULATION = Simulation(nodes=CLIENTS, client_cpus=1, client_gpus=0.0, actors=ACTORS)
Times = Sequence[float]


def fedpeft(rounds: int) -> Times:
    """Run fedpeft, with the demo's model, data and split among nodes."""
    with tempfile.TemporaryDirectory() as parent, runs_of(idle):
        chosen = {**SETTINGS, "rounds": rounds, "output.dir": parent}
        config = read_settings(None, [f"{key}={value}" for key, value in chosen.items()])
        folder = run_simulation(config, SIMULATION, Console(quiet=True))
        events = folder.events()
    return [event["clock"] for event in events if event["event"] == "round_started"]


def idle(scratch: Path) -> Path:
    """Lay out the app with clients that do not train."""
    return lay_out(scratch, HERE / "noop_client.py")


def flower(rounds: int) -> Times:
    """Run bare Flower."""
    run = run_stock({"rounds": rounds, "train": False}, SIMULATION)
    return [one["began"] for one in run.rounds]


def nvflare(rounds: int) -> Times:
    """Run NVFlare's simulator."""
    with tempfile.TemporaryDirectory() as parent:
        found = run_peer(NVFLARE, str(CLIENTS), str(rounds), str(VALUES), parent)
    return [float(at) for at in found["began"]]


def pfl(rounds: int) -> Times:
    """Run pfl."""
    found = run_peer(PFL, str(CLIENTS), str(rounds), str(VALUES))
    return [float(at) for at in found["began"]]


SIDES: dict[str, Callable[[int], Times]] = {
    "fedpeft": fedpeft,
    "flower": flower,
    "nvflare": nvflare,
    "pfl": pfl,
}


def turn(rounds: int, failed: dict[str, str]) -> dict[str, float]:
    """Run every side once; give the median seconds of a steady round."""
    found = {}
    for name in (name for name in SIDES if name not in failed):
        try:
            began = SIDES[name](rounds)
        except PeerError as error:
            failed[name] = str(error)
            continue
        if len(began) < rounds:
            raise RuntimeError(f"Expected {rounds} rounds of {name}, found {len(began)}.")
        found[name] = statistics.median(end - start for start, end in pairwise(began[1:]))
        print(f"    {name}: {found[name]:.4f} s a round", file=sys.stderr, flush=True)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Give minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def summed(turns: Sequence[dict[str, float]], failed: dict[str, str]) -> dict[str, Any]:
    """Put turns together: seconds of each side, and fedpeft's ratio to it."""
    sides = [name for name in SIDES if name not in failed]
    return {
        "clients": CLIENTS,
        "actors": ACTORS,
        "payload_bytes": 4 * VALUES,
        "seconds_per_round": {name: spread([one[name] for one in turns]) for name in sides},
        "fedpeft_over": {
            name: spread([one["fedpeft"] / one[name] for one in turns])
            for name in sides
            if name != "fedpeft"
        },
        "turns": list(turns),
        "failed": failed,
    }


def main() -> int:
    """Measure; fail where a round costs more than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=21, help="of which the first is left out")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES])
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    failed = {name: "not asked for" for name in SIDES if name not in asked.sides}
    turns = []
    for repeat in range(asked.repeats):
        print(f"turn {repeat + 1}", file=sys.stderr, flush=True)
        turns.append(turn(asked.rounds, failed))
    found = summed(turns, failed)
    print(json.dumps(found, indent=2))
    bounds = {"flower": {"most": MOST}, "nvflare": {"most": 1.0}}
    ratios = [
        Ratio(
            what=f"seconds of an empty round, fedpeft to {name}",
            values=tuple(one["fedpeft"] / one[name] for one in turns),
            **bounds.get(name, {}),
        )
        for name in found["fedpeft_over"]
    ]
    write(asked.out, ratios, found)
    return int(not all(ratio.holds for ratio in ratios))


if __name__ == "__main__":
    sys.exit(main())
