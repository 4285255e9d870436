"""Learning-rate schedules: values by hand, and laws over the whole run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.training.fit import FitSettings, rate_factor
from fedpeft_app.training.schedule import learning_rate_factor

SCHEDULES = ("linear", "cosine", "constant")
HALF_ROOT = math.cos(math.pi / 4)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [1.0, 0.75, 0.5, 0.25, 0.0]),
        ("cosine", [1.0, 0.5 + HALF_ROOT / 2, 0.5, 0.5 - HALF_ROOT / 2, 0.0]),
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_quarters_of_a_run_without_warm_up(schedule: str, expected: list[float]) -> None:
    found = [learning_rate_factor(schedule, quarter / 4, 0.0) for quarter in range(5)]
    assert found == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.0, 0.5, 1.0, 0.5, 0.0]),
        ("cosine", [0.0, 0.5, 1.0, 0.5, 0.0]),
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_quarters_of_a_run_with_half_of_it_warm_up(schedule: str, expected: list[float]) -> None:
    found = [learning_rate_factor(schedule, quarter / 4, 0.5) for quarter in range(5)]
    assert found == pytest.approx(expected, abs=1e-15)


@given(
    st.sampled_from(SCHEDULES),
    st.floats(0, 1),
    st.floats(0, 0.9),
)
def test_a_factor_is_a_share(schedule: str, progress: float, warmup: float) -> None:
    assert 0.0 <= learning_rate_factor(schedule, progress, warmup) <= 1.0


@given(st.sampled_from(SCHEDULES), st.floats(0, 0.999), st.floats(0.01, 0.9))
def test_a_schedule_never_jumps(schedule: str, progress: float, warmup: float) -> None:
    here, there = (learning_rate_factor(schedule, at, warmup) for at in (progress, progress + 1e-6))
    steepest = max(1 / warmup, math.pi / (1 - warmup))
    assert abs(here - there) <= 1e-6 * steepest + 1e-12


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown schedule 'cosin'"):
        learning_rate_factor("cosin", 0.5, 0.0)


def factors(settings: FitSettings, steps: int) -> list[float]:
    """List the factor of every step of a run."""
    return [
        rate_factor(settings, round_number, step, steps)
        for round_number in range(1, settings.rounds + 1)
        for step in range(steps)
    ]


def test_linear_runs_on_over_the_border_of_rounds() -> None:
    found = factors(FitSettings(schedule="linear", rounds=2), steps=2)
    assert found == [1.0, 0.75, 0.5, 0.25]  # the next, at the run's end, would be 0


def test_one_long_round_and_many_short_ones_have_the_same_rates() -> None:
    for schedule in SCHEDULES:
        many = factors(FitSettings(schedule=schedule, rounds=4, warmup=0.25), steps=3)
        one = factors(FitSettings(schedule=schedule, rounds=1, warmup=0.25), steps=12)
        assert many == pytest.approx(one)


def test_warm_up_counts_to_the_end_of_its_steps() -> None:
    # Begins at 0, ¼, ½, ¾ of the run; warm-up is its first half, counted at ¼ and ½.
    found = factors(FitSettings(schedule="linear", rounds=2, warmup=0.5), steps=2)
    assert found == [0.5, 1.0, 1.0, 0.5]


@given(
    st.sampled_from(SCHEDULES),
    st.integers(1, 9),
    st.integers(1, 9),
    st.floats(0, 0.9),
)
def test_no_step_of_a_run_has_rate_0(schedule: str, rounds: int, steps: int, warmup: float) -> None:
    settings = FitSettings(schedule=schedule, rounds=rounds, warmup=warmup)
    assert min(factors(settings, steps)) > 0.0
