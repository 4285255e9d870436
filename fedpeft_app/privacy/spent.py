"""What one party has spent, counted from all that it did."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedpeft_app.privacy.accountant import epsilon
from fedpeft_app.privacy.events import Event, summed


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one party has spent, and on what.

    Attributes:
        epsilon: ε, given that nobody knows who or what was sampled.
        unamplified: ε without that.
        noise_multiplier: z, the least of all mechanisms.
        sampling: q, the largest.
        steps: How many mechanisms.
    """

    epsilon: float
    unamplified: float
    noise_multiplier: float
    sampling: float
    steps: int


def spent_by(events: Sequence[Event], delta: float) -> Spent:
    """Count events with and without amplification by sampling.

    Args:
        events: All that was done to one data set, at least one.
        delta: δ, in (0, 1).
    """
    done = summed(events)
    return Spent(
        epsilon=epsilon(events, delta),
        unamplified=epsilon(events, delta, amplified=False),
        noise_multiplier=done.noise_multiplier,
        sampling=done.sampling,
        steps=done.steps,
    )
