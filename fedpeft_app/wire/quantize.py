"""Integers of 8 or 4 bits with one scale per block, rounded by chance so that the mean is right.

References:
    Alistarh et al. 2017, arXiv 1610.02132 (QSGD), section 3.1: stochastic rounding.
    Dettmers et al. 2022, arXiv 2110.02861, section 2.1: block-wise scales.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpeft_app.adapters.state import Vector
from fedpeft_app.errors import WireError
from fedpeft_app.wire.cast import Bits, bfloat16_values
from fedpeft_app.wire.codec import Data, require_length

_BLOCK = 128  # values that share a scale: its 16 bits cost 1/8 bit per value
_FRACTION = 16  # bits behind the point when a value is rounded
_SCALE = np.dtype("<u2")  # the bits of a bfloat16

Codes = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockIntegers:
    """Symmetric integers: value = code · scale of its block.

    A block is 128 values in a row of the flat vector, the last one possibly fewer. Its scale
    is the smallest bfloat16 by which no value leaves the integers' range.

    Attributes:
        bits: Bits per value, 8 or 4.

    Guarantee:
        |decoded − value| ≤ scale ≤ 1.008 · largest magnitude of the block / (2^(bits−1) − 1), or
        2^-133 if that is more; E[decoded] = value to within 2^-16 scales; a value that is a
        multiple of the scale, 0 above all, decodes to itself.
    """

    bits: int

    @property
    def name(self) -> str:
        """Either "int8" or "int4"."""
        return f"int{self.bits}"

    @property
    def largest(self) -> int:
        """The largest code; the smallest is its opposite."""
        return int(2 ** (self.bits - 1) - 1)

    def encode(self, vector: Vector, generator: np.random.Generator) -> bytes:
        """Write the scales of all blocks, then all codes.

        Raises:
            WireError: If a value is not finite, or within 1 % of the largest float32.
        """
        blocks = _in_blocks(vector)
        scales = self._scales(np.abs(blocks).max(axis=1, initial=0))
        codes = _round(blocks, bfloat16_values(scales), generator)
        return scales.astype(_SCALE, copy=False).tobytes() + self._pack(
            codes.ravel()[: vector.size]
        )

    def decode(self, data: Data, size: int) -> Vector:
        """Multiply every code by its scale."""
        require_length(self, data, size)
        count = _blocks(size)
        scales = np.frombuffer(data, dtype=_SCALE, count=count)
        codes = self._unpack(np.frombuffer(data, dtype=np.int8, offset=scales.nbytes), size)
        if scales.max(initial=0) > self._most_scale or codes.min(initial=0) < -self.largest:
            raise WireError(
                f"Expected codes in ±{self.largest} and finite scales, not negative, in "
                f"{self.name}, got others."
            )
        return (_in_blocks(codes) * bfloat16_values(scales)[:, None]).ravel()[:size]

    def most_bytes(self, size: int) -> int:
        """Give the length, which is exact: two bytes per block, then the codes."""
        return _SCALE.itemsize * _blocks(size) + -(-size * self.bits // 8)

    @property
    def _most_scale(self) -> int:
        """The largest scale whose multiples are all finite; infinity and NaN have larger bits."""
        most = np.finfo(np.float32).max / self.largest
        return int(_truncate(np.array([most], dtype=np.float32))[0])

    def _scales(self, peaks: Vector) -> Bits:
        """Find each block's smallest bfloat16 of which `largest` times is at least its peak."""
        if not np.isfinite(peaks).all():
            raise WireError(
                f"Expected finite values for {self.name}, got NaN or infinity. "
                f"Look for the cause in the training: nothing that is not finite is averaged."
            )
        scales = _truncate(peaks / np.float32(self.largest))
        scales += bfloat16_values(scales) * self.largest < peaks  # exact: 8 by 7 bits
        if scales.max(initial=0) > self._most_scale:
            raise WireError(
                f"Expected magnitudes below 3.3e38 for {self.name}, got {peaks.max():g}."
            )
        return scales

    def _pack(self, codes: Codes) -> bytes:
        """Put codes into bytes; of two nibbles, the lower is the first."""
        if self.bits == 8:
            return codes.tobytes()
        nibbles = np.zeros(codes.size + codes.size % 2, dtype=np.uint8)
        nibbles[: codes.size] = codes.view(np.uint8) & 0xF
        return (nibbles[0::2] | nibbles[1::2] << 4).tobytes()

    def _unpack(self, packed: Codes, size: int) -> Codes:
        """Take codes out of bytes."""
        if self.bits == 8:
            return packed
        codes = np.empty(2 * packed.size, dtype=np.int8)
        codes[0::2] = packed << 4 >> 4  # an arithmetic shift brings the sign down
        codes[1::2] = packed >> 4
        if codes[size:].any():
            raise WireError(f"Expected zeros behind the last of {size} codes, got others.")
        return codes[:size]


def int8() -> BlockIntegers:
    """Send a byte per value: a quarter of float32, and 1/64 byte for scales."""
    return BlockIntegers(bits=8)


def int4() -> BlockIntegers:
    """Send half a byte per value."""
    return BlockIntegers(bits=4)


def _blocks(size: int) -> int:
    """Count the blocks of so many values."""
    return -(-size // _BLOCK)


def _in_blocks(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Lay values out as `(blocks, 128)`, with zeros behind the last."""
    missing = _BLOCK * _blocks(values.size) - values.size
    return (np.pad(values, (0, missing)) if missing else values).reshape(-1, _BLOCK)


def _truncate(values: Vector) -> Bits:
    """Round non-negative float32 down to bfloat16 bits."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def _round(blocks: Vector, scales: Vector, generator: np.random.Generator) -> Codes:
    """Divide by the scales and round up or down by chance, in fixed-point arithmetic.

    Adding a uniform draw below one and cutting the fraction off rounds up with exactly the
    probability of the fraction. No code passes the largest: |value| ≤ largest · scale.
    """
    divisors = np.where(scales == 0, np.float32(1), scales)[:, None]
    fixed = blocks / divisors
    fixed *= 2**_FRACTION
    codes = np.rint(fixed, out=fixed).astype(np.int32)
    codes += generator.integers(0, 2**_FRACTION, size=codes.shape, dtype=np.uint16)
    codes >>= _FRACTION  # towards minus infinity, also below zero
    return codes.astype(np.int8)
