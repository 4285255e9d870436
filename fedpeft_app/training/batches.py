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
    lengths: Ints, sampling: float, batch_size: int, randomness: Randomness
) -> list[Ints]:
    """Draw each example independently, and cut what is drawn into batches of similar length.

    Args:
        lengths: Tokens per example.
        sampling: Probability of each example, in (0, 1].
        batch_size: Examples per batch at most, from 1.
        randomness: Decides what is drawn.

    Returns:
        Positions of the examples of each batch, of nearly the same number in all; no batch if
        nothing is drawn.
    """
    (drawn,) = np.nonzero(randomness.uniform(len(lengths)) < sampling)
    drawn = drawn[np.argsort(-lengths[drawn], kind="stable")]
    count = math.ceil(len(drawn) / batch_size)
    return np.array_split(drawn, count) if count else []


def sorted_batches(lengths: Ints, batch_size: int) -> Iterator[Ints]:
    """Cut examples into batches by falling length, for evaluation."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
