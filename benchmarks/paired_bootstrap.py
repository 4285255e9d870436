"""Is a row of a study worse than its baseline? The mean difference, with two intervals over seeds.

    python benchmarks/paired_bootstrap.py RESULTS BASELINE [--metric accuracy]

RESULTS is a folder that `fedpeft study` wrote, BASELINE one of its rows. Values are paired by seed
and column. Student's interval, which the study's own table has, assumes normal values; the
bootstrap (Efron 1979; percentiles) assumes nothing, and with three seeds reaches from the least
difference to the greatest, so it calls more differences significant.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import bootstrap

from fedpeft_app.studies.intervals import paired

Values = dict[tuple[str, str], dict[int, float]]  # (column, row) → seed → value


def measured(results: Path, metric: str) -> Values:
    """Read the finished runs of a study; those that tuned it are left out."""
    values: Values = defaultdict(dict)
    for path in sorted(results.glob("cells/*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        tuning = cell["name"].startswith("tuning ")
        if cell["status"] != "finished" or tuning:
            continue
        row, _, rest = cell["name"].rpartition(f", seed {cell['seed']}")[0].partition(" / ")
        values[rest, row][cell["seed"]] = cell["measured"]["test"][metric]
    return values


def resampled(values: Mapping[int, float], baseline: Mapping[int, float]) -> tuple[float, float]:
    """Give the bootstrap's 95 % interval of the mean difference over the seeds of both."""
    gaps = np.array([values[seed] - baseline[seed] for seed in values if seed in baseline])
    if np.ptp(gaps) == 0:
        return float(gaps[0]), float(gaps[0])
    found = bootstrap((gaps,), np.mean, method="percentile", rng=0).confidence_interval
    return float(found.low), float(found.high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("baseline")
    parser.add_argument("--metric", default="accuracy")
    asked = parser.parse_args()
    values = measured(asked.results, asked.metric)
    table = Table("column", "row", "seeds", "difference", "Student, 95 %", "bootstrap, 95 %")
    for (column, row), found in sorted(values.items()):
        against = values.get((column, asked.baseline), {})
        gap = paired(found, against)
        if row == asked.baseline or gap is None:
            continue
        low, high = resampled(found, against)
        sure = "" if low <= 0 <= high else " *"
        width = "–" if gap.half_width is None else f"± {gap.half_width:.4f}"
        spread = f"{low:+.4f} … {high:+.4f}{sure}"
        table.add_row(column, row, str(gap.count), f"{gap.mean:+.4f}", width, spread)
    Console(width=110).print(table)
    print("* = the bootstrap's interval leaves 0 out")


if __name__ == "__main__":
    main()
