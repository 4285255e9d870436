"""How long from the command to the first client's training? The demo, with warm caches.

`fedpeft run --recipe recipes/demo.toml --nodes 10` is started as a person would, and ended after
its first round. The first client trains where its reply came, less the seconds that it says its
training took: reading the order and sending the reply count as start-up. Where the time goes is
told by the journal and by the processes: when each began, and its CPU seconds up to then.

    python benchmarks/startup.py [--repeats 3] [--out FILE]

The first start fills the caches and does not count.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from ratios import Ratio, write

REPOSITORY = Path(__file__).parents[1]
MOST_S = 12.0
ROLES = {  # a word of the command line → what the process is
    "flower-superlink": "SuperLink",
    "flower-superexec": "SuperExec",
    "flwr-simulation": "server",
    "flwr run": "flwr run",
    "ClientAppActor": "actors",
    "ray": "Ray",
}


def start(runs: Path) -> dict[str, Any]:
    """Run the demo's first round; give seconds until it trained, and what was done until then."""
    command = [str(Path(sys.executable).with_name("fedpeft")), "run", "--nodes", "10"]
    command += ["--recipe", str(REPOSITORY / "recipes" / "demo.toml"), f"output.dir={runs}"]
    command += ["rounds=1", "train.max-steps=4", "evaluate.every=0"]
    began = time.time()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    stages: dict[str, float] = {}
    spent: dict[int, tuple[str, float]] = {}
    while process.poll() is None:
        training = any("round_started" in path.read_text() for path in runs.glob("*/journal.jsonl"))
        if not training:
            look(psutil.Process(process.pid), began, stages, spent)
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"The demo failed with exit status {process.returncode}.")
    journal = next(runs.glob("*/journal.jsonl")).read_text(encoding="utf-8")
    events = [json.loads(line) for line in journal.splitlines()]
    cpu: dict[str, float] = {}
    for role, seconds in spent.values():
        cpu[role] = round(cpu.get(role, 0.0) + seconds, 2)
    stages["roll call done"] = clock(next(e for e in events if e["event"] == "roll_call")) - began
    first = first_training(events) - began
    return {"seconds": first, "began_s": stages, "cpu_s": cpu}


def look(
    root: psutil.Process,
    began: float,
    stages: dict[str, float],
    spent: dict[int, tuple[str, float]],
) -> None:
    """Note which processes there are, since when, and the CPU seconds of each."""
    for process in [root, *root.children(recursive=True)]:
        try:
            line, times = " ".join(process.cmdline()), process.cpu_times()
            role = next((role for word, role in ROLES.items() if word in line), "launcher")
            stages.setdefault(role, round(process.create_time() - began, 2))
            spent[process.pid] = (role, times.user + times.system)
        except psutil.Error:
            continue


def first_training(events: list[dict[str, Any]]) -> float:
    """Give the time at which the first client began to train, in seconds of the Unix epoch."""
    nodes = next(event for event in events if event["event"] == "round_finished")["nodes"]
    replies = [event for event in events if event["event"] == "reply"]
    return min(clock(reply) - nodes[str(reply["node"])]["seconds"] for reply in replies)


def clock(event: dict[str, Any]) -> float:
    """Give an event's time, in seconds of the Unix epoch."""
    return datetime.fromisoformat(event["at"]).timestamp()


def main() -> int:
    """Measure; fail where it takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    starts = []
    for repeat in range(asked.repeats + 1):
        with tempfile.TemporaryDirectory() as runs:
            found = start(Path(runs))
        print(f"start {repeat}: {found['seconds']:.1f} s", file=sys.stderr, flush=True)
        starts.append(found)
    warm = Ratio(
        what="seconds from the command to the first client's training",
        values=tuple(one["seconds"] for one in starts[1:]),
        most=MOST_S,
    )
    print(json.dumps(starts, indent=2))
    write(asked.out, [warm], starts)
    return int(not warm.holds)


if __name__ == "__main__":
    sys.exit(main())
