"""Randomness is a function of (seed, purpose, round, partition) and of nothing else."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.seeds import derive_seed, numpy_generator

seeds = st.integers(0, 2**63 - 1)
purposes = st.sampled_from(["cohort", "batches", "dropout", "head", "split"])
small = st.integers(0, 10_000)
places = st.tuples(seeds, purposes, small, small)


def derive(place: tuple[int, str, int, int]) -> int:
    seed, purpose, round_number, partition = place
    return derive_seed(seed, purpose, round_number=round_number, partition=partition)


def test_seeds_are_the_same_on_every_machine() -> None:
    # printf '42|cohort|3|7' | sha256sum = 9808ceaebc21bd1f…; half of its first eight bytes
    assert derive_seed(42, "cohort", round_number=3, partition=7) == 0x9808CEAEBC21BD1F >> 1


@given(place=places, other=places)
def test_another_place_has_another_seed(
    place: tuple[int, str, int, int], other: tuple[int, str, int, int]
) -> None:
    assert (derive(place) == derive(other)) == (place == other)


@given(place=places)
def test_seeds_fit_a_signed_64_bit_integer(place: tuple[int, str, int, int]) -> None:
    assert 0 <= derive(place) < 2**63


def test_round_and_partition_are_not_interchangeable() -> None:
    first = derive_seed(0, "batches", round_number=1, partition=2)
    assert first != derive_seed(0, "batches", round_number=2, partition=1)


def test_digits_do_not_run_into_each_other() -> None:
    first = derive_seed(0, "batches", round_number=1, partition=23)
    assert first != derive_seed(0, "batches", round_number=12, partition=3)


def test_a_generator_ignores_what_others_drew() -> None:
    expected = numpy_generator(5, "cohort", round_number=2).random(4)
    np.random.default_rng(5).random(100)
    numpy_generator(5, "cohort", round_number=1).random(100)
    assert np.array_equal(numpy_generator(5, "cohort", round_number=2).random(4), expected)


def test_drawing_leaves_numpys_global_generator_alone() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002  the global one is the point
    numpy_generator(5, "cohort").random(100)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_generators_of_two_rounds_are_uncorrelated() -> None:
    first = numpy_generator(0, "batches", round_number=1).standard_normal(10_000)
    second = numpy_generator(0, "batches", round_number=2).standard_normal(10_000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04  # four standard errors of 1 / √10 000
