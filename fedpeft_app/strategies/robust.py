"""Aggregators that compare the deltas with one another, so that a few cannot lead them astray.

They lay the deltas side by side, the same coordinates of all in a table of at most 256 MiB.
Where that does not hold them all, there are more tables, one after the other, and every delta
is decoded again for each.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fedpeft_app.errors import QuorumError
from fedpeft_app.strategies.aggregators import Deltas, MeanDelta, fold_mean, require_fit
from fedpeft_app.strategies.ranges import require_count, require_number

_TABLE_BYTES = 2**28  # 223 deltas of 300,000 values
_WHOLE = 1e-9  # 0.28 · 25 is 7.000000000000001 in floating point, and means 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Median:
    """The median of each coordinate; of an even number, the middle between the middle two.

    Withstands attackers while they are fewer than half: then each coordinate lies between
    values of honest nodes. Ignores weights.

    Reference:
        Yin et al. 2018, arXiv 1803.01498, Definition 1.
    """

    needs_individual: ClassVar[bool] = True

    def __call__(self, deltas: Deltas) -> MeanDelta:
        """Fold the deltas; see `Aggregator`."""
        return _mean_of_middle(deltas, cut=_most_cut(deltas))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimmedMean:
    """The mean of each coordinate without its largest and its smallest values.

    Withstands the share `trim` of attackers, whatever the number n of deltas: where trim · n is
    not whole, the next larger number is cut off at each end. At least the median is left.
    Ignores weights.

    Args:
        trim: Share cut off at each end, in [0, 0.5); 0 is the uniform mean.

    Raises:
        ValueError: If it is out of its range.

    Reference:
        Yin et al. 2018, arXiv 1803.01498, Definition 2 (β; for β n that is whole).
    """

    trim: float
    needs_individual: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_number("trim", self.trim, 0, 0.5)

    def __call__(self, deltas: Deltas) -> MeanDelta:
        """Fold the deltas; see `Aggregator`."""
        share = math.ceil(self.trim * len(deltas) - _WHOLE)
        return _mean_of_middle(deltas, cut=min(share, _most_cut(deltas)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Krum:
    """The delta that is closest to its n − f − 2 nearest others, in squared distances summed.

    Withstands f attackers among n ≥ 2 f + 3. Ignores weights. Of equally close deltas it takes
    the first. Costs n² d / 2 operations.

    Args:
        byzantine: Number f of attackers to withstand, from 0.

    Raises:
        ValueError: If it is out of its range.

    Reference:
        Blanchard et al. 2017, arXiv 1703.02757, the Krum function.
    """

    byzantine: int
    needs_individual: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_count("byzantine", self.byzantine, 0)

    def __call__(self, deltas: Deltas) -> MeanDelta:
        """Fold the deltas; see `Aggregator`."""
        return _mean_of_closest(deltas, self.byzantine, keep=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiKrum:
    """The uniform mean of the deltas that Krum scores best.

    Args:
        byzantine: Number f of attackers to withstand, from 0.
        keep: Number m of deltas to average, from 1; a round must have m + f or more, as one
            of the attackers' would be among them otherwise.

    Raises:
        ValueError: If one is out of its range.

    Reference:
        Blanchard et al. 2017, arXiv 1703.02757, Multi-Krum.
    """

    byzantine: int
    keep: int
    needs_individual: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_count("byzantine", self.byzantine, 0)
        require_count("keep", self.keep, 1)

    def __call__(self, deltas: Deltas) -> MeanDelta:
        """Fold the deltas; see `Aggregator`."""
        return _mean_of_closest(deltas, self.byzantine, self.keep)


def _mean_of_middle(deltas: Deltas, cut: int) -> MeanDelta:
    """Average each coordinate without its `cut` smallest and largest values.

    Sorted, they are added in an order of their own: the same bits for any order of deltas.
    """
    means = []
    for table in _tables(deltas):
        table.sort(axis=0)
        means.append(table[cut : len(table) - cut].mean(axis=0, dtype=np.float64))
    return np.concatenate(means)


def _most_cut(deltas: Deltas) -> int:
    """Count how many can be cut off at each end so that one or two are left."""
    return (len(deltas) - 1) // 2


def _mean_of_closest(deltas: Deltas, byzantine: int, keep: int) -> MeanDelta:
    """Average the deltas with the best scores of Krum."""
    count, least = len(deltas), max(2 * byzantine + 3, byzantine + keep)
    if count < least:
        raise QuorumError(
            f"Expected at least {least} good replies for Krum to withstand {byzantine} attackers "
            f"and to keep {keep} of the others, got {count}. Lower byzantine or keep in "
            f"strategy.options, or raise strategy.min-replies."
        )
    distances = np.sort(_distances(deltas), axis=1)
    scores = distances[:, 1 : count - byzantine - 1].sum(axis=1)  # [:, 0] is the one to itself
    best = np.argsort(scores, kind="stable")[:keep]
    chosen = np.isin(np.arange(count), best)
    return fold_mean(itertools.compress(deltas, chosen), uniform=True)


def _distances(deltas: Deltas) -> npt.NDArray[np.float64]:
    """Give the squared distance of each to each, `(n, n)`.

    From differences, not from ‖a‖² + ‖b‖² − 2 a·b, which cancels where deltas are close.
    """
    count = len(deltas)
    squares = np.zeros((count, count))
    for table in _tables(deltas):
        for one, other in itertools.combinations(range(count), 2):
            gap = np.subtract(table[one], table[other], dtype=np.float64)
            squares[one, other] += gap @ gap
    return squares + squares.T


def _tables(deltas: Deltas) -> Iterator[npt.NDArray[np.float32]]:
    """Lay the deltas side by side, some coordinates after the other: `(n, ≤ width)` each.

    A table is overwritten by the next.
    """
    count = len(deltas)
    if not count:
        raise ValueError("Expected at least one delta to aggregate, got none.")
    size = next(iter(deltas))[0].size
    width = min(size, max(1, _TABLE_BYTES // (4 * count)))
    table = np.empty((count, width), dtype=np.float32)
    for start in range(0, size, width):
        part = table[:, : size - start]
        for row, (delta, weight) in zip(part, deltas, strict=True):
            require_fit(delta, weight, size)
            row[:] = delta[start : start + width]
        yield part
