"""Axes: where a value lies between the ends of a chart, and which values are written there."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedpeft_app.observe.report.figures import Form

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # what a reader counts by
_BINARY_STEPS = (  # of a unit, on a logarithmic axis: the first that are dense enough
    (1, 10, 100),
    (1, 2, 5, 10, 20, 50, 100, 200, 500),
    (1, 1.5, *range(2, 10), *range(10, 40, 2), *range(40, 100, 5), *range(100, 1000, 50)),
)
_MOST_TICKS, _FEWEST_TICKS = 6, 3
_ROOM = 0.06  # of the span, beyond the outermost values
_ROUNDING = 1e-9  # of the values: means that are closer are the same
_APART = 0.6  # of a step, from the first round to the next one that is written
_KIB = 1024.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One direction of a chart.

    Attributes:
        low: The value at its beginning.
        high: The value at its end, more than `low`.
        ticks: Values that are written, rising.
        form: How to write them.
        log: Whether equal steps are equal factors.
    """

    low: float
    high: float
    ticks: Sequence[float]
    form: Form
    log: bool = False

    def share(self, value: float) -> float:
        """Say where a value lies: 0 at the beginning, 1 at the end.

        Args:
            value: Above 0 on a logarithmic axis.
        """
        low, high = _scaled(self.low, log=self.log), _scaled(self.high, log=self.log)
        return (_scaled(value, log=self.log) - low) / (high - low)


def rounds_axis(numbers: Iterable[float], form: Form) -> Axis:
    """Make an axis of whole numbers, without room beyond them.

    Args:
        numbers: Rounds, at least one.
        form: How to write them.
    """
    found = list(numbers)
    low, high = min(found), max(found)
    if low == high:
        return Axis(low=low - 1, high=high + 1, ticks=[low], form=form)
    step = max(1.0, _step(high - low, 10))
    first = math.ceil(low / step) * step
    others = [tick for tick in _walk(first, high, step) if tick - low > _APART * step]
    return Axis(low=low, high=high, ticks=[low, *others], form=form)


def value_axis(numbers: Iterable[float], form: Form, *, unit: float = 1.0) -> Axis:
    """Make an axis with some room beyond its values.

    Args:
        numbers: Values, at least one.
        form: How to write them.
        unit: What its ticks are whole steps of, such as a MiB.
    """
    found = [number / unit for number in numbers]
    least, most = min(found), max(found)
    span = (most - least) or abs(most) or 1.0
    low, high = least - _ROOM * span, most + _ROOM * span
    step = _step(high - low, _MOST_TICKS)
    ticks = [tick * unit for tick in _walk(math.ceil(low / step) * step, high, step)]
    return Axis(low=low * unit, high=high * unit, ticks=ticks, form=form)


def reach(means: Sequence[float], half_widths: Sequence[float]) -> tuple[float, float]:
    """Choose from where to where an axis of means shows their intervals.

    An interval of few seeds may be many times as wide as all means are apart, and then would
    leave nothing to be seen but itself. Here intervals have as much room above and below the
    means as these are apart, and are cut beyond; shares (all means in [0, 1]) also at 0 and 1.

    Args:
        means: Of the points, at least one.
        half_widths: Of their intervals, as many.
    """
    least, most = min(means), max(means)
    ends = [(mean - half, mean + half) for mean, half in zip(means, half_widths, strict=True)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    if (room := most - least) > abs(most) * _ROUNDING:
        low, high = max(low, least - room), min(high, most + room)
    if least >= 0 and most <= 1:
        low, high = max(low, 0.0), min(high, 1.0)
    return low, high


def bytes_axis(numbers: Iterable[float], form: Form) -> Axis:
    """Make an axis of bytes from 0 on, its ticks whole steps of a binary unit.

    Args:
        numbers: Bytes, at least one above 0.
        form: How to write them.
    """
    found = [0.0, *numbers]
    unit = _KIB ** max(0, math.floor(math.log(max(*found, 1.0), _KIB)))
    return value_axis(found, form, unit=unit)


def log_bytes_axis(numbers: Iterable[float], form: Form) -> Axis:
    """Make a logarithmic axis of bytes: 1, 10 and 100 of each binary unit, or what lies between.

    Args:
        numbers: Bytes above 0, at least one.
        form: How to write them.
    """
    found = list(numbers)
    room = (max(found) / min(found)) ** _ROOM
    low, high = min(found) / max(room, 1.5), max(found) * max(room, 1.5)
    ticks: list[float] = []
    for factors in _BINARY_STEPS:
        candidates = [factor * _KIB**power for power in range(6) for factor in factors]
        ticks = [tick for tick in candidates if low <= tick <= high]
        if len(ticks) >= _FEWEST_TICKS:
            break
    return Axis(low=low, high=high, ticks=ticks, form=form, log=True)


def _scaled(value: float, *, log: bool) -> float:
    """Put a value where equal steps are equal lengths."""
    return math.log(value) if log else value


def _step(span: float, most: int) -> float:
    """Choose the least step that makes no more than so many ticks."""
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(step * power for step in _STEPS if span / (step * power) <= most)


def _walk(first: float, last: float, step: float) -> list[float]:
    """Count from a tick to the last one."""
    count = math.floor((last - first) / step + 1e-9) + 1
    return [round(first + at * step, 12) for at in range(max(count, 0))]
