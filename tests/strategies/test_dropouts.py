"""Dropouts: each node's own luck, the same whoever else is in the cohort."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategy_samples import members

from fedpeft_app.strategies.dropouts import dropped
from fedpeft_app.strategies.strategy import Member

TWENTY = members(20)
probabilities = st.floats(0, 1, exclude_max=True)


@given(st.sets(st.sampled_from(TWENTY)), probabilities, st.integers(0, 2**63 - 1))
def test_nobody_s_luck_depends_on_the_others_but_one_always_reports(
    cohort: set[Member], probability: float, seed: int
) -> None:
    of_all = dropped(TWENTY, probability, seed=seed, round_number=4)
    found = dropped(cohort, probability, seed=seed, round_number=4)
    if cohort - of_all:
        assert found == of_all & cohort
    else:
        assert len(cohort - found) == min(1, len(cohort))


def test_where_nobody_is_spared_all_drop_out() -> None:
    gone = dropped(TWENTY, 0.999999, seed=0, round_number=1, spare=False)
    assert gone == set(TWENTY)


def test_the_luckiest_is_the_one_that_is_left() -> None:
    left = {
        probability: set(TWENTY) - dropped(TWENTY, probability, seed=0, round_number=1)
        for probability in (0.5, 0.9, 0.999999)
    }
    (last,) = left[0.999999]
    assert last in left[0.9] <= left[0.5]


@given(probabilities, probabilities, st.integers(1, 50))
def test_who_drops_out_does_so_at_every_higher_probability(
    one: float, other: float, round_number: int
) -> None:
    low, high = (
        dropped(TWENTY, probability, seed=0, round_number=round_number)
        for probability in sorted([one, other])
    )
    assert low <= high


@given(st.integers(0, 2**63 - 1), st.integers(1, 50))
def test_at_probability_0_nobody_drops_out(seed: int, round_number: int) -> None:
    assert dropped(TWENTY, 0.0, seed=seed, round_number=round_number) == set()


def test_as_many_drop_out_as_the_probability_says() -> None:
    # 200 rounds at 0.3: each node drops out 60 ± 6.5 times, all of them 1200 ± 29; 5σ at most.
    times = np.zeros(20)
    for round_number in range(1, 201):
        for member in dropped(TWENTY, 0.3, seed=0, round_number=round_number):
            times[member.partition] += 1
    assert abs(times - 60).max() < 5 * math.sqrt(200 * 0.3 * 0.7)
    assert abs(times.sum() - 1200) < 5 * math.sqrt(4000 * 0.3 * 0.7)


def test_seed_and_round_matter() -> None:
    drawn = [
        dropped(TWENTY, 0.5, seed=seed, round_number=number)
        for seed, number in [(0, 1), (0, 2), (1, 1)]
    ]
    assert len({frozenset(group) for group in drawn}) == 3


@pytest.mark.parametrize("probability", [1.0, -0.1, math.nan])
def test_a_probability_out_of_range_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match=r"strategy\.dropout to be a number in \[0, 1\)"):
        dropped(TWENTY, probability, seed=0, round_number=1)
