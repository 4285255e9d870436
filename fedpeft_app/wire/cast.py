"""Floats of 32 or 16 bits: one item per value, little-endian, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpeft_app.adapters.state import Vector
from fedpeft_app.errors import WireError
from fedpeft_app.wire.codec import Data, require_length

Bits = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """A float format.

    Attributes:
        name: "float32", "bfloat16" or "float16".
        item: One value on the wire.
        overflow: Finite values of this magnitude or more would become infinite.
        narrow: Rounds float32 to the format.
        widen: Gives the float32 of an item, exactly.
    """

    name: str
    item: np.dtype[Any]
    overflow: float
    narrow: Callable[[Vector], npt.NDArray[Any]]
    widen: Callable[[npt.NDArray[Any]], Vector]

    def encode(self, vector: Vector, generator: np.random.Generator) -> bytes:
        """Round to the nearest, ties to even; NaN and infinities stay what they are.

        Raises:
            WireError: If a finite value would become infinite.
        """
        overflowing = np.isfinite(vector) & (np.abs(vector) >= self.overflow)
        if overflowing.any():
            raise WireError(
                f"Expected magnitudes below {self.overflow:g}, the range of {self.name}, got "
                f"{overflowing.sum()} beyond it. Choose a codec with a wider range, such as int8."
            )
        return self.narrow(vector).astype(self.item, copy=False).tobytes()

    def decode(self, data: Data, size: int) -> Vector:
        """Widen every item; float32 is a view of the data."""
        require_length(self, data, size)
        return self.widen(np.frombuffer(data, dtype=self.item))

    def most_bytes(self, size: int) -> int:
        """Give the length, which is exact."""
        return self.item.itemsize * size


def float32() -> Cast:
    """Send the values as they are."""
    return Cast(
        name="float32", item=np.dtype("<f4"), overflow=np.inf, narrow=_as_float32, widen=_as_float32
    )


def bfloat16() -> Cast:
    """Send the upper half of a float32: its range, 8 bits of precision."""
    return Cast(
        name="bfloat16",
        item=np.dtype("<u2"),
        overflow=float(np.uint32(0x7F7F8000).view(np.float32)),  # halfway to what comes after
        narrow=bfloat16_bits,
        widen=bfloat16_values,
    )


def float16() -> Cast:
    """Send IEEE half precision: 11 bits of precision, magnitudes from 6e-8 to 65504."""
    return Cast(
        name="float16",
        item=np.dtype("<f2"),
        overflow=65520.0,  # halfway to 65536, which float16 does not have
        narrow=lambda vector: vector.astype(np.float16),
        widen=_as_float32,
    )


def bfloat16_bits(vector: Vector) -> Bits:
    """Round float32 to the nearest bfloat16, ties to even, as its sixteen bits."""
    bits = vector.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    nan = np.isnan(vector)
    if nan.any():  # a carry out of the mantissa would make an infinity or a zero of it
        rounded[nan] = (bits[nan] >> 16) | 0x40
    return rounded


def bfloat16_values(bits: Bits) -> Vector:
    """Give the float32 values of bfloat16 bits, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _as_float32(values: npt.NDArray[Any]) -> Vector:
    """View or widen floats as this machine's float32."""
    return values.astype(np.float32, copy=False)
