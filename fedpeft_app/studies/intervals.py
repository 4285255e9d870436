"""Means over seeds and how sure they are.

Reference:
    Student 1908, The probable error of a mean: the mean of n normal values is within
    t(n − 1)·s/√n of the true one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with its 95 % interval.

    Attributes:
        mean: Mean of the values.
        half_width: The interval is mean ± this; None for a single value, which says nothing
            about how values spread.
        count: Values, from 1.
    """

    mean: float
    half_width: float | None
    count: int


def interval(values: Sequence[float]) -> Interval | None:
    """Give the mean and its two-sided t-interval, which assumes normal values.

    Args:
        values: One per seed.

    Returns:
        The interval; None if there is no value, NaN if one is not finite.
    """
    count = len(values)
    if not count:
        return None
    mean = math.fsum(values) / count if all(map(math.isfinite, values)) else math.nan
    if count == 1:
        return Interval(mean=mean, half_width=None, count=1)
    from scipy.special import stdtrit  # the inverse of Student's t; half a second to import

    spread = math.hypot(*sorted(value - mean for value in values))  # squares of e^700 are no floats
    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    half_width = quantile * spread / math.sqrt((count - 1) * count)
    return Interval(mean=mean, half_width=half_width, count=count)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Interval | None:
    """Give the interval of the differences, seed by seed: what seeds share cancels out.

    Args:
        values: Seed → value.
        baseline: Seed → value of what is compared with.

    Returns:
        The interval of values − baseline over the seeds that both have; None if there is none.
    """
    return interval([values[seed] - baseline[seed] for seed in values if seed in baseline])
