"""Randomness: its distributions, and that nobody can foretell or repeat it."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from fedpeft_app.privacy import randomness as room
from fedpeft_app.privacy.randomness import (
    Randomness,
    SeededRandomness,
    SystemRandomness,
    randomness,
)

MANY = 200_000
FAR = 6 / math.sqrt(MANY)  # a mean of so many is off by that once in 10⁹ runs
SOURCES = [SystemRandomness(), randomness(0, "test")]

both = pytest.mark.parametrize("source", SOURCES, ids=["system", "seeded"])


@both
def test_normal_numbers_have_the_moments_of_the_normal_distribution(source: Randomness) -> None:
    drawn = source.normal(MANY)
    assert drawn.dtype == np.float64
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(np.mean(drawn**power) - moment) < FAR * math.sqrt(variance)


@both
@pytest.mark.parametrize(
    ("draw", "law"),
    [
        (lambda source: source.normal(MANY), "norm"),
        (lambda source: source.uniform(MANY), "uniform"),
    ],
)
def test_numbers_follow_their_law(
    source: Randomness, draw: Callable[[Randomness], np.ndarray], law: str
) -> None:
    # By chance the statistic is beyond 3.3 / √n once in 10⁹ runs.
    assert scipy.stats.kstest(draw(source), law).statistic < 3.3 / math.sqrt(MANY)


@both
def test_tails_are_there(source: Randomness) -> None:
    drawn = np.abs(source.normal(MANY))
    expected = MANY * 2 * scipy.stats.norm.sf(3.5)  # 93
    assert abs(np.count_nonzero(drawn > 3.5) - expected) < 6 * math.sqrt(expected)
    assert drawn.max() < 8.5


@both
def test_uniform_numbers_are_multiples_within_their_range(source: Randomness) -> None:
    drawn = source.uniform(MANY)
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert (drawn * 2**53 == np.floor(drawn * 2**53)).all()
    assert np.unique(drawn).size == MANY  # two of 2⁵³ are equal once in 450,000 runs


@both
def test_numbers_know_nothing_of_each_other(source: Randomness) -> None:
    first, second = source.normal(MANY), source.normal(MANY)
    half = np.resize(first, (MANY // 4096, 2, 2048))  # as the system's come: both of a pair
    pairs = [(first, second), (first[1:], first[:-1]), (half[:, 0].ravel(), half[:, 1].ravel())]
    for one, other in pairs:
        bound = 6 / math.sqrt(one.size)
        assert abs(np.mean(one * other)) < bound
        assert abs(np.mean((one**2 - 1) * (other**2 - 1))) < 2 * bound


@both
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4095, 4096, 4097, 8193])
def test_as_many_come_as_are_asked_for(source: Randomness, size: int) -> None:
    for drawn in (source.normal(size), source.uniform(size)):
        assert drawn.shape == (size,)
        assert np.unique(drawn).size == size


def test_the_system_never_repeats_itself() -> None:
    source = randomness(-1, "noise", round_number=1)
    assert isinstance(source, SystemRandomness)
    again = randomness(-1, "noise", round_number=1)
    assert not np.isin(source.normal(100), again.normal(100)).any()
    assert not np.isin(source.uniform(100), again.uniform(100)).any()


def test_no_seed_moves_the_system() -> None:
    drawn = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002  the global generator, on purpose
        drawn.append(SystemRandomness().normal(10))
    assert not np.array_equal(*drawn)


def test_an_unsafe_seed_repeats_a_use_and_no_other() -> None:
    def drawn(seed: int, purpose: str, at: int, node: int) -> bytes:
        source = randomness(seed, purpose, round_number=at, partition=node)
        assert isinstance(source, SeededRandomness)
        return source.normal(10).tobytes() + source.uniform(10).tobytes()

    uses = [(0, "noise", 1, 0), (1, "noise", 1, 0), (0, "cohort", 1, 0)]
    uses += [(0, "noise", 2, 0), (0, "noise", 1, 1)]
    assert [drawn(*use) for use in uses] == [drawn(*use) for use in uses]
    assert len({drawn(*use) for use in uses}) == len(uses)


def test_each_normal_number_is_half_the_sum_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    # u = 1 − e^(−r²/2) gives radius r; angles of π/2 and −π/2 point up and down.
    def given(size: int) -> np.ndarray:
        radii = np.array([1.0, 2.0, 3.0, 4.0])
        up, down = 0.75, 0.25
        return np.concatenate([-np.expm1(-(radii**2) / 2), [up, up, down, up]])[:size]

    monkeypatch.setattr(room, "_uniform", given)
    np.testing.assert_allclose(SystemRandomness().normal(2), [0, (1 + 2 - 3 + 4) / 2], atol=1e-12)
