"""Batches of similar length: less padding, the same randomness on every machine."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fedpeft_app.privacy.randomness import Randomness

Ints = npt.NDArray[np.int64]

_POOL = 50  # batches sorted by length together; enough to pad little, small enough to mix


def grouped_batches(
    lengths: Ints, batch_size: int, generator: np.random.Generator
) -> Iterator[Ints]:
    """Cut one epoch into shuffled batches of examples of similar length.

    Args:
        lengths: Tokens per example.
        batch_size: Examples per batch, from 1; the last batch may be smaller.
        generator: Decides the order.

    Yields:
        Positions of the examples of one batch; each position occurs once per epoch.
    """
    order = generator.permutation(len(lengths))
    batches: list[Ints] = []
    for start in range(0, len(order), _POOL * batch_size):
        pool = order[start : start + _POOL * batch_size]
        pool = pool[np.argsort(-lengths[pool], kind="stable")]
        batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
    for index in generator.permutation(len(batches)):
        yield batches[index]


def poisson_batches(
    lengths: Ints, sampling: float, batch_size: int, randomness: Randomness, multiple: int = 1
) -> list[Ints]:
    """Draw each example independently, and cut what is drawn into batches of one padded length.

    How long an example is padded is its own affair: with batches as they come, one long example
    more would change, in their last bits, the gradients of all that it pads.

    Args:
        lengths: Tokens per example.
        sampling: Probability of each example, in (0, 1].
        batch_size: Examples per batch at most, from 1.
        randomness: Decides what is drawn.
        multiple: Of how many tokens padded lengths are multiples, from 1.

    Returns:
        Positions of the examples of each batch, the longest first; no batch if nothing is drawn.
    """
    (drawn,) = np.nonzero(randomness.uniform(len(lengths)) < sampling)
    widths = -(-lengths[drawn] // multiple)
    groups = (drawn[widths == width] for width in np.unique(widths)[::-1])
    return [
        batch
        for group in groups
        for batch in np.array_split(group, math.ceil(len(group) / batch_size))
    ]


def sorted_batches(lengths: Ints, batch_size: int) -> Iterator[Ints]:
    """Cut examples into batches by falling length, for evaluation."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
