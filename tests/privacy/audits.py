"""What someone finds out who sees all that a mechanism releases: a lower bound on its ε.

In each game a canary is there by the toss of a coin, and whoever sees the releases is to tell
whether it was. How often that goes right bounds ε from below, whatever the mechanism claims.

References:
    Kairouz et al. 2015, arXiv 1311.0776, theorem 2.1 (what ε and δ leave to any test).
    Nasr et al. 2021, arXiv 2101.04535 (gradients as canaries, Clopper and Pearson's intervals).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv

from fedpeft_app.privacy.accountant import epsilon
from fedpeft_app.privacy.events import Event

CONFIDENCE = 0.999
DELTA = 0.01  # no promise, but a point of ε(δ) that 10⁴ games can see: smaller ones take more
CANARIES, TURNS, STEPS = 512, 8, 16  # of a run: each step draws one canary in eight
RUNS, FEWER_RUNS = 80, 20  # 40,960 games, and a quarter of that where there is much to see
NOISE, CLIPPING = 1.0, 0.5  # z, C
SILENCE = 0.2  # noise where there is none: scores are as good as certain, and finite

_LINES = (0.5, 0.75, 1.0, 1.25, 1.5)  # shares of the claim: drawn before any game is played
_CERTAIN = 500.0  # a logarithm that leaves float64 room

# Who is there, `(canaries,)`, and the run's number → their releases, and what each game cost.
Play = Callable[[np.ndarray, int], tuple[np.ndarray, list[Event]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Games:
    """Games that were played, each with a canary of its own.

    All canaries of a run take part in it together, each in a direction of its own. The mechanism
    that is claimed draws lots and noise for each apart, so its games are independent, and it is
    accused wrongly no more often than stated. One that couples them is another one, and may be
    accused for that alone.

    Attributes:
        there: Whether the canary was there, `(games,)`.
        releases: What steps released along the canary's direction, `(games, steps)`; 1 is the
            most that clipping lets it contribute.
        events: What the mechanism says that each game cost.
    """

    there: np.ndarray
    releases: np.ndarray
    events: list[Event]

    @property
    def claim(self) -> float:
        """ε as the accountant has it."""
        return epsilon(self.events, DELTA)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adversary:
    """What someone knows who has read the mechanism's code.

    Attributes:
        noise: Standard deviation of the noise in releases; one, or one for each step.
        drawn: Probability that a canary is in the sample of a step; one, or `(games, steps)`.
        view: Makes of releases what is looked at.
    """

    noise: Any = NOISE
    drawn: Any = 1 / TURNS
    view: Callable[[np.ndarray], np.ndarray] = np.asarray

    def scores(self, releases: np.ndarray) -> np.ndarray:
        """Give ln(P[releases | there] / P[releases | not there]): no other score tells more.

        Args:
            releases: `(games, steps)`.

        Returns:
            `(games,)`.
        """
        likelier = (self.view(releases) - 0.5) / np.square(self.noise)  # if the canary is drawn
        return np.log1p(self.drawn * np.expm1(np.minimum(likelier, _CERTAIN))).sum(axis=1)


def played(play: Play, runs: int) -> Games:
    """Toss the coins and play, always the same games.

    Args:
        play: Runs the mechanism once.
        runs: How often.
    """
    coins = np.random.default_rng(0).random((runs, CANARIES)) < 0.5
    seen = [play(there, run) for run, there in enumerate(coins)]
    releases = np.concatenate([found for found, _ in seen])
    return Games(there=coins.ravel(), releases=releases, events=seen[0][1])


def audit(games: Games, adversary: Adversary) -> float:
    """Bound ε from below, with `CONFIDENCE`.

    Canaries whose scores are above a line are said to be there. The best of several lines is
    taken, so all their intervals must hold together. One line is the claimed ε: if the claim is
    tight, P[score > ε | there] − e^ε·P[score > ε | not there] is δ there, and below it elsewhere.

    Args:
        games: What was seen.
        adversary: Who looks at it.

    Returns:
        ε ≥ 0.
    """
    scores = adversary.scores(games.releases)
    wrong = (1 - CONFIDENCE) / (2 * len(_LINES))
    return max(
        lower_bound(scores[games.there] > line, scores[~games.there] > line, wrong)
        for line in (share * games.claim for share in _LINES)
    )


def lower_bound(right: np.ndarray, alarms: np.ndarray, wrong: float) -> float:
    """Bound ε from below by one test: P[yes | there] ≤ e^ε·P[yes | not there] + δ.

    Args:
        right: Whether the test said yes to canaries that were there, `(games,)`.
        alarms: Whether it did to those that were not, likewise.
        wrong: Probability that either of the two intervals may miss, in (0, 1).

    Returns:
        ε ≥ 0.
    """
    least = 1 - _most(~right, wrong)
    return math.log(max((least - DELTA) / _most(alarms, wrong), 1.0))


def _most(answers: np.ndarray, wrong: float) -> float:
    """Give Clopper and Pearson's upper limit of the probability of a yes."""
    yes, count = int(answers.sum()), len(answers)
    return 1.0 if yes == count else float(betaincinv(yes + 1, count - yes, 1 - wrong))


def in_turns(runs: int) -> Adversary:
    """Know that canaries take turns instead of being drawn by lot.

    Args:
        runs: How often the mechanism ran.
    """
    one = np.arange(CANARIES)[:, None] % TURNS == np.arange(STEPS) % TURNS
    return Adversary(drawn=np.tile(one, (runs, 1)).astype(float))


def without_what_repeats(releases: np.ndarray) -> np.ndarray:
    """Take off noise that is the same in all steps."""
    return releases - releases.min(axis=1, keepdims=True)
