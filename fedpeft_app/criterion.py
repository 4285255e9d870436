"""What chooses one state among several: a metric, and among equals the loss."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

Rating = tuple[float, float]  # of two, the better state has the greater one
UNRATED: Rating = (-math.inf, -math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One metric to go by.

    Attributes:
        metric: Its name, such as "accuracy".
        lower_is_better: Whether less of it is better.
    """

    metric: str
    lower_is_better: bool = False

    def rate(self, metrics: Mapping[str, float]) -> Rating:
        """Rate a state by what was measured on it.

        Args:
            metrics: Metric → value.

        Returns:
            The metric, its sign turned where less is better, then the negative loss.
            `UNRATED` where the metric is NaN, or was not measured: AUROC, for one, is
            undefined on data that lack a label.
        """
        value = float(metrics.get(self.metric, math.nan))
        if math.isnan(value):
            return UNRATED
        return (-value if self.lower_is_better else value, -metrics.get("loss", math.inf))
