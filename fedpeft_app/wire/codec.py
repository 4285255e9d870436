"""What a codec is: a vector of float32 to bytes and back, within a bound that is stated.

Number formats (`cast`, `quantize`) are codecs; a sparsifier (`sparsify`) and a lossless stage
(`lossless`) are codecs around another one. `catalogue.parse_codec` makes a chain of its text.
"""

from typing import Protocol

import numpy as np

from fedpeft_app.adapters.state import Vector
from fedpeft_app.errors import WireError

Data = bytes | memoryview


class Codec(Protocol):
    """One way to write a vector down.

    Guarantee:
        For the same vector and a generator in the same state, `encode` gives the same bytes.
        `decode` gives a vector or raises WireError, whatever the bytes are, and its memory is
        bounded by a multiple of `size` alone.
    """

    @property
    def name(self) -> str:
        """The text that `parse_codec` makes this codec of."""
        ...

    def encode(self, vector: Vector, generator: np.random.Generator) -> bytes:
        """Write a vector down.

        Args:
            vector: `(n,)`, float32, contiguous.
            generator: Draws what is random in it; formats without chance leave it alone.

        Raises:
            WireError: If the format has no place for the values.
        """
        ...

    def decode(self, data: Data, size: int) -> Vector:
        """Read a vector.

        Args:
            data: What arrived.
            size: The number of values that it must hold, from 0.

        Returns:
            `(size,)`, float32, contiguous; possibly a read-only view of `data`.

        Raises:
            WireError: If `data` is not exactly such a vector in this codec.
        """
        ...

    def most_bytes(self, size: int) -> int:
        """Give the largest length of an encoded vector.

        Args:
            size: Number of values, from 0.

        Returns:
            Bytes. For a number format, every vector of this size has this very length.
        """
        ...


def require_length(codec: Codec, data: Data, size: int) -> None:
    """Refuse data that a number format cannot have written.

    Args:
        codec: A codec whose lengths are exact.
        data: What arrived.
        size: Number of values.

    Raises:
        WireError: If the length is not the format's.
    """
    expected = codec.most_bytes(size)
    if len(data) != expected:
        raise WireError(
            f"Expected {expected} bytes for {size} values in {codec.name}, got {len(data)}."
        )
