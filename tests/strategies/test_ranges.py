"""What options may be, as JSON brings them."""

import math

import pytest

from fedpeft_app.strategies.ranges import require_count, require_number


@pytest.mark.parametrize("value", [0, 0.0, 0.49, 0.499999])
def test_numbers_in_the_range_pass(value: float) -> None:
    require_number("trim", value, 0, 0.5)


@pytest.mark.parametrize("value", [-1e-9, 0.5, math.nan, math.inf, True, "0.1", None, [0.1]])
def test_what_is_no_number_in_the_range_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match=r"Expected trim to be a number in \[0, 0.5\), got"):
        require_number("trim", value, 0, 0.5)


@pytest.mark.parametrize("value", [0, 0.0, -1.0, math.inf])
def test_an_open_range_does_not_hold_its_ends(value: float) -> None:
    with pytest.raises(ValueError, match=r"Expected lr to be a number in \(0, inf\), got"):
        require_number("lr", value, 0, math.inf, or_low=False)


def test_an_open_range_holds_what_is_within() -> None:
    require_number("lr", 1e-300, 0, math.inf, or_low=False)
    require_number("lr", 1e300, 0, math.inf, or_low=False)


@pytest.mark.parametrize("value", [0, -1, 1.0, 1.5, True, "1", None])
def test_what_is_no_count_is_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match="Expected keep to be a whole number from 1, got"):
        require_count("keep", value, 1)


def test_counts_pass() -> None:
    require_count("keep", 1, 1)
    require_count("keep", 10**9, 1)
