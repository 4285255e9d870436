"""kill -9 of one process at random points of a run: does what is promised hold every time?

python benchmarks/kills.py [--victim server] [--kills 20] [--seed 0] [--private] [--tiny]
    [KEY=VALUE ...]

One run is left alone. In each of the others one process is killed at a random moment after its roll
call: after so many rounds and a part of the next. What must hold depends on the victim:

server, superlink      of a simulation. `fedpeft run` ends with a status that is not 0, leaves no
                       process behind, and `fedpeft run --resume` ends with the adapter's bits, the
                       journal's rounds and the bytes of the run left alone. With `--private`
                       (DP-SGD on nodes) each node's epsilon is never less.
actor                  a Ray actor of a simulation. The run ends well, with all rounds, and has lost
                       one reply at most; if none, it has the bits of the run left alone.
supernode              of a federation on loopback, with TLS; it comes back after a while, or not.
                       The run ends well, with all rounds; no other node fails, every round that
                       went on without the node says so, and once it is back it takes part. If no
                       reply was lost, the run has the bits of the one left alone.
deployment-superlink   of such a federation; it is started again on its database. The run ends with
                       a status that is not 0, and `resume` brings it to the bits of the one left
                       alone.

Runs through Flower and Ray: LoRA of MiniLM on documents of Reuters R8, or (`--tiny`) of a BERT of
two layers on a made-up data set, where processes start and wait more than they train.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Protocol

from killed_deployments import Deployments
from killed_simulations import Simulations
from long_run import tiny
from run_records import Struck

ROUNDS = 5
SETTINGS = (
    f"rounds={ROUNDS}",
    "data.max-examples=400",
    "data.max-length=32",
    "data.max-test-examples=200",
    "strategy.fraction-train=0.5",
    "evaluate.test=end",
)
PRIVATE = (
    "privacy.mode=sample",
    "privacy.noise-multiplier=1.0",
    "strategy.fraction-train=1.0",
    "data.partitioner=iid",
)
SIMULATED = ("server", "superlink", "actor")
DEPLOYED = ("supernode", "deployment-superlink")


class Runs(Protocol):
    """Runs of which one process is killed each."""

    def leave_alone(self) -> None:
        """Let a run end."""
        ...

    def strike(self, number: int, draw: random.Random) -> Struck:
        """Kill once, and see what comes of it."""
        ...

    def end(self) -> None:
        """Leave nothing behind."""
        ...


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--victim", choices=[*SIMULATED, *DEPLOYED], default="server")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--private", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_args()
    if asked.private and asked.victim not in ("server", "superlink"):
        parser.error("--private is for --victim server and superlink")
    with tempfile.TemporaryDirectory() as scratch:
        settings = [*SETTINGS, *(tiny(Path(scratch)) if asked.tiny else ())]
        settings += [*(PRIVATE if asked.private else ()), *asked.settings]
        runs = runs_of(asked, Path(scratch), settings)
        try:
            wrong = wrong_ones(runs, asked.kills, random.Random(asked.seed))
        finally:
            runs.end()
    print(f"{asked.kills - wrong} of {asked.kills} ended as they should")
    sys.exit(bool(wrong))


def runs_of(asked: argparse.Namespace, scratch: Path, settings: list[str]) -> Runs:
    """Make what runs and kills."""
    if asked.victim in DEPLOYED:
        return Deployments(scratch, asked.victim, settings, ROUNDS)
    return Simulations(scratch, asked.victim, settings, ROUNDS, private=asked.private)


def wrong_ones(runs: Runs, kills: int, draw: random.Random) -> int:
    """Kill again and again; give how many runs did not end as they should."""
    runs.leave_alone()
    done = wrong = started = 0
    while done < kills:
        started += 1
        struck = runs.strike(started, draw)
        done += not struck.late
        wrong += bool(struck.problems)
        verdict = "; ".join(struck.problems) or "as it should"
        print(f"run {started}, kill {done}: {struck.what}: {verdict}", flush=True)
    return wrong


if __name__ == "__main__":
    main()
