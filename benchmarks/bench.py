"""All measurements that fit into 20 minutes, one after the other: `make bench`.

    python benchmarks/bench.py [--quick] [--only PART ...] [--to DIR]

Writes DIR/DATETIME.json (machine, versions, commit, every figure) and DIR/DATETIME.md, the table.
Each part is a benchmark of its own, which says what it compares; ratios are of two sides that took
turns, so that they say more than seconds do (start-up alone is seconds). Other work on the machine
spoils them all the same: the load is noted before and after. Ends with status 1 if a part fails,
or a figure is not what it must be.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ratios import COLUMNS, Ratio, read
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
PARTS = {  # file → its arguments, and those of a quick look
    "startup": ("--repeats 3", "--repeats 1"),
    "end_to_end": ("--documents 80", "--documents 32 --repeats 1 --only last2"),
    "federation_overhead": ("--examples 1000", "--examples 400 --repeats 1"),
    "round_overhead": ("--rounds 9", "--repeats 1 --rounds 9 --sides fedpeft flower"),
    "frozen_layers": ("--documents 240", "--documents 96 --repeats 1"),
    "privacy_overhead": ("--repeats 3 --examples 240", "--repeats 1 --examples 96"),
    "fold": ("--repeats 3 --replies 500", "--repeats 1 --replies 200"),
}
PACKAGES = ("fedpeft", "flwr", "ray", "torch", "transformers", "peft", "opacus", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four minutes, and rough")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--to", type=Path, default=HERE / "results")
    asked = parser.parse_args()
    told: dict[str, Any] = {"machine": machine(), "quick": asked.quick, "parts": {}}
    rows: list[Ratio] = []
    failed, began = [], time.monotonic()
    for part in asked.only:
        status, ratios, found = measured(part, PARTS[part][asked.quick].split())
        told["parts"][part] = found
        rows += ratios
        if status and (not ratios or all(ratio.holds for ratio in ratios)):
            failed.append(part)
    told["load after"] = os.getloadavg()[0]
    told["minutes"] = round((time.monotonic() - began) / 60, 1)
    save(asked.to, told, rows)
    show(rows)
    if failed:
        print(f"failed: {', '.join(failed)}")
    sys.exit(bool(failed) or not all(row.holds for row in rows))


def measured(part: str, arguments: list[str]) -> tuple[int, list[Ratio], dict[str, Any]]:
    """Run one benchmark; give its status, its ratios and all that it tells."""
    print(f"\n── {part} {' '.join(arguments)}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out.json"
        command = [sys.executable, str(HERE / f"{part}.py"), *arguments, "--out", str(out)]
        status = subprocess.run(command, check=False).returncode
        ratios, found = read(out) if out.exists() else ([], None)
    seconds = round(time.monotonic() - began)
    rows = [{"what": row.what, "values": row.values} for row in ratios]
    told = {"seconds": seconds, "status": status, "ratios": rows, "measured": found}
    return status, ratios, told


def machine() -> dict[str, Any]:
    """Say what it runs on."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": commit.stdout.strip() or "unknown",
        "load before": os.getloadavg()[0],
    }


def processor() -> str:
    """Name the processor, where Linux tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def save(folder: Path, told: dict[str, Any], rows: list[Ratio]) -> None:
    """Write what was measured, and its table."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{datetime.now(UTC):%Y-%m-%dT%H%M}{'-quick' if told['quick'] else ''}"
    (folder / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    facts = told["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    made_on = (
        f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}; {versions}; "
        f"commit {facts['commit']}; load {facts['load before']:.1f} before, "
        f"{told['load after']:.1f} after; {told['minutes']:g} minutes."
    )
    lines = [
        f"# {name}",
        "",
        made_on,
        "",
        f"| {' | '.join(COLUMNS)} |",
        "| --- | --: | --: | --: | --- |",
        *(f"| {' | '.join(row.cells())} |" for row in rows),
    ]
    (folder / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def show(rows: list[Ratio]) -> None:
    """Print the table."""
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row.cells(), style="" if row.holds else "red")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
