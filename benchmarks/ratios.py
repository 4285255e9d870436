"""What a benchmark tells of itself: ratios of two sides in the same turn, and what they must be."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One comparison.

    Attributes:
        what: Our side and what is counted of it, and the other side.
        values: A ratio for each turn, ours to the other's.
        least: What the median must be at least; 0 = nothing is asked.
        most: What it may be at most; 0 = nothing is asked.
    """

    what: str
    values: tuple[float, ...]
    least: float = 0.0
    most: float = 0.0

    @property
    def median(self) -> float:
        """The middle ratio."""
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        """Whether it is as it must be."""
        return self.median >= self.least and (not self.most or self.median <= self.most)

    @property
    def asked(self) -> str:
        """What it must be, in words."""
        sides = [("≥", self.least), ("≤", self.most)]
        return ", ".join(f"{sign} {bound:g}" for sign, bound in sides if bound)

    def cells(self) -> list[str]:
        """Give a row of a table."""
        spread = f"{min(self.values):.2f} … {max(self.values):.2f}"
        return [self.what, f"{self.median:.2f}", spread, str(len(self.values)), self.asked or "–"]


COLUMNS = ("what", "median", "min … max", "turns", "must be")


def write(path: Path | None, ratios: Sequence[Ratio], measured: Any) -> None:
    """Write what was measured as JSON.

    Args:
        path: Where to; None = nowhere.
        ratios: The comparisons.
        measured: All that they came from.
    """
    if path:
        told = {"ratios": [asdict(ratio) for ratio in ratios], "measured": measured}
        path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> tuple[list[Ratio], Any]:
    """Read what `write` wrote."""
    told = json.loads(path.read_text(encoding="utf-8"))
    rows = [Ratio(**{**row, "values": tuple(row["values"])}) for row in told["ratios"]]
    return rows, told["measured"]
