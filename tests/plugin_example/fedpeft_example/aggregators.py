"""An aggregator: the point whose distances to all deltas have the smallest sum."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedpeft_app.strategies.aggregators import Deltas, MeanDelta, fold_mean

_NEAR = 2.0**-20  # of the largest distance: no delta that lies nearer counts for more


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricMedian:
    """Weiszfeld's iteration from the mean; weights that nodes state are ignored.

    Args:
        passes: Iterations, each of which decodes every delta once.

    Reference:
        Pillutla et al. 2019, arXiv 1912.13445, Algorithm 2 (RFA, the smoothed Weiszfeld step).
    """

    passes: int = 8
    needs_individual: ClassVar[bool] = True

    def __call__(self, deltas: Deltas) -> MeanDelta:
        """Fold the deltas of a round, holding one at a time."""
        centre = fold_mean(deltas, uniform=True)
        near = _NEAR * max(float(np.linalg.norm(delta - centre)) for delta, _ in deltas)
        for _ in range(self.passes if near else 0):  # 0 = all deltas are the same
            near_ones = ((d, 1 / max(near, float(np.linalg.norm(d - centre)))) for d, _ in deltas)
            centre = fold_mean(near_ones, uniform=False)
        return centre
