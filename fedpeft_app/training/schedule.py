"""Learning-rate schedules over the whole run, not over one round."""

import math


def learning_rate_factor(schedule: str, progress: float, warmup: float) -> float:
    """Give the share of the peak learning rate at a point of the run.

    Args:
        schedule: "linear" (to 0), "cosine" (to 0) or "constant".
        progress: How much of the run is done, in [0, 1]: rounds, and steps within one.
        warmup: Share of the run in which the rate rises linearly from 0, in [0, 1).

    Returns:
        A factor in [0, 1].

    Raises:
        ValueError: If the schedule is unknown.
    """
    if progress < warmup:
        return progress / warmup
    done = (progress - warmup) / (1.0 - warmup)
    match schedule:
        case "linear":
            return 1.0 - done
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        case "constant":
            return 1.0
        case _:
            raise ValueError(f"Unknown schedule '{schedule}'. Known: linear, cosine, constant.")
