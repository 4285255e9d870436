"""The randomness that privacy rests on: nobody may foretell it, not even who knows the run's seed.

Secret are the noise, who or what was sampled, and how single examples are varied (dropout,
augmentation): all that a neighbour could change. The rest may come from `fedpeft_app.seeds`.
"""

import math
import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from fedpeft_app.seeds import numpy_generator

Values = npt.NDArray[np.float64]

_BLOCK = 2**12  # values drawn at once: they stay in the cache
_SUMMED = 4  # normal numbers in each that is given
_KEY_BYTES, _NONCE_BYTES = 32, 16  # of ChaCha20
_WORD_BYTES, _SPARE_BITS = 8, 11  # float64 has 53 bits of the 64


class Randomness(Protocol):
    """Draws numbers, independent of all that it drew before."""

    def uniform(self, size: int) -> Values:
        """Draw from [0, 1), `(size,)`, in multiples of 2⁻⁵³."""
        ...

    def normal(self, size: int) -> Values:
        """Draw from the standard normal distribution, `(size,)`."""
        ...


def randomness(
    unsafe_seed: int, purpose: str, *, round_number: int = 0, partition: int = 0
) -> Randomness:
    """Give the randomness for one use.

    Args:
        unsafe_seed: Below 0: none, draw from the operating system. From 0: as `seeds`, so that a
            test can be repeated; whoever knows it can take the noise off again.
        purpose: What it is for, as in `seeds`.
        round_number: Round, from 1; 0 where rounds do not matter.
        partition: The node's partition, from 0.
    """
    if unsafe_seed < 0:
        return SystemRandomness()
    return SeededRandomness(
        numpy_generator(unsafe_seed, purpose, round_number=round_number, partition=partition)
    )


@dataclass(frozen=True, slots=True)
class SystemRandomness:
    """ChaCha20, with a new key from the operating system for every few thousand numbers.

    That is how Linux makes its own random bytes; done here, it takes a tenth of the time. A key
    is used once and kept nowhere, so no fork, pickle or dump of memory gives numbers away that
    were drawn before, or come later.

    Each normal number is half the sum of four, because the last bits of a single one tell which
    uniform numbers it can come from, and with it what it was added to.

    Reference:
        Holohan and Braghin 2021, arXiv 2107.10138; Opacus' secure mode does the same.
    """

    def uniform(self, size: int) -> Values:
        """Draw from [0, 1); see `Randomness`."""
        return _uniform(size)

    def normal(self, size: int) -> Values:
        """Draw from the standard normal distribution; see `Randomness`."""
        values = np.empty(size)
        for start in range(0, size, _BLOCK):
            part = values[start : start + _BLOCK]
            part[:] = _normal(part.size)
        return values


@dataclass(frozen=True, slots=True)
class SeededRandomness:
    """A generator whose seed someone knows: for tests, and never for privacy."""

    generator: np.random.Generator

    def uniform(self, size: int) -> Values:
        """Draw from [0, 1); see `Randomness`."""
        return self.generator.random(size)

    def normal(self, size: int) -> Values:
        """Draw from the standard normal distribution; see `Randomness`."""
        return self.generator.standard_normal(size)


def _uniform(size: int) -> Values:
    """Turn secret words of 64 bits into multiples of 2⁻⁵³."""
    key = algorithms.ChaCha20(os.urandom(_KEY_BYTES), bytes(_NONCE_BYTES))
    stream = Cipher(key, mode=None).encryptor().update(bytes(size * _WORD_BYTES))
    words = np.frombuffer(stream, dtype=np.uint64) >> np.uint64(_SPARE_BITS)
    return words.astype(np.float64) * 2.0**-53


def _normal(size: int) -> Values:
    """Draw normal numbers by Box and Muller, and add up fours of them.

    A point of the circle, (cos θ, sin θ) = ((1 − t²) / (1 + t²), 2t / (1 + t²)) with
    t = tan(θ / 2), takes one tangent, which NumPy has in vector instructions, unlike sines.
    """
    pairs = math.ceil(size / 2)
    uniform = _uniform(2 * _SUMMED * pairs).reshape(2, _SUMMED, pairs)
    radius = np.sqrt(-2 * np.log(1 - uniform[0]))
    tangent = np.tan(np.pi * (uniform[1] - 0.5))
    over = radius / (1 + tangent * tangent)
    cosines, sines = 2 * over - radius, 2 * over * tangent
    summed: Values = np.concatenate([cosines.sum(axis=0), sines.sum(axis=0)])
    summed /= math.sqrt(_SUMMED)
    return summed[:size]
