"""Does what `fedpeft plan` says come true? Bytes, memory, time and ε of runs beside their forecast.

`fedpeft plan --json` is asked first, then the run itself is started as a person would. Its bytes
and ε are the journal's; its memory is the most that each process had, its time that of the
command. Rows that are outside their bounds end it with status 1.

    python benchmarks/forecasts.py [--cpu] [--out FILE] [CASE ...]

Wall time means something on a quiet machine only. With --cpu, processor seconds of the clients'
processes stand for it, start and loading left out, and wall time is told but not judged.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).parents[1]
DEMO = ["--recipe", str(REPOSITORY / "recipes" / "demo.toml"), "--nodes", "10"]
SHORT = ["rounds=2", "data.max-examples=1500", "data.max-test-examples=500"]
CASES: dict[str, list[str]] = {
    "demo": [],
    "full": [*SHORT, "method.name=full"],
    # Shared out anew each time: activations that an earlier run left would make it faster.
    "head": [*SHORT, "method.name=head", f"seed={int(time.time()) % 10**6}"],
    "batch-64": [*SHORT, "train.batch-size=64"],
    "int8": [*SHORT, "wire.uplink=int8", "wire.downlink=int8"],
    "users": ["privacy.mode=user", "privacy.trust=server", "privacy.target-epsilon=8", *SHORT],
}
ROLES = {"flwr-simulation": "server", "ClientAppActor": "client"}
BOUNDS = {"memory": 0.2, "time": 0.3}
_BYTES = 3  # that numbers which Flower draws make a message longer or shorter
_POLL_S = 0.2


def fedpeft(*arguments: str) -> list[str]:
    """Write a command."""
    return [str(Path(sys.executable).with_name("fedpeft")), *arguments]


def planned(settings: list[str]) -> dict[str, Any]:
    """Ask for the forecast."""
    command = fedpeft("plan", *DEMO, "--json", *settings)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def ran(settings: list[str]) -> dict[str, Any]:
    """Run, and look at its processes; give its journal, seconds, and each role's peak and time."""
    with tempfile.TemporaryDirectory() as parent:
        began = time.perf_counter()
        command = fedpeft("run", *DEMO, f"output.dir={parent}", *settings)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        peaks: dict[int, tuple[str, int]] = {}
        spent: dict[int, float] = {}
        loaded: dict[int, float] = {}
        while process.poll() is None:
            training = any("round_started" in p.read_text() for p in Path(parent).glob("*/*.jsonl"))
            look(process.pid, peaks, spent)
            if not training:
                loaded = dict(spent)
            time.sleep(_POLL_S)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}.")
        journal = next(Path(parent).glob("*/journal.jsonl")).read_text(encoding="utf-8")
    clients = [pid for pid, (role, _) in peaks.items() if role == "client"]
    return {
        "seconds": seconds,
        "client": max(peaks[pid][1] for pid in clients),
        "server": max(peak for role, peak in peaks.values() if role == "server"),
        "clients_cpu_s": sum(spent[pid] - loaded.get(pid, 0.0) for pid in clients),
        "events": [json.loads(line) for line in journal.splitlines()],
    }


def look(root: int, peaks: dict[int, tuple[str, int]], spent: dict[int, float]) -> None:
    """Note the peak memory, in bytes, and the processor seconds of each process."""
    try:
        children = psutil.Process(root).children(recursive=True)
    except psutil.Error:
        return
    for child in children:
        try:
            line = " ".join(child.cmdline())
            role = next((role for word, role in ROLES.items() if word in line), "")
            if role:
                peaks[child.pid] = (role, resident_peak(child.pid))
                times = child.cpu_times()
                spent[child.pid] = times.user + times.system
        except (psutil.Error, OSError):
            continue


def resident_peak(pid: int) -> int:
    """Read a process's peak resident memory, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 2**10


def compared(said: dict[str, Any], fact: dict[str, Any], *, cpu: bool) -> list[dict[str, Any]]:
    """Put forecast and fact side by side."""
    end = next(one for one in fact["events"] if one["event"] == "run_finished")
    sent = said["bytes"]["run"]
    rows = []
    if "expected" in end:  # cohorts are secret, and so is what was sent
        rows += [
            row("bytes", f"{way}, expected", sent[way], end["expected"][way], 0.0)
            for way in ("up", "down")
        ]
    else:
        messages = sum(len(one["cohort"]) for one in said["bytes"]["rounds"])
        slack = _BYTES * (messages + len(said["examples"]))
        rows += [row("bytes", way, sent[way], end[way], slack / end[way]) for way in ("up", "down")]
        rows.append(row("bytes", "encoded states", sent["payload"], end["payload"], 0.0))
    for role in ("client", "server"):
        rows.append(row("memory", role, said["memory"][role], fact[role], BOUNDS["memory"]))
    took = said["time"]
    bound = None if cpu else BOUNDS["time"]
    rows.append(row("time", "seconds", took["total_s"], fact["seconds"], bound))
    bound = BOUNDS["time"] if cpu else None
    rows.append(row("time", "clients, CPU s", took["actors_cpu_s"], fact["clients_cpu_s"], bound))
    if said["privacy"]["mode"] != "none":
        told = [one for one in fact["events"] if one["event"] == "privacy_statement"][-1]
        epsilon = float(told["epsilon"])
        rows.append(row("privacy", "epsilon", said["privacy"]["epsilon"], epsilon, 0.0))
    return rows


def row(kind: str, what: str, said: float, fact: float, bound: float | None) -> dict[str, Any]:
    """Compare two numbers; without a bound they are told only."""
    off = said / fact - 1
    holds = bound is None or abs(off) <= bound + 1e-9
    return {"of": kind, "what": what, "forecast": said, "fact": fact, "off": off, "holds": holds}


def show(case: str, rows: list[dict[str, Any]], console: Console) -> None:
    """Print a table."""
    table = Table("of", "what", "forecast", "fact", "off", title=case)
    for one in rows:
        numbers = (
            f"{one[key]:,.4g}" if one[key] < 1e4 else f"{one[key]:,.0f}"
            for key in ("forecast", "fact")
        )
        mark = "" if one["holds"] else " !"
        table.add_row(one["of"], one["what"], *numbers, f"{one['off']:+.2%}{mark}")
    console.print(table)


def main() -> int:
    """Compare; fail where a forecast is outside its bounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    asked = parser.parse_args()
    found = {}
    for case in asked.cases or CASES:
        said = planned(CASES[case])
        found[case] = compared(said, ran(CASES[case]), cpu=asked.cpu)
        show(case, found[case], Console())
        if asked.out:
            asked.out.write_text(f"{json.dumps(found, indent=2)}\n", encoding="utf-8")
    rows = [one for case in found.values() for one in case]
    off = statistics.median(abs(one["off"]) for one in rows)
    Console().print(f"{len(rows)} forecasts; half are within {off:.2%} of the fact")
    return int(not all(one["holds"] for one in rows))


if __name__ == "__main__":
    sys.exit(main())
