"""Sending only the values that matter: the largest share, or those above a threshold.

What is left out is zero for the receiver. Without error feedback (`feedback`) it is lost.

References:
    Aji and Heafield 2017, arXiv 1704.05021: the largest share.
    Strom 2015 (Interspeech): a threshold.
"""

import struct
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedpeft_app.adapters.state import Vector
from fedpeft_app.errors import WireError
from fedpeft_app.wire.codec import Codec, Data
from fedpeft_app.wire.positions import (
    Positions,
    most_position_bytes,
    pack_positions,
    unpack_positions,
)

_COUNT = struct.Struct("<Q")
_MAGNITUDE = np.uint32(0x7FFFFFFF)  # a float32 without its sign; as integers these keep order


class Sparsifier(Protocol):
    """A rule for which values are sent."""

    @property
    def name(self) -> str:
        """The rule with its parameter, as in a codec's text."""
        ...

    def choose(self, vector: Vector) -> Positions:
        """Choose values.

        Args:
            vector: `(n,)`, float32.

        Returns:
            Their positions, rising; NaN is always among them, so that none is hidden.
        """
        ...

    def counts(self, size: int) -> range:
        """Say how many values of a vector it may choose, the most last."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """The values of largest magnitude; of equal ones, those that come first.

    Attributes:
        share: Of all values, in (0, 1]; rounded to the nearest count, at least one value.
    """

    share: float

    @property
    def name(self) -> str:
        """For example "topk(0.1)"."""
        return f"topk({self.share})"

    def choose(self, vector: Vector) -> Positions:
        """Choose exactly as many as `counts` says."""
        count = self.counts(vector.size)[-1]
        if count == 0:
            return np.empty(0, dtype=np.int64)
        magnitudes = _magnitudes(vector)
        least = np.partition(magnitudes, vector.size - count)[vector.size - count]
        chosen = magnitudes > least
        equal = np.flatnonzero(magnitudes == least)
        chosen[equal[: count - np.count_nonzero(chosen)]] = True
        return np.flatnonzero(chosen)

    def counts(self, size: int) -> range:
        """Give the one count there is for a size."""
        count = max(1, round(self.share * size)) if size else 0
        return range(count, count + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """The values of a magnitude or more.

    Attributes:
        value: The least magnitude that is sent, in (0, 1e9].
    """

    value: float

    @property
    def name(self) -> str:
        """For example "threshold(0.001)"."""
        return f"threshold({self.value})"

    def choose(self, vector: Vector) -> Positions:
        """Choose between none and all."""
        least = _magnitudes(np.array([self.value], dtype=np.float32))
        return np.flatnonzero(_magnitudes(vector) >= least)

    def counts(self, size: int) -> range:
        """Allow any number."""
        return range(size + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse:
    """A codec for the chosen values, around the number format in which they travel.

    The count, the values in their order, the positions packed.

    Attributes:
        sparsifier: Which values are sent.
        numbers: Their format; its lengths are exact.
    """

    sparsifier: Sparsifier
    numbers: Codec

    @property
    def name(self) -> str:
        """The chain, as in "topk(0.1)+int8"."""
        return f"{self.sparsifier.name}+{self.numbers.name}"

    def encode(self, vector: Vector, generator: np.random.Generator) -> bytes:
        """Write down what the sparsifier chooses.

        Raises:
            WireError: If the number format has no place for a chosen value.
        """
        positions = self.sparsifier.choose(vector)
        return b"".join(
            (
                _COUNT.pack(positions.size),
                self.numbers.encode(vector[positions], generator),
                pack_positions(positions, vector.size),
            )
        )

    def decode(self, data: Data, size: int) -> Vector:
        """Put the values in their places, zeros elsewhere."""
        view = memoryview(data)
        if len(view) < _COUNT.size:
            raise WireError(f"Expected a count of {_COUNT.size} bytes, got {len(view)} bytes.")
        (count,) = _COUNT.unpack_from(view)
        counts = self.sparsifier.counts(size)
        if count not in counts:
            raise WireError(
                f"Expected {counts[0]} to {counts[-1]} of {size} values by {self.sparsifier.name}, "
                f"got {count}."
            )
        end = _COUNT.size + self.numbers.most_bytes(count)
        values = self.numbers.decode(view[_COUNT.size : end], count)
        vector = np.zeros(size, dtype=np.float32)
        vector[unpack_positions(view[end:], size, count)] = values
        return vector

    def most_bytes(self, size: int) -> int:
        """Bound the length: most values and most positions come together."""
        count = self.sparsifier.counts(size)[-1]
        return _COUNT.size + self.numbers.most_bytes(count) + most_position_bytes(size, count)


def _magnitudes(vector: Vector) -> npt.NDArray[np.uint32]:
    """Give magnitudes as integers of the same order, infinity and then NaN being the largest."""
    return vector.view(np.uint32) & _MAGNITUDE
