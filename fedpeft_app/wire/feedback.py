"""Error feedback: what a codec loses in one round is sent in a later one.

References:
    Seide et al. 2014 (Interspeech); Stich et al. 2018, arXiv 1809.07599;
    Karimireddy et al. 2019, arXiv 1901.09847, algorithm 1.
"""

import numpy as np

from fedpeft_app.adapters.state import Vector
from fedpeft_app.errors import AdapterMismatchError
from fedpeft_app.wire.codec import Codec


def encode_with_feedback(
    codec: Codec, delta: Vector, residual: Vector, generator: np.random.Generator
) -> tuple[bytes, Vector]:
    """Encode a delta together with what earlier messages left out.

    Args:
        codec: How it travels.
        delta: `(n,)`, what this round learnt.
        residual: `(n,)`, what the receiver lacks of earlier rounds; zeros at first.
        generator: For codecs that round by chance.

    Returns:
        What to send, and `(n,)` what the receiver lacks once it has arrived. A message that is
        lost or rejected leaves the node with the residual it had.

    Guarantee:
        Decoded messages and the last residual sum up to the deltas, but for the rounding of one
        float32 addition and one subtraction per round.

    Raises:
        AdapterMismatchError: If delta and residual differ in size.
        WireError: If the codec has no place for the values.
    """
    if delta.shape != residual.shape:
        raise AdapterMismatchError(
            f"Expected a residual of {delta.size} values, as the delta has, got {residual.size}. "
            f"It belongs to another adapter."
        )
    wanted = delta + residual
    data = codec.encode(wanted, generator)
    return data, wanted - codec.decode(data, wanted.size)
