"""An update as one run of bytes, to be kept on a node and sent again."""

import json
import struct

from fedpeft_app.adapters import AdapterSpec
from fedpeft_app.adapters.parts import family
from fedpeft_app.errors import WireError
from fedpeft_app.wire.payload import read, write
from fedpeft_app.wire.record import MOST_STATES, Update

_LENGTH = struct.Struct("<I")  # of the JSON text before the payload


def pack(update: Update) -> bytes:
    """Write an update down, its numbers and facts before its payload.

    Raises:
        WireError: If its sections cannot stand in one payload.
    """
    told = {
        "round": update.round_number,
        "metrics": dict(update.metrics),
        "facts": dict(update.facts),
    }
    text = json.dumps(told).encode()
    payload = write(update.sections, known=family(update.spec))
    return _LENGTH.pack(len(text)) + text + payload


def unpack(content: bytes, spec: AdapterSpec) -> Update:
    """Read what `pack` wrote, bit for bit.

    Args:
        content: The bytes.
        spec: The adapter that the update is about.

    Raises:
        WireError: If they are of no such update.
    """
    try:
        (length,) = _LENGTH.unpack_from(content)
        end = _LENGTH.size + length
        told = json.loads(content[_LENGTH.size : end])
        return Update(
            spec=spec,
            sections=read(content[end:], family(spec), MOST_STATES * spec.size),
            round_number=told["round"],
            metrics=told["metrics"],
            facts=told["facts"],
        )
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise WireError(f"Expected an update as it was kept, got other bytes ({error}).") from error
