"""Batches that are made up, to try a model on: they say nothing of anybody's examples."""

from collections.abc import Sequence

import numpy as np

from fedpeft_app.data.encoded import ExampleSet, example_set
from fedpeft_app.data.tasks.task import Batch, Task
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.training.precision import placed

LENGTHS = ((4, 7), (5, 3, 6))  # tokens of the made-up examples of two batches


def probes(adapted: AdaptedModel, task: Task, examples: ExampleSet) -> list[Batch]:
    """Make up two batches, of two examples and of three; token rows differ in length.

    Args:
        adapted: The model that they are for.
        task: What it is trained to do.
        examples: Examples of the same kind: pixels of a shape or tokens, one label or many.
    """
    where = adapted.trainable[0].device
    return [placed(made_up(adapted, task, examples, lengths), where) for lengths in LENGTHS]


def made_up(
    adapted: AdaptedModel, task: Task, examples: ExampleSet, lengths: Sequence[int]
) -> Batch:
    """Make up a batch that says nothing of anybody's examples.

    Args:
        adapted: The model that it is for.
        task: What it is trained to do.
        examples: Examples of the same kind.
        lengths: Tokens of each; for images only how many there are counts.
    """
    generator = np.random.default_rng(len(lengths))
    labels = np.indices((len(lengths), *examples.labels.shape[1:])).sum(axis=0) % 2
    rows = [_row(adapted, examples, length, generator) for length in lengths]
    made = example_set(rows, labels.astype(examples.labels.dtype))
    return task.collate(made, np.arange(len(lengths)))


def _row(
    adapted: AdaptedModel, examples: ExampleSet, length: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw the pixels of an image, or tokens."""
    if examples.shape:
        return generator.integers(0, 256, examples.shape).astype(np.uint8)
    vocabulary = len(adapted.model.get_input_embeddings().weight)
    return generator.integers(0, vocabulary, length).astype(np.int32)
