"""Rising positions as the gaps between them, Golomb-Rice coded in two planes.

A gap is the number of positions left out before one that is sent. With b from the density,
gap = 2^b · upper + lower. The lower plane has the b bits of every gap; the upper plane has
every `upper` in unary, that many zeros and a one. Bits are written from the most significant
of a byte down; each plane ends with zeros up to a full byte. b does not travel: it follows
from the counts.

References:
    Golomb 1966; Rice and Plaunt 1971. Optimal for independent positions to within 2 %.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedpeft_app.errors import WireError
from fedpeft_app.wire.codec import Data

Positions = npt.NDArray[np.int64]


def pack_positions(positions: Positions, size: int) -> bytes:
    """Write positions down.

    Args:
        positions: `(count,)`, strictly rising, in [0, size).
        size: Length of the vector they lie in.

    Returns:
        The lower plane, then the upper plane; at most `most_position_bytes`.
    """
    if positions.size == 0:
        return b""
    low_bits = _low_bits(size, positions.size)
    gaps = np.diff(positions, prepend=-1) - 1
    ends = np.cumsum((gaps >> low_bits) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1, dtype=np.uint8)
    unary[ends] = 1
    return _pack_plane(gaps & ((1 << low_bits) - 1), low_bits) + np.packbits(unary).tobytes()


def unpack_positions(data: Data, size: int, count: int) -> Positions:
    """Read positions.

    Args:
        data: What arrived.
        size: Length of the vector they lie in.
        count: How many there must be.

    Returns:
        `(count,)`, strictly rising, in [0, size).

    Raises:
        WireError: If `data` is not exactly so many positions.
    """
    low_bits = _low_bits(size, count)
    low_bytes = -(-count * low_bits // 8)
    if not low_bytes <= len(data) <= most_position_bytes(size, count):
        raise _malformed(size, count)
    lower = _unpack_plane(np.frombuffer(data[:low_bytes], dtype=np.uint8), low_bits, count)
    unary = np.unpackbits(np.frombuffer(data[low_bytes:], dtype=np.uint8))
    if lower is None or np.count_nonzero(unary) != count or (count and not unary[-8:].any()):
        raise _malformed(size, count)
    upper = np.diff(np.flatnonzero(unary), prepend=-1) - 1
    positions = np.cumsum((upper << low_bits | lower) + 1) - 1
    if count and positions[-1] >= size:
        raise _malformed(size, count)
    return positions


def most_position_bytes(size: int, count: int) -> int:
    """Bound the length of packed positions.

    Args:
        size: Length of the vector they lie in.
        count: How many there are, in [0, size].

    Returns:
        Bytes; reached if the last position is sent and no gap has a lower part.
    """
    if count == 0:
        return 0
    low_bits = _low_bits(size, count)
    return -(-count * low_bits // 8) + -(-(count + (size - count >> low_bits)) // 8)


def _low_bits(size: int, count: int) -> int:
    """Give b, the bits of a gap's lower part: log2 of the mean gap, rounded down."""
    return max(0, ((size - count) // count).bit_length() - 1) if count else 0


def _item(bits: int) -> np.dtype[Any]:
    """Choose the smallest integer of so many bits, most significant byte first."""
    return np.min_scalar_type((1 << bits) - 1).newbyteorder(">")


def _pack_plane(lower: Positions, bits: int) -> bytes:
    """Write so many bits of each number, one after the other."""
    item = _item(bits)
    rows = np.unpackbits(lower.astype(item).view(np.uint8)).reshape(-1, 8 * item.itemsize)
    return np.packbits(rows[:, rows.shape[1] - bits :]).tobytes()


def _unpack_plane(plane: npt.NDArray[np.uint8], bits: int, count: int) -> Positions | None:
    """Read what `_pack_plane` wrote; None if what fills its last byte is not zero."""
    item = _item(bits)
    written = np.unpackbits(plane)
    if written[count * bits :].any():
        return None
    rows = np.zeros((count, 8 * item.itemsize), dtype=np.uint8)
    rows[:, rows.shape[1] - bits :] = written[: count * bits].reshape(count, bits)
    return np.packbits(rows, axis=1).view(item).ravel().astype(np.int64)


def _malformed(size: int, count: int) -> WireError:
    """Word the one thing that can be wrong with packed positions."""
    return WireError(f"Expected {count} rising positions below {size}, packed, got other bytes.")
