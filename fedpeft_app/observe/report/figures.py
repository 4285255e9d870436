"""Numbers → text; what was not measured is a dash, never a number."""

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from fedpeft_app.observe.lines import human_bytes

ABSENT = "–"
Form = Callable[[float], str]


def shown(value: Any, form: Form) -> str:
    """Write a number, or that there is none.

    Args:
        value: What a journal has: a number, or null, or nothing.
        form: How to write it.
    """
    return form(value) if isinstance(value, int | float) and math.isfinite(value) else ABSENT


def metric(value: float) -> str:
    """Write a metric: four decimals, and a large or tiny one by its digits."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.4g}"


def whole(value: float) -> str:
    """Write a count."""
    return f"{value:,.0f}"


def times(value: float) -> str:
    """Write how many times fewer: 295 ×, 3.1 ×."""
    return f"{value:,.0f} ×" if value >= 10 else f"{value:.1f} ×"


def duration(seconds: float) -> str:
    """Write a span of time: 4.2 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def moment(stamp: Any) -> str:
    """Write a moment of the journal: 2026-01-31 09:05:00 UTC."""
    try:
        return f"{datetime.fromisoformat(str(stamp)):%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        return ABSENT


def plus_minus(mean: float | None, half_width: float | None, *, sign: str = "") -> str:
    """Write a mean with the half-width of its interval.

    Args:
        mean: None where nothing was measured.
        half_width: None where one run alone was.
        sign: "+" to write it always.
    """
    if mean is None or not math.isfinite(mean):
        return ABSENT
    return f"{mean:{sign}.4f}" + (f" ± {half_width:.4f}" if half_width is not None else "")


def listed(rounds: list[int]) -> str:
    """Write round numbers, neighbours together: 1–3, 5."""
    spans: list[list[int]] = []
    for number in sorted(set(rounds)):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}{ABSENT}{b}" for a, b in spans)


def both_ways(traffic: Mapping[str, float]) -> str:
    """Write bytes in both directions."""
    return f"{human_bytes(traffic['down'])} down, {human_bytes(traffic['up'])} up"
