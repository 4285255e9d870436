"""Cohorts as a function of (seed, round, who is there)."""

from collections.abc import Sequence

import numpy as np

from fedpeft_app.seeds import numpy_generator
from fedpeft_app.strategies.strategy import Member


def sample_cohort(
    members: Sequence[Member],
    *,
    fraction: float,
    minimum: int,
    seed: int,
    round_number: int,
    purpose: str = "cohort",
) -> list[Member]:
    """Draw a round's cohort uniformly, without replacement.

    Args:
        members: Everyone who passed the roll call.
        fraction: Share to draw, in (0, 1]; rounded to the nearest count.
        minimum: Fewest to draw, as far as there are that many.
        seed: The run's seed.
        round_number: Round, from 1.
        purpose: Names the use, so that training and evaluation cohorts differ.

    Returns:
        The cohort, by partition.

    Guarantee:
        Depends on partitions only, not on Flower's random node ids.
    """
    ordered = sorted(members, key=lambda member: member.partition)
    count = min(len(ordered), max(minimum, round(fraction * len(ordered))))
    generator = numpy_generator(seed, purpose, round_number=round_number)
    chosen = np.sort(generator.choice(len(ordered), size=count, replace=False))
    return [ordered[index] for index in chosen]
