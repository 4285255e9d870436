"""The noisy mean of users: what one of them can move, and how much noise covers that."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedpeft_app.errors import PrivacyError
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.noisy_mean import Follow, NoisyMean, clipped
from fedpeft_app.privacy.randomness import Randomness, Values, randomness

LARGEST = float(np.finfo(np.float32).max)
FINITE = st.floats(-LARGEST, LARGEST, width=32)
vectors = arrays(np.float32, st.integers(0, 50), elements=FINITE)
norms = st.floats(1e-6, 1e6)


class Still:
    """Draws the same number, and counts what was drawn."""

    def __init__(self, number: float = 0.0) -> None:
        self.number = number
        self.drawn = 0

    def normal(self, size: int) -> Values:
        self.drawn += size
        return np.full(size, self.number)

    uniform = normal


def mechanism(**changes: Any) -> NoisyMean:
    """A mechanism for 10 of 100 users."""
    settings = {"clipping_norm": 1.0, "noise_multiplier": 1.0, "sampling": 0.1, "users": 100}
    return NoisyMean(**{**settings, **changes})


def mean(chosen: NoisyMean, *sent: Any, source: Randomness | None = None) -> Values:
    found, _ = chosen([np.float32(one) for one in sent], len(sent[0]), source or Still())
    return found


# ------------------------------------------------------------------ clipping


@given(vectors, norms)
def test_nothing_is_longer_than_the_norm(vector: np.ndarray, norm: float) -> None:
    assert np.linalg.norm(clipped(vector, norm)[0]) <= norm
    assert math.sqrt(math.fsum(value**2 for value in clipped(vector, norm)[0])) <= norm


@pytest.mark.parametrize("size", [1, 3, 1000, 1_000_000])
def test_rounding_does_not_lengthen_it(size: int) -> None:
    generator = np.random.default_rng(size)
    for norm in (0.1, 1.0, 3.3):
        values, _ = clipped(generator.standard_normal(size).astype(np.float32) * 100, norm)
        exact = math.sqrt(math.fsum(value * value for value in values.tolist()))
        assert 0.999999 * norm < exact <= norm


@given(vectors, norms)
def test_clipping_keeps_the_direction(vector: np.ndarray, norm: float) -> None:
    values, _ = clipped(vector, norm)
    length = np.linalg.norm(vector.astype(np.float64))
    if length > 1e-30:
        factor = min(1.0, norm / length)
        np.testing.assert_allclose(values, vector * factor, rtol=1e-9, atol=1e-300)


def test_a_short_vector_stays_as_it_is() -> None:
    vector = np.float32([0.3, -0.4])
    values, whole = clipped(vector, 1.0)
    assert whole
    assert values.dtype == np.float64
    assert (values == vector).all()


def test_a_long_vector_is_shortened_as_a_whole() -> None:
    values, whole = clipped(np.float32([3.0, 4.0]), 1.0)
    assert not whole
    np.testing.assert_allclose(values, [0.6, 0.8], rtol=1e-14)


def test_zeros_have_no_length_to_divide_by() -> None:
    values, whole = clipped(np.zeros(3, np.float32), 1.0)
    assert whole
    assert (values == 0).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_has_no_length_does_not_pass_unclipped(value: float) -> None:
    with pytest.raises(PrivacyError, match="Expected finite values"):
        clipped(np.float32([1.0, value]), 1.0)


# ------------------------------------------------------------------ the mean


def test_the_mean_by_hand() -> None:
    # (3, 4) shortened to (0.6, 0.8), and (0.4, 0.2) as it is, over the 10 expected.
    np.testing.assert_allclose(mean(mechanism(), [3, 4], [0.4, 0.2]), [0.1, 0.1], rtol=1e-7)


def test_the_denominator_does_not_follow_who_came() -> None:
    alone = mean(mechanism(), [0.5, 0.0])
    together = mean(mechanism(), *[[0.5, 0.0]] * 40)
    np.testing.assert_allclose(together, 40 * alone, rtol=1e-12)
    np.testing.assert_allclose(alone, [0.05, 0], rtol=1e-12)


@given(st.lists(arrays(np.float32, 4, elements=FINITE), max_size=6), st.data())
def test_nobody_moves_the_mean_by_more_than_the_norm_over_the_count(
    sent: list[np.ndarray], data: st.DataObject
) -> None:
    chosen = mechanism(clipping_norm=0.7)
    one = data.draw(arrays(np.float32, 4, elements=FINITE))
    place = data.draw(st.integers(0, len(sent)))
    without, _ = chosen(sent, 4, Still())
    with_it, _ = chosen([*sent[:place], one, *sent[place:]], 4, Still())
    assert np.linalg.norm(with_it - without) <= 0.7 / 10 * (1 + 1e-12)


@pytest.mark.parametrize(("noise", "norm"), [(1.0, 1.0), (0.5, 1.0), (2.0, 3.0)])
def test_noise_is_that_of_the_norm_over_the_count(noise: float, norm: float) -> None:
    chosen = mechanism(noise_multiplier=noise, clipping_norm=norm)
    assert chosen.deviation == noise * norm
    drawn, _ = chosen([], 100_000, randomness(0, "test"))
    assert drawn.std() == pytest.approx(noise * norm / 10, rel=0.015)
    assert drawn.mean() == pytest.approx(0, abs=noise * norm / 10 * 0.02)


def test_noise_does_not_depend_on_who_came() -> None:
    alone, crowd = mean(mechanism(), [0, 0], source=Still(1.0)), [[0, 0]] * 30
    assert (alone == mean(mechanism(), *crowd, source=Still(1.0))).all()
    assert (alone == 0.1).all()


def test_a_round_without_anybody_is_noise() -> None:
    found, following = mechanism()([], 3, Still(1.0))
    np.testing.assert_allclose(found, [0.1] * 3)
    assert following == mechanism()


def test_vectors_are_read_once_and_held_one_at_a_time() -> None:
    alive: set[int] = set()
    most = 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            alive.discard(id(self))

    def sent() -> Iterator[np.ndarray]:
        nonlocal most
        for _ in range(5):
            vector = np.ones(4, np.float32).view(Counted)
            alive.add(id(vector))
            most = max(most, len(alive))
            yield vector
            del vector

    found, _ = mechanism()(sent(), 4, Still())
    assert np.linalg.norm(found) == pytest.approx(5 / 10)
    assert most <= 2  # the one that is folded, and the next


def test_a_vector_of_another_size_is_refused() -> None:
    with pytest.raises(PrivacyError, match=r"Expected vectors of 3 values, got one \(2,\)"):
        mechanism()([np.zeros(2, np.float32)], 3, Still())


def test_each_call_leaves_one_event() -> None:
    event = mechanism(noise_multiplier=0.9, sampling=0.25).event
    assert event == Event(noise_multiplier=0.9, sampling=0.25, steps=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clipping_norm": 0.0},
        {"clipping_norm": math.inf},
        {"clipping_norm": math.nan},
        {"noise_multiplier": 0.0},  # clipping alone
        {"noise_multiplier": math.nan},
        {"users": 0},
    ],
)
def test_what_guarantees_nothing_is_no_mechanism(wrong: dict[str, float]) -> None:
    with pytest.raises(PrivacyError, match="Without noise, clipping promises nothing"):
        mechanism(**wrong)


# ------------------------------------------------------------------ a norm that follows a quantile

FOLLOW = Follow(quantile=0.5, rate=0.2)


def following(**changes: Any) -> NoisyMean:
    """A mechanism for 100 of 1000 users, whose norm follows the median."""
    return mechanism(**{"users": 1000, "follow": FOLLOW, **changes})


def test_sum_and_count_together_have_the_noise_that_is_accounted() -> None:
    # σ_b = 100 / 20 = 5, and z_Δ = (1 − 1 / 10²)^(−1/2); a user counts for 1/2 at most.
    chosen = following()
    assert chosen.count_noise == 5
    assert chosen.deviation == pytest.approx(1 / math.sqrt(0.99))
    precision = (chosen.clipping_norm / chosen.deviation) ** 2 + (0.5 / chosen.count_noise) ** 2
    assert precision == pytest.approx(1)
    assert chosen.event.noise_multiplier == 1


@pytest.mark.parametrize("size", [0, 30, 100, 170])
@pytest.mark.parametrize(("length", "moved"), [(0.9, -1), (1.1, 1)])
def test_the_norm_moves_towards_the_quantile(size: int, length: float, moved: int) -> None:
    # b − γ = ±(n / 2) / 100: all of n vectors are shorter than C, or all are longer.
    chosen = following()
    sent = [np.float32([length, 0.0])] * size
    found, after = chosen(sent, 2, Still())
    assert after.clipping_norm == pytest.approx(math.exp(moved * 0.2 * size / 200))
    assert found[0] == pytest.approx(size * min(length, 1.0) / 100)


def test_the_count_is_noisy() -> None:
    _, after = following()([], 2, Still(1.0))  # b = 1/2 + σ_b / 100
    assert after.clipping_norm == pytest.approx(math.exp(-0.2 * 0.05))


def test_only_the_norm_changes_and_only_for_the_next_call() -> None:
    chosen = following()
    _, after = chosen([np.float32([9.0])] * 80, 1, Still())
    assert chosen == following()
    assert after == following(clipping_norm=after.clipping_norm)


def test_a_fixed_norm_draws_no_noise_for_a_count() -> None:
    source = Still()
    mechanism()([], 5, source)
    assert source.drawn == 5


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.8])
def test_the_norm_finds_the_quantile(quantile: float) -> None:
    source, lengths = randomness(0, "norm"), np.linspace(0.01, 2.0, 200)
    sent = [np.float32([length]) for length in lengths]
    chosen = NoisyMean(
        clipping_norm=0.05,
        noise_multiplier=1.0,
        sampling=1.0,
        users=200,
        follow=Follow(quantile=quantile, rate=0.2),
    )
    found = []
    for _ in range(150):
        _, chosen = chosen(sent, 1, source)
        found.append(chosen.clipping_norm)
    assert np.mean(found[-50:]) == pytest.approx(2 * quantile, abs=0.1)


@pytest.mark.parametrize(("users", "noise"), [(100, 1.0), (100, 1.5), (50, 0.5)])
def test_a_count_that_would_cost_more_than_all_is_refused(users: int, noise: float) -> None:
    with pytest.raises(PrivacyError, match=f"Expected a noise multiplier below {users / 100:g}"):
        mechanism(users=users, noise_multiplier=noise, follow=FOLLOW)
    mechanism(users=users, noise_multiplier=0.99 * users / 100, follow=FOLLOW)


@pytest.mark.parametrize(("quantile", "rate"), [(0.0, 0.2), (1.0, 0.2), (0.5, 0.0), (0.5, -1.0)])
def test_a_quantile_lies_between_none_and_all(quantile: float, rate: float) -> None:
    with pytest.raises(PrivacyError, match="Expected a quantile in"):
        Follow(quantile=quantile, rate=rate)
