"""Splits: disjoint, complete, and as stable as they claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.data.encoded import EncodedSource, ExampleSet, example_set
from fedpeft_app.data.splits import Splits, SplitSettings, carve, make_splits
from fedpeft_app.errors import DataError


def examples(count: int, start: int = 0) -> ExampleSet:
    """Examples that are each one token: their own number."""
    return example_set([[start + number] for number in range(count)])


def source(**splits: ExampleSet) -> EncodedSource:
    return EncodedSource(splits=splits, label_names=("a", "b"), fingerprint="0")


def numbers(held: ExampleSet) -> list[int]:
    return [int(held.row(position)[0]) for position in range(len(held))]


def all_numbers(splits: Splits) -> list[int]:
    return numbers(splits.train) + numbers(splits.validation) + numbers(splits.test)


@given(
    count=st.integers(10, 60),
    test=st.floats(0.1, 0.5),
    validation=st.floats(0.0, 0.5),
    seed=st.integers(0, 2**32),
)
def test_splits_are_disjoint_sorted_and_cover_everything(
    count: int, test: float, validation: float, seed: int
) -> None:
    settings = SplitSettings(test_fraction=test, validation_fraction=validation)
    splits = make_splits(source(train=examples(count)), settings, seed)
    assert sorted(all_numbers(splits)) == list(range(count))
    for held in (splits.train, splits.validation, splits.test):
        assert numbers(held) == sorted(numbers(held))
    assert len(splits.test) == round(test * count)
    assert len(splits.validation) == round(validation * (count - len(splits.test)))


def test_a_split_is_a_function_of_its_arguments() -> None:
    data = source(train=examples(50))
    first, again = (make_splits(data, SplitSettings(), 3) for _ in range(2))
    assert all_numbers(first) == all_numbers(again)


def test_the_carved_test_set_is_the_same_for_every_seed_and_the_validation_set_is_not() -> None:
    data = source(train=examples(100))
    made = [make_splits(data, SplitSettings(), seed) for seed in range(5)]
    assert len({tuple(numbers(splits.test)) for splits in made}) == 1
    assert len({tuple(numbers(splits.validation)) for splits in made}) == 5


def test_the_carved_test_set_does_not_depend_on_the_other_settings() -> None:
    data = source(train=examples(100))
    plain = make_splits(data, SplitSettings(), 0)
    capped = make_splits(data, SplitSettings(max_examples=10, validation_fraction=0.4), 1)
    assert numbers(capped.test) == numbers(plain.test)


def test_capped_test_examples_are_the_same_for_every_seed() -> None:
    data = source(train=examples(20), test=examples(50, 100))
    settings = SplitSettings(max_test_examples=8)
    kept = [numbers(make_splits(data, settings, seed).test) for seed in range(3)]
    assert kept[0] == kept[1] == kept[2] == sorted(set(kept[0]))
    assert len(kept[0]) == 8
    assert len(make_splits(data, SplitSettings(max_test_examples=99), 0).test) == 50


def test_splits_that_a_source_brings_are_taken_as_they_are() -> None:
    data = source(train=examples(20), validation=examples(4, 100), test=examples(5, 200))
    splits = make_splits(data, SplitSettings(), 0)
    assert numbers(splits.train) == list(range(20))
    assert numbers(splits.validation) == [100, 101, 102, 103]
    assert numbers(splits.test) == [200, 201, 202, 203, 204]


def test_only_what_is_missing_is_carved_out() -> None:
    splits = make_splits(source(train=examples(20), test=examples(5, 200)), SplitSettings(), 0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (18, 2, 5)
    assert sorted(numbers(splits.train) + numbers(splits.validation)) == list(range(20))


@pytest.mark.parametrize("brought", [{}, {"test": examples(5, 200)}])
def test_a_server_that_holds_nothing_leaves_all_but_test_data_to_the_nodes(
    brought: dict[str, ExampleSet],
) -> None:
    data = source(train=examples(20), **brought)
    tested = make_splits(data, SplitSettings(), 0).test
    splits = make_splits(data, SplitSettings(held_by_server=False), 1)
    assert numbers(splits.train) == sorted(set(range(20)) - set(numbers(tested)))
    assert (len(tested), len(splits.validation), len(splits.test)) == (5 if brought else 4, 0, 0)


def test_a_test_fraction_of_zero_sets_nothing_aside() -> None:
    data = source(train=examples(20))
    settings = SplitSettings(test_fraction=0.0, held_by_server=False)
    assert numbers(make_splits(data, settings, 0).train) == list(range(20))
    with pytest.raises(
        DataError, match=r"test examples, got none of 20.*data\.test-fraction = 0\.0"
    ):
        make_splits(data, SplitSettings(test_fraction=0.0), 0)


def test_the_cap_counts_training_and_validation_together() -> None:
    settings = SplitSettings(max_examples=40, test_fraction=0.2, validation_fraction=0.25)
    splits = make_splits(source(train=examples(100)), settings, 0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (30, 10, 20)
    assert len(set(all_numbers(splits))) == 60


def test_the_cap_keeps_other_examples_for_another_seed() -> None:
    data = source(train=examples(100), test=examples(5, 200))
    settings = SplitSettings(max_examples=10, validation_fraction=0.0)
    kept = {tuple(numbers(make_splits(data, settings, seed).train)) for seed in range(4)}
    assert len(kept) == 4
    for cap in (0, 100, 101):
        whole = SplitSettings(max_examples=cap, validation_fraction=0.0)
        assert numbers(make_splits(data, whole, 0).train) == list(range(100))


def test_too_little_data_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"test examples, got none of 2.*data\.test-fraction = 0\.2"
    ):
        make_splits(source(train=examples(2)), SplitSettings(), 0)


def test_what_leaves_nothing_to_train_on_is_named() -> None:
    settings = SplitSettings(test_fraction=0.2, validation_fraction=0.9999)
    with pytest.raises(
        DataError, match=r"training examples, got none of 20.*-fraction = 0\.9999\."
    ):
        make_splits(source(train=examples(20)), settings, 0)


def test_only_what_is_set_keeps_examples_from_training() -> None:
    assert SplitSettings(max_examples=5, held_by_server=False).takers == (
        "data.test-fraction = 0.2, data.max-examples = 5"
    )
    assert SplitSettings(test_fraction=0.0, validation_fraction=0.0).takers == ""


@pytest.mark.parametrize(("fraction", "held"), [(0.0, 0), (0.04, 0), (0.25, 2), (0.5, 5)])
def test_carve_holds_out_the_rounded_share(fraction: float, held: int) -> None:
    left, out = carve(examples(10), fraction, 0, "node-validation")
    assert (len(left), len(out)) == (10 - held, held)
    assert sorted(numbers(left) + numbers(out)) == list(range(10))


def test_nodes_and_purposes_carve_differently() -> None:
    def held(purpose: str, node: int) -> tuple[int, ...]:
        return tuple(numbers(carve(examples(100), 0.3, 0, purpose, node)[1]))

    assert len({held("one", 0), held("one", 1), held("two", 0)}) == 3


def test_carving_a_selection_stays_within_it() -> None:
    chosen = examples(100).select(np.arange(0, 100, 10))
    left, out = carve(chosen, 0.3, 0, "node-validation")
    assert sorted(numbers(left) + numbers(out)) == list(range(0, 100, 10))
