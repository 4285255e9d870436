"""Means over seeds, worked by hand with Student's table."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.studies.intervals import Interval, interval, paired

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8)


def test_three_values_by_hand() -> None:
    # mean 2, s = 1, t(2) = 4.3027 (table): half-width 4.3027 / √3
    found = interval([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.count) == (2.0, 3)
    assert found.half_width == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)


def test_two_values_by_hand() -> None:
    # mean .5, s = √(.02) = .1414, t(1) = 12.7062: half-width 12.7062 · .1
    found = interval([0.4, 0.6])
    assert found is not None
    assert found.mean == pytest.approx(0.5)
    assert found.half_width == pytest.approx(1.27062, abs=1e-5)


def test_one_value_has_no_interval() -> None:
    assert interval([0.7]) == Interval(mean=0.7, half_width=None, count=1)


def test_no_value_has_no_mean() -> None:
    assert interval([]) is None


@given(VALUES)
def test_order_does_not_matter(values: list[float]) -> None:
    assert interval(values) == interval(values[::-1])


@given(VALUES)
def test_equal_values_are_sure(values: list[float]) -> None:
    found = interval([values[0]] * len(values))
    assert found is not None
    assert found.half_width == pytest.approx(0.0, abs=1e-9)


def test_pairing_cancels_what_seeds_share() -> None:
    # each seed shifts both alike; the differences are .01, .02, .03: s = .01
    baseline = {0: 0.5, 1: 0.7, 2: 0.9}
    found = paired({0: 0.51, 1: 0.72, 2: 0.93}, baseline)
    assert found is not None
    assert found.mean == pytest.approx(0.02)
    assert found.half_width == pytest.approx(0.01 * 4.3027 / math.sqrt(3), abs=1e-6)


def test_only_common_seeds_are_compared() -> None:
    found = paired({0: 0.6, 1: 0.9}, {0: 0.5, 2: 0.1})
    assert found is not None
    assert found.mean == pytest.approx(0.1)
    assert found.count == 1
    assert paired({0: 0.6}, {1: 0.5}) is None


def test_a_perplexity_that_diverged_has_an_interval() -> None:
    found = interval([math.exp(700.0), 2.0, 3.0])
    assert found is not None
    assert found.half_width == pytest.approx(4.302653 * found.mean)  # t of 2 degrees × s / √3


@pytest.mark.parametrize("values", [[math.inf, -math.inf], [math.nan, 1.0], [math.inf, math.inf]])
def test_what_is_not_finite_has_no_mean(values: list[float]) -> None:
    found = interval(values)
    assert found is not None
    assert math.isnan(found.mean)
