"""ε as a function of everything that happened: never added up, never of a part of it.

Privacy loss distributions of Google's dp-accounting, for one unit more or less. Nothing here has
a state: who asks hands over every event there was, so a count that starts anew with a round, a
process or a node cannot be written down.

References:
    Koskela et al. 2020, arXiv 1906.03049 (numerical composition).
    Doroshenko et al. 2022, arXiv 2207.04380 (a discretisation that is never too low).
"""

import functools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING

from fedpeft_app.errors import BudgetSpentError, PrivacyError
from fedpeft_app.privacy.events import Event

if TYPE_CHECKING:  # to import it takes a second, in every process of runs that are not private too
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

ACCOUNTANT = f"PLD of dp-accounting {version('dp-accounting')}, add/remove"

_FINEST = 1e-4  # of privacy loss: dp-accounting's own interval
_POINTS_OF_ONE, _POINTS_OF_ALL = 2**16, 5_000_000  # more buys a thousandth of ε, for seconds
_LARGEST = 1e6  # of privacy loss: no guarantee is left there, so that of full samples will do
_TAIL = 10  # standard deviations of noise; dp-accounting cuts off what has less mass than e⁻⁵⁰
_LEAST_NOISE, _MOST_NOISE = 1e-6, 1e8  # outside, exact formulas leave float64's range
_PER_UNIT = 1000  # noise multipliers are solved to three decimals
_ENOUGH = 10**6  # z of a mechanism that costs next to nothing
_STRETCH = 1.1  # how far a guess is mostly off

_Kinds = tuple[tuple[tuple[float, float], int], ...]  # ((z, q), steps), sorted


def epsilon(events: Iterable[Event], delta: float, *, amplified: bool = True) -> float:
    """Give ε of everything that happened to one data set.

    Args:
        events: All of it, in any order.
        delta: δ, in (0, 1).
        amplified: Whether samples were secret; if not, every mechanism counts as if it had seen
            all units (q = 1).

    Returns:
        ε ≥ 0; 0 where nothing happened, infinite where there was no noise.

    Raises:
        ValueError: If δ is out of its range.

    Guarantee:
        Never too low, but for rounding in float64: what is discretised or cut off counts as
        loss. Without sampling it is exact (Balle and Wang 2018, arXiv 1805.06530).
    """
    if not 0 < delta < 1:
        raise ValueError(f"Expected δ in (0, 1), got {delta}.")
    steps: dict[tuple[float, float], int] = {}
    for event in events:
        noise = min(event.noise_multiplier, _MOST_NOISE)
        kind = (noise, event.sampling if amplified else 1.0)
        steps[kind] = steps.get(kind, 0) + event.steps
    return _epsilon(tuple(sorted(steps.items())), delta)


def noise_multiplier(
    target: float, *, delta: float, sampling: float, steps: int, spent: Sequence[Event] = ()
) -> float:
    """Solve for the least noise that keeps to a target; takes a second or a few.

    Args:
        target: ε, in (0, inf).
        delta: δ, in (0, 1).
        sampling: q, in (0, 1].
        steps: All there can be, from 1: of a unit that is among those asked in every round.
        spent: What happened before.

    Returns:
        The least multiple z of 0.001 with which ε of everything is no more than the target.

    Raises:
        ValueError: If the target or δ is out of its range.
        BudgetSpentError: If no noise does: what was spent before is too much already.
        PrivacyError: If no noise does, though nothing was spent before.
    """
    if not 0 < target < math.inf:
        raise ValueError(f"Expected a target ε in (0, inf), got {target}.")

    def excess(thousandths: int) -> float:
        """Give ln(ε / target), above 0 where there is too little noise."""
        more = Event(noise_multiplier=thousandths / _PER_UNIT, sampling=sampling, steps=steps)
        return math.log(max(epsilon([*spent, more], delta), sys.float_info.min) / target)

    if (over := excess(_ENOUGH * _PER_UNIT)) > 0:
        if not spent:
            raise PrivacyError(
                f"Expected to stay within ε = {target:g} at δ = {delta:g}, but with z = "
                f"{_ENOUGH:g}, next to nothing but noise, ε still counts as "
                f"{target * math.exp(over):.4g}. Raise the target, or privacy.delta."
            )
        raise BudgetSpentError(
            f"Expected to stay within ε = {target:g} at δ = {delta:g}, but "
            f"{epsilon(spent, delta):.4g} is spent already. Raise the target, or stop."
        )
    low = high = math.ceil(_guess(target, delta, sampling, steps) * _PER_UNIT)
    factor = _STRETCH
    while excess(high) > 0:
        low, high, factor = high, math.ceil(high * factor), factor**2
    while excess(low) <= 0:  # at 0 it is infinite
        low, high, factor = int(low / factor), low, factor**2
    return _first_within(excess, low, high) / _PER_UNIT


def _guess(target: float, delta: float, sampling: float, steps: int) -> float:
    """Guess a noise multiplier: q²·T·(e^(1/z²) − 1) = 2ρ, with ρ + 2·√(ρ·ln(1/δ)) = ε.

    References:
        Bu et al. 2019, arXiv 1911.11607 (the central limit of many mechanisms).
        Bun and Steinke 2016, arXiv 1605.02065, proposition 1.3 (ε of a Gaussian mechanism).
    """
    tail = -math.log(delta)
    rho = (math.sqrt(tail + target) - math.sqrt(tail)) ** 2
    return 1 / math.sqrt(math.log1p(2 * rho / sampling**2 / steps))


def _first_within(excess: Callable[[int], float], low: int, high: int) -> int:
    """Find where a falling function stops being positive, between a place before and one after.

    By false position on a logarithmic scale, on which ε falls almost in a straight line. The
    value at the end that stays is halved, so that both ends move (the Illinois algorithm).
    """
    above, below = excess(low), excess(high)
    while high - low > 1:
        guess = round(low * (high / low) ** (above / (above - below))) if low else 1
        middle = min(max(guess, low + 1), high - 1)
        if (value := excess(middle)) > 0:
            low, above, below = middle, value, below / 2
        else:
            high, above, below = middle, above / 2, value
    return high


@lru_cache(maxsize=1024)  # nodes ask in every round, and mostly the same
def _epsilon(kinds: _Kinds, delta: float) -> float:
    """Give ε of so many mechanisms of each kind."""
    if not kinds:
        return 0.0
    interval = _interval(kinds)
    if interval is None or all(sampling == 1 for (_, sampling), _ in kinds):
        return _unsampled(kinds, delta)
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

    losses = [_losses(*kind, steps, interval) for kind, steps in kinds]
    together = functools.reduce(PrivacyLossDistribution.compose, losses)
    return float(together.get_epsilon_for_delta(delta))


def _losses(
    noise: float, sampling: float, steps: int, interval: float
) -> "PrivacyLossDistribution":
    """Give the distribution of the privacy loss of so many mechanisms of one kind."""
    if sampling == 1:
        return _loss(noise / math.sqrt(steps), 1.0, interval)
    return _loss(noise, sampling, interval).self_compose(steps)


@lru_cache(maxsize=64)  # takes most of the time, and is the same after every round
def _loss(noise: float, sampling: float, interval: float) -> "PrivacyLossDistribution":
    """Give the distribution of the privacy loss of one mechanism, adding or removing a unit."""
    from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism

    return from_gaussian_mechanism(
        noise, sampling_prob=sampling, value_discretization_interval=interval
    )


def _unsampled(kinds: _Kinds, delta: float) -> float:
    """Give ε as if every sample were full: all together are one mechanism, with 1/z² = Σ 1/z²."""
    if any(noise < _LEAST_NOISE for (noise, _), _ in kinds):
        return math.inf
    together = sum(steps / noise**2 for (noise, _), steps in kinds) ** -0.5
    if together < _LEAST_NOISE:
        return math.inf
    from dp_accounting import get_epsilon_gaussian

    return float(get_epsilon_gaussian(together, delta))


def _interval(kinds: _Kinds) -> float | None:
    """Choose how finely loss is discretised; None where there is too much of it to care.

    One mechanism loses up to 1/2z² and some deviations of 1/z. All together lose about what a
    single one with 1/z² = Σ q²·(e^(1/z²) − 1) would, and no more than without sampling.

    Reference:
        Bu et al. 2019, arXiv 1911.11607 (the central limit of many mechanisms).
    """
    if min(noise for (noise, _), _ in kinds) < _LEAST_NOISE:
        return None
    one, together = 0.0, 0.0
    for (noise, sampling), steps in kinds:
        precision = noise**-2
        limit = sampling**2 * math.expm1(min(precision, 700))  # e⁷⁰⁹ is the largest float
        together += steps * min(precision, limit)
        one = max(one, precision / 2 + _TAIL * math.sqrt(precision))
    whole = together / 2 + _TAIL * math.sqrt(together)
    if max(one, whole) > _LARGEST:
        return None
    return max(_FINEST, one / _POINTS_OF_ONE, whole / _POINTS_OF_ALL)
