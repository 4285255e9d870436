"""A number format: one bit per value, and one scale for all."""

from typing import ClassVar

import numpy as np

from fedpeft_app.adapters.state import Vector
from fedpeft_app.errors import WireError
from fedpeft_app.wire.codec import Data, require_length

_SCALE = np.dtype("<f4")


class Sign:
    """Send signs and the mean magnitude; wants error feedback.

    Reference:
        Karimireddy et al. 2019, arXiv 1901.09847 (EF-SignSGD).
    """

    name: ClassVar[str] = "sign"

    def encode(self, vector: Vector, generator: np.random.Generator) -> bytes:
        """Write the scale, then the signs, the first value in the highest bit."""
        scale = np.abs(vector, dtype=np.float64).sum() / max(vector.size, 1)
        if not np.isfinite(scale):
            raise WireError("Expected finite values for sign, got others. Look at the training.")
        return np.array(scale, dtype=_SCALE).tobytes() + np.packbits(vector < 0).tobytes()

    def decode(self, data: Data, size: int) -> Vector:
        """Give the scale, with the signs."""
        require_length(self, data, size)
        scale = np.frombuffer(data, dtype=_SCALE, count=1).astype(np.float32)
        bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8, offset=_SCALE.itemsize))
        if not 0 <= scale[0] < np.inf or bits[size:].any():
            raise WireError("Expected a scale from 0 and zeros behind the last sign, got others.")
        return np.where(bits[:size], -scale, scale)

    def most_bytes(self, size: int) -> int:
        """Give the length, which is exact."""
        return _SCALE.itemsize + -(-size // 8)
