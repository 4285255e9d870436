"""Which examples are for training, validation and test; the same answer in every process."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedpeft_app.data.encoded import EncodedSource, ExampleSet
from fedpeft_app.errors import DataError
from fedpeft_app.seeds import numpy_generator

_FIXED = 0  # test examples that are drawn are the same ones for every seed of a study


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSettings:
    """How splits are made where a source does not bring them.

    Attributes:
        max_examples: Training examples kept in all, 0 = all.
        max_test_examples: Test examples kept, 0 = all.
        test_fraction: Share carved out as test set where the source brings none, in [0, 1).
        validation_fraction: Share of the training data kept by the server, in [0, 1).
        held_by_server: Whether the server keeps validation and test data. If not, the source's
            validation data are nobody's, none are carved out, and test data are set aside all
            the same: what one run of a study trains on is never what another is judged on.
    """

    max_examples: int = 0
    max_test_examples: int = 0
    test_fraction: float = 0.2
    validation_fraction: float = 0.1
    held_by_server: bool = True

    @property
    def takers(self) -> str:
        """Name the keys that may keep examples from training, for messages; may be empty."""
        keys = {
            "data.test-fraction": self.test_fraction,
            "data.validation-fraction": self.validation_fraction if self.held_by_server else 0,
            "data.max-examples": self.max_examples,
        }
        return ", ".join(f"{key} = {value}" for key, value in keys.items() if value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Splits:
    """Disjoint sets of examples; validation and test are empty where the server holds none."""

    train: ExampleSet
    validation: ExampleSet
    test: ExampleSet


def make_splits(source: EncodedSource, settings: SplitSettings, seed: int) -> Splits:
    """Use the splits a source brings, and carve out what it lacks.

    Args:
        source: The tokenised source.
        settings: Fractions, caps, and who holds what.
        seed: The run's seed: decides the cap and the validation set.

    Returns:
        The three sets. Positions stay sorted.

    Raises:
        DataError: If nothing is left to train on, or the server has nothing to test on.
    """
    train = source.splits["train"]
    nothing = train.select(np.zeros(0, dtype=np.int64))
    test = source.splits.get("test", nothing)
    if not len(test):
        train, test = carve(train, settings.test_fraction, _FIXED, "test-split")
    train = capped(train, settings.max_examples, seed, "max-examples")
    test = capped(test, settings.max_test_examples, _FIXED, "max-test-examples")
    validation = source.splits.get("validation", nothing)
    if settings.held_by_server and not len(validation):
        train, validation = carve(train, settings.validation_fraction, seed, "validation-split")
    total = len(source.splits["train"])
    if not len(train):
        raise DataError(
            f"Expected training examples, got none of {total} examples. Give more data, or change "
            f"what may keep them from training: {settings.takers}."
        )
    if settings.held_by_server and not len(test):
        raise DataError(
            f"Expected test examples, got none of {total} examples. Give more data, a test split, "
            f"or another data.test-fraction = {settings.test_fraction}."
        )
    if not settings.held_by_server:
        validation = test = nothing
    return Splits(train=train, validation=validation, test=test)


def capped(
    examples: ExampleSet, most: int, seed: int, purpose: str, partition: int = 0
) -> ExampleSet:
    """Keep a random few examples, in their order.

    Args:
        examples: The examples to choose from.
        most: How many to keep at most; 0 = all.
        seed: The run's seed.
        purpose: Names the use of randomness.
        partition: The node, where the examples are a node's own.
    """
    if not 0 < most < len(examples):
        return examples
    keep = numpy_generator(seed, purpose, partition=partition).permutation(len(examples))
    return examples.select(np.sort(keep[:most]))


def carve(
    examples: ExampleSet, fraction: float, seed: int, purpose: str, partition: int = 0
) -> tuple[ExampleSet, ExampleSet]:
    """Hold out a random share of examples.

    Args:
        examples: The examples to split.
        fraction: Share to hold out, in [0, 1).
        seed: The run's seed.
        purpose: Names the use of randomness.
        partition: The node, where the split is a node's own.

    Returns:
        What is left, and what is held out; both in the original order.
    """
    order = numpy_generator(seed, purpose, partition=partition).permutation(len(examples))
    held: npt.NDArray[np.int64] = np.sort(order[: round(fraction * len(examples))])
    return examples.select(np.setdiff1d(np.arange(len(examples)), held)), examples.select(held)
