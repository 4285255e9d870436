"""One payload per message: a short header and the encoded vectors, in one run of bytes.

docs/wire-format.md describes it field by field.
"""

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.errors import UnknownNameError, WireError
from fedpeft_app.wire.catalogue import parse_codec
from fedpeft_app.wire.codec import Codec, Data
from fedpeft_app.wire.header import MOST_BYTES, Header, Row

VERSION = 1

_START = struct.Struct("<7sBI")  # magic, version, length of the header
_MAGIC = b"fedpeft"
_ALIGN = 8  # sections start at multiples of it, so that float32 values can be viewed in place


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One encoded vector.

    Attributes:
        name: What it is: "state", "delta", "control", "increment-7", …
        spec: What its values mean.
        codec: How they are encoded.
        data: The encoded values; of a payload that was read, a view.
    """

    name: str
    spec: AdapterSpec
    codec: Codec
    data: Data

    def decode(self) -> AdapterState:
        """Decode the values, which may well be NaN: whether they are sane is for the guard.

        Returns:
            The state; with float32 its vector is a read-only view of the payload.

        Raises:
            WireError: If the bytes are no such values.
        """
        return AdapterState(spec=self.spec, vector=self.codec.decode(self.data, self.spec.size))


def write(sections: Sequence[Section], known: Collection[str]) -> bytes:
    """Put sections into one payload.

    Args:
        sections: At least one, with different names.
        known: Fingerprints of the specs that the receiver has; others are embedded.

    Raises:
        WireError: If nobody could read it: no section, a name that is none or occurs twice, a
            header of more than 1 MiB.
    """
    rows = [
        Row(
            name=section.name,
            spec=section.spec.fingerprint,
            codec=section.codec.name,
            bytes=len(section.data),
        )
        for section in sections
    ]
    foreign = {s.spec.fingerprint: s.spec for s in sections if s.spec.fingerprint not in known}
    text = Header(rows=tuple(rows), specs=tuple(foreign.values())).to_bytes(_START.size, _ALIGN)
    filled = (part for s in sections for part in (s.data, bytes(-len(s.data) % _ALIGN)))
    return b"".join((_START.pack(_MAGIC, VERSION, len(text)), text, *filled))


def read(data: bytes, known: Mapping[str, AdapterSpec], most_values: int) -> tuple[Section, ...]:
    """Take a payload apart, trusting nothing; nothing is decoded yet.

    Args:
        data: What arrived.
        known: Fingerprint → spec, for those that this side has.
        most_values: The most values that all sections together may have, decoded.

    Returns:
        The sections in their order, as views of `data`.

    Raises:
        WireError: If `data` is not exactly a payload of this version, of known codecs and of
            adapters that are known or embedded.
    """
    header, body = _split(data, most_values)
    specs = {**{spec.fingerprint: spec for spec in header.specs}, **known}
    found, start = [], 0
    for row in header.rows:
        found.append(_section(row, specs, body[start : start + row.bytes]))
        end = start + row.bytes
        start = end + -end % _ALIGN
        if any(body[end:start]):
            raise WireError(f"Expected zeros behind section '{row.name}', got other bytes.")
    if start != len(body):
        raise WireError(f"Expected a body of {start} bytes, as its header says, got {len(body)}.")
    values = sum(section.spec.size for section in found)
    if values > most_values:
        raise WireError(f"Expected at most {most_values} values in a payload, got {values}.")
    return tuple(found)


def _split(data: bytes, most_values: int) -> tuple[Header, memoryview]:
    """Check the start, and read the header."""
    if len(data) < _START.size:
        raise WireError(f"Expected at least {_START.size} bytes in a payload, got {len(data)}.")
    magic, version, length = _START.unpack_from(data)
    if (magic, version) != (_MAGIC, VERSION):
        raise WireError(
            f"Expected a payload that starts with {_MAGIC!r} and version {VERSION}, got {magic!r} "
            f"and {version}. Run the same fedpeft on the server and on every node."
        )
    end = _START.size + length
    if length > MOST_BYTES or end > len(data):
        raise WireError(
            f"Expected a header of at most {MOST_BYTES} bytes within a payload of {len(data)}, "
            f"got one of {length}."
        )
    view = memoryview(data)
    header = Header.from_bytes(bytes(view[_START.size : end]), _START.size, _ALIGN, most_values)
    return header, view[end:]


def _section(row: Row, specs: Mapping[str, AdapterSpec], data: memoryview) -> Section:
    """Make a section of its row, if its spec and codec are known and its size can be."""
    if row.spec not in specs:
        raise WireError(
            f"Expected section '{row.name}' of an adapter that this side has, got {row.spec!r:.40}."
        )
    try:
        codec = parse_codec(row.codec)
    except UnknownNameError as error:
        raise WireError(f"Section '{row.name}': {error}") from error
    most = codec.most_bytes(specs[row.spec].size)
    if codec.name != row.codec or row.bytes > most or len(data) != row.bytes:
        raise WireError(
            f"Expected section '{row.name}' in at most {most} bytes of {codec.name}, all of them "
            f"in the payload, got {row.bytes} bytes of '{row.codec}', {len(data)} of them there."
        )
    return Section(name=row.name, spec=specs[row.spec], codec=codec, data=data)
