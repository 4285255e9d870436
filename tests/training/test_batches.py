"""Length-grouped batches: a permutation of the examples that pads little."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.data.tasks.padding import padded_width
from fedpeft_app.privacy.randomness import SeededRandomness
from fedpeft_app.training.batches import grouped_batches, poisson_batches, sorted_batches

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=400).map(np.array)
SIZES = st.integers(1, 9)


def padding(lengths: np.ndarray, batches: list[np.ndarray]) -> int:
    """Count the tokens that fill batches up."""
    return sum(int(len(batch) * lengths[batch].max() - lengths[batch].sum()) for batch in batches)


def shuffled(lengths: np.ndarray, size: int, seed: int) -> list[np.ndarray]:
    """Cut a random order into batches."""
    order = np.random.default_rng(seed).permutation(len(lengths))
    return [order[at : at + size] for at in range(0, len(order), size)]


@given(LENGTHS, SIZES, st.integers(0, 2**31))
def test_each_position_comes_once_an_epoch(lengths: np.ndarray, size: int, seed: int) -> None:
    batches = list(grouped_batches(lengths, size, np.random.default_rng(seed)))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))


@given(LENGTHS, SIZES, st.integers(0, 2**31))
def test_all_batches_are_full_but_one(lengths: np.ndarray, size: int, seed: int) -> None:
    batches = list(grouped_batches(lengths, size, np.random.default_rng(seed)))
    full, rest = divmod(len(lengths), size)
    assert sorted(map(len, batches)) == [rest][: rest > 0] + [size] * full


@given(LENGTHS, SIZES, st.integers(0, 2**31))
def test_the_generator_decides_the_order(lengths: np.ndarray, size: int, seed: int) -> None:
    first, second = (
        list(grouped_batches(lengths, size, np.random.default_rng(seed))) for _ in range(2)
    )
    assert [list(batch) for batch in first] == [list(batch) for batch in second]


def test_epochs_differ() -> None:
    lengths, generator = np.arange(1, 101), np.random.default_rng(0)
    first, second = (np.concatenate(list(grouped_batches(lengths, 4, generator))) for _ in "12")
    assert list(first) != list(second)


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=50), st.integers(1, 8), st.integers(0, 2**31)
)
def test_one_pool_pads_least(some: list[int], size: int, seed: int) -> None:
    # All batches are full and all are sorted together: no cut into batches can pad less.
    lengths = np.array(some * size)[: 50 * size]
    grouped = list(grouped_batches(lengths, size, np.random.default_rng(seed)))
    assert padding(lengths, grouped) <= padding(lengths, shuffled(lengths, size, seed))


def test_many_pools_pad_a_tenth_of_random_batches() -> None:
    lengths = np.random.default_rng(0).integers(4, 65, size=3000)
    grouped = list(grouped_batches(lengths, 16, np.random.default_rng(1)))
    assert padding(lengths, grouped) < 0.1 * padding(lengths, shuffled(lengths, 16, 2))


@given(LENGTHS, SIZES)
def test_sorted_batches_fall_in_length(lengths: np.ndarray, size: int) -> None:
    order = np.concatenate(list(sorted_batches(lengths, size)))
    assert sorted(order) == list(range(len(lengths)))
    assert all(np.diff(lengths[order]) <= 0)


def drawn(lengths: np.ndarray, share: float, size: int, seed: int = 0) -> list[np.ndarray]:
    randomness = SeededRandomness(np.random.default_rng(seed))
    return poisson_batches(lengths, share, size, randomness)


@given(LENGTHS, SIZES, st.floats(0.01, 1.0), st.integers(0, 2**31))
def test_a_sample_has_each_position_once_at_most_in_batches_that_fit(
    lengths: np.ndarray, size: int, share: float, seed: int
) -> None:
    batches = drawn(lengths, share, size, seed)
    positions = [int(position) for batch in batches for position in batch]
    assert len(set(positions)) == len(positions)
    assert set(positions) <= set(range(len(lengths)))
    assert all(0 < len(batch) <= size for batch in batches)


@given(LENGTHS, SIZES)
def test_a_probability_of_1_draws_all(lengths: np.ndarray, size: int) -> None:
    assert sorted(np.concatenate(drawn(lengths, 1.0, size))) == list(range(len(lengths)))


def test_each_example_is_drawn_independently_with_its_probability() -> None:
    # 20,000 samples of 3 at 0.2: each comes 4,000 times ± 4 · 57, each pair 800 ± 4 · 28.
    counts = np.zeros((3, 3))
    randomness = SeededRandomness(np.random.default_rng(1))
    for _ in range(20_000):
        here = np.zeros(3)
        for batch in poisson_batches(np.array([3, 2, 1]), 0.2, 2, randomness):
            here[batch] = 1
        counts += np.outer(here, here)
    assert np.abs(np.diag(counts) - 4_000).max() < 228
    assert np.abs(counts[np.triu_indices(3, 1)] - 800).max() < 112


def test_a_sample_may_be_empty() -> None:
    assert drawn(np.array([5, 6]), 1e-9, 4) == []


def test_a_sample_is_cut_by_padded_length_and_evenly() -> None:
    lengths = np.array([1, 9, 4, 8, 3, 5, 2])
    cut = poisson_batches(lengths, 1.0, 3, SeededRandomness(np.random.default_rng(0)), multiple=4)
    assert [batch.tolist() for batch in cut] == [[1], [3, 5], [0, 2], [4, 6]]


@given(LENGTHS, SIZES, st.integers(1, 40))
def test_an_example_is_padded_by_its_own_length_alone(
    lengths: np.ndarray, size: int, multiple: int
) -> None:
    randomness = SeededRandomness(np.random.default_rng(0))
    for batch in poisson_batches(lengths, 1.0, size, randomness, multiple):
        together = padded_width(int(lengths[batch].max()), multiple, 60)
        assert {padded_width(int(own), multiple, 60) for own in lengths[batch]} == {together}
