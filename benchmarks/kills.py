"""kill -9 of the server's process at random points of a run: does every resume end the same?

python benchmarks/kills.py [--kills 20] [--seed 0] [--private] [KEY=VALUE ...]

One run is left alone. Each of the others is killed at a random moment after its roll call, resumed
with `fedpeft run --resume`, and compared with it: the adapter's bits (without privacy), the
journal's rounds, the bytes of every round; with `--private` (DP-SGD on nodes) each node's epsilon,
which is never less, and equal as long as the node kept its reply. Runs through Flower and Ray.
"""

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from fedpeft_app.runs.checkpoint import load_checkpoint
from fedpeft_app.runs.directory import RunFolder

FEDPEFT = str(Path(sys.executable).with_name("fedpeft"))
ROUNDS = 5
_TIMINGS = 16  # bytes by which numbers of seconds, as protocol buffers, may differ
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--private", action="store_true")
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_args()
    settings = [*SETTINGS, *(PRIVATE if asked.private else ()), *asked.settings]
    draw = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole, seconds = run(Path(scratch) / "whole", settings, asked.nodes)
        print(f"left alone: {seconds:.1f} s from roll call to end", flush=True)
        wrong = 0
        for number in range(1, asked.kills + 1):
            after_s = draw.uniform(0.0, seconds)
            folder = killed(Path(scratch) / str(number), settings, asked.nodes, after_s)
            rounds = len(ended(folder))
            resume(folder)
            problems = differences(whole, folder, private=asked.private)
            wrong += bool(problems)
            print(
                f"kill {number} after {after_s:.2f} s, {rounds} rounds: "
                f"{'; '.join(problems) or 'the same'}",
                flush=True,
            )
    print(f"{asked.kills - wrong} of {asked.kills} ended the same")
    sys.exit(bool(wrong))


def run(parent: Path, settings: list[str], nodes: int) -> tuple[RunFolder, float]:
    """Let a run end; give the seconds from its roll call."""
    process = start(parent, settings, nodes)
    folder = wait_for(lambda: found(parent), process)
    wait_for(lambda: has(folder, "roll_call"), process)
    began = time.monotonic()
    if process.wait() != 0:
        sys.exit(f"a run that nobody killed ended with {process.returncode}")
    return folder, time.monotonic() - began


def killed(parent: Path, settings: list[str], nodes: int, after_s: float) -> RunFolder:
    """Kill a run's server so many seconds after its roll call."""
    process = start(parent, settings, nodes)
    folder = wait_for(lambda: found(parent), process)
    wait_for(lambda: has(folder, "roll_call"), process)
    time.sleep(after_s)
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # one that has just ended
            if any("flwr-simulation" in part for part in child.cmdline()):
                child.kill()
    if process.wait() == 0 and not has(folder, "run_finished"):
        sys.exit("a run that was killed ended with 0")
    return folder


def resume(folder: RunFolder) -> None:
    """Go on with a run."""
    command = [FEDPEFT, "run", "--resume", str(folder.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"the resumed run ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def start(parent: Path, settings: list[str], nodes: int) -> "subprocess.Popen[bytes]":
    """Start a run."""
    command = [FEDPEFT, "run", "--nodes", str(nodes), f"output.dir={parent}", *settings]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def found(parent: Path) -> RunFolder | None:
    """Find the one run in a folder, once it is there."""
    paths = [path.parent for path in parent.glob("*/journal.jsonl")]
    return RunFolder(path=paths[0]) if paths else None


def has(folder: RunFolder, event: str) -> bool:
    """Say whether a journal has an event."""
    return any(one["event"] == event for one in folder.events())


def wait_for(look: Callable[[], Any], process: "subprocess.Popen[bytes]") -> Any:
    """Wait until something is there."""
    while not (seen := look()):
        if process.poll() is not None:
            sys.exit(f"a run ended too early, with {process.returncode}")
        time.sleep(0.02)
    return seen


def ended(folder: RunFolder) -> list[dict[str, Any]]:
    """Give the rounds that ended."""
    return [event for event in folder.events() if event["event"] == "round_finished"]


def differences(whole: RunFolder, folder: RunFolder, *, private: bool) -> list[str]:
    """Say in what a run that was killed differs from one that was not."""
    problems = []
    numbers = [event["round"] for event in ended(folder)]
    if numbers != list(range(1, ROUNDS + 1)):
        problems.append(f"the journal has rounds {numbers}")
    states = [load_checkpoint(one, ROUNDS).state.vector.tobytes() for one in (whole, folder)]
    if not private and states[0] != states[1]:
        problems.append("the adapter has other bits")
    for ours, theirs in zip(ended(folder), ended(whole), strict=False):
        if not private and not same_bytes(ours["bytes_by_node"], theirs["bytes_by_node"]):
            problems.append(f"round {ours['round']} counts other bytes")
    if private:
        spent = [last_statement(one)["nodes"] for one in (whole, folder)]
        less = [node for node, epsilon in spent[0].items() if spent[1].get(node, 0.0) < epsilon]
        more = [node for node, epsilon in spent[0].items() if spent[1].get(node, 0.0) > epsilon]
        if less:
            problems.append(f"epsilon of nodes {less} is too small")
        if more:
            print(f"  epsilon of nodes {more} is larger: they trained a round twice", flush=True)
    return problems


def last_statement(folder: RunFolder) -> dict[str, Any]:
    """Give what a run says of privacy at its end."""
    return [event for event in folder.events() if event["event"] == "privacy_statement"][-1]


def same_bytes(ours: dict[str, dict[str, int]], theirs: dict[str, dict[str, int]]) -> bool:
    """Compare a round's bytes: those of payloads exactly; around them messages carry timings."""
    return ours.keys() == theirs.keys() and all(
        abs(ours[node][way] - size) <= (0 if way == "payload" else _TIMINGS)
        for node, of in theirs.items()
        for way, size in of.items()
    )


if __name__ == "__main__":
    main()
