"""The audit itself: by hand, and whom it accuses."""

import numpy as np
import pytest
from audits import NOISE, Adversary, Games, audit, lower_bound

from fedpeft_app.privacy.events import Event

GAUSSIAN = Event(noise_multiplier=NOISE, sampling=1.0, steps=1)
GAMES = 2000


def test_a_bound_by_hand() -> None:
    # 100 of 100 right, no false alarm. 0.01 = 0.9550^100, so at least 95.50 % of all would be
    # right, and 4.50 % at most an alarm: ln((0.9550 − 0.01) / 0.0450) = ln 21.0.
    found = lower_bound(np.ones(100, bool), np.zeros(100, bool), 0.01)
    assert found == pytest.approx(np.log(21.0), abs=2e-3)


@pytest.mark.parametrize(("right", "alarms"), [(50, 50), (0, 0), (0, 100), (100, 100), (40, 60)])
def test_guesses_bound_nothing(right: int, alarms: int) -> None:
    assert lower_bound(np.arange(100) < right, np.arange(100) < alarms, 0.01) == 0.0


def test_a_score_by_hand() -> None:
    # A release of 1.5 at noise 2 is e^((1.5 − 0.5) / 4) times as likely with the canary; one of
    # 0.5 no more likely. Half the time the canary is not drawn.
    found = Adversary(noise=2.0, drawn=0.5).scores(np.array([[1.5, 0.5], [0.5, 0.5]]))
    assert found == pytest.approx([np.log(0.5 + 0.5 * np.exp(0.25)), 0.0])


def exact(generator: np.random.Generator, noise: float) -> Games:
    """The Gaussian mechanism, as it claims or not."""
    there = np.arange(GAMES) % 2 == 0
    releases = there[:, None] + noise * generator.standard_normal((GAMES, 1))
    return Games(there=there, releases=releases, events=[GAUSSIAN])


def bounds(noise: float) -> np.ndarray:
    generator = np.random.default_rng(0)
    adversary = Adversary(noise=noise, drawn=1.0)
    return np.array([audit(exact(generator, noise), adversary) for _ in range(1000)])


def test_who_keeps_the_promise_is_accused_once_in_a_thousand_audits() -> None:
    claim = exact(np.random.default_rng(0), NOISE).claim
    assert claim == pytest.approx(2.318, abs=1e-3)  # e^ε Φ(−ε − ½) = Φ(½ − ε) − 0.01
    found = bounds(NOISE)
    assert (found > claim).sum() <= 4  # of one at most; more happen once in 270
    assert np.median(found) > 0.4 * claim


def test_who_breaks_it_is_mostly_accused() -> None:
    claim = exact(np.random.default_rng(0), NOISE).claim
    assert (bounds(NOISE / 2) > claim).mean() > 0.8
