"""What keeping a run costs: seconds a round for journal, checkpoint and pruning, in the demo.

python benchmarks/checkpoints.py [--recipe recipes/demo.toml] [KEY=VALUE ...]

Runs the recipe once, then saves the checkpoint of its last round again and again into the run's
own folder, as the recorder does after every round, and compares with the time from one round's end
to the next.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from fedpeft_app.observe.journal import Journal
from fedpeft_app.runs.checkpoint import kept_rounds, load_checkpoint, prune, save_checkpoint
from fedpeft_app.runs.directory import RunFolder

REPEATS = 30
FEDPEFT = str(Path(sys.executable).with_name("fedpeft"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="recipes/demo.toml")
    parser.add_argument("settings", nargs="*")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.home()) as parent:  # not in memory, as /tmp may be
        command = [FEDPEFT, "run", "--recipe", asked.recipe, f"output.dir={parent}"]
        subprocess.run([*command, *asked.settings], check=True, stdout=subprocess.DEVNULL)
        folder = RunFolder(path=next(Path(parent).glob("*/journal.jsonl")).parent)
        rounds, costs = seconds_between_rounds(folder), seconds_to_keep(folder)
        size = max(path.stat().st_size for path in folder.checkpoints.iterdir())
    typical, cost = statistics.median(rounds), statistics.median(costs)
    print(f"a round takes {typical:.2f} s; {size / 1024:.0f} KiB are kept of it")
    print(f"keeping it: {cost:.4f} s ({min(costs):.4f} to {max(costs):.4f})")
    print(f"{100 * cost / typical:.2f} % of a round ({100 * max(costs) / typical:.2f} % at most)")


def seconds_between_rounds(folder: RunFolder) -> list[float]:
    """Give the seconds from the end of one round to that of the next."""
    ends = [event["clock"] for event in folder.events() if event["event"] == "round_finished"]
    return [later - sooner for sooner, later in itertools.pairwise(ends)]


def seconds_to_keep(folder: RunFolder) -> list[float]:
    """Keep the last round again and again, journal line included."""
    last = load_checkpoint(folder, kept_rounds(folder)[-1])
    line = next(one for one in folder.events() if one["event"] == "round_finished")
    told = {key: value for key, value in line.items() if key not in ("event", "at", "clock")}
    costs = []
    with closing(Journal(folder.path / "again.jsonl")) as journal:
        for number in range(REPEATS):
            began = time.perf_counter()
            journal.note("round_finished", **told)
            journal.sync()
            save_checkpoint(folder, replace(last, round_number=last.round_number + 1 + number))
            prune(folder, set(kept_rounds(folder)[-2:]))
            costs.append(time.perf_counter() - began)
    return costs


if __name__ == "__main__":
    main()
