"""TensorBoard's event files, written: records with checksums, each a small protocol buffer.

Of the format only numbers and one table of text are used, which have not changed since 2017. A
writer from TensorBoard or TensorFlow would bring a dozen packages for these lines; the tests
read what is written with TensorBoard's own reader, where it is installed.

Reference:
    TensorFlow, `lib/io/record_writer.h` (framing, masked CRC-32C), `util/event.proto`,
    `framework/summary.proto`, `framework/tensor.proto` (field numbers).
"""

import math
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_VERSION = b"brain.Event:2"
_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), bits reversed
_MASK = 0xA282EAD8  # record_writer.h: checksums of what holds checksums
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
_LARGEST = 3.4028234663852886e38  # of float32
_STRING = 7  # tensor.proto: DT_STRING
_START = 1  # event.proto: SessionLog.START


class EventFile:
    """A file of events, in a folder that may have earlier ones.

    Args:
        folder: Made where it is not there.
        since: First step that is written; what earlier files have from it on does not count.

    Raises:
        OSError: If it cannot be written.
    """

    def __init__(self, folder: Path, since: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        micros = time.time_ns() // 1000  # TensorBoard reads files in the order of their names
        name = f"events.out.tfevents.{micros // 10**6}.{micros % 10**6:06d}.fedpeft"
        self._file = (folder / name).open("xb", buffering=0)
        self._add(since, _field(3, _BYTES, _VERSION))
        if since:
            self._add(since, _field(7, _BYTES, _field(1, _VARINT, _START)))

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers.

        Args:
            step: Where on the axis, from 0.
            values: Tag → number.
        """
        summary = b"".join(
            _field(1, _BYTES, _field(1, _BYTES, tag.encode()) + _field(2, _FIXED32, value))
            for tag, value in values.items()
        )
        self._add(step, _field(5, _BYTES, summary))

    def text(self, step: int, tag: str, text: str) -> None:
        """Write a text, which TensorBoard shows as Markdown.

        Args:
            step: Where on the axis, from 0.
            tag: Its name.
            text: The text.
        """
        plugin = _field(1, _BYTES, _field(1, _BYTES, b"text"))
        tensor = _field(1, _VARINT, _STRING) + _field(2, _BYTES, b"")  # of no dimension
        tensor += _field(8, _BYTES, text.encode())
        value = _field(1, _BYTES, f"{tag}/text_summary".encode())
        value += _field(8, _BYTES, tensor) + _field(9, _BYTES, plugin)
        self._add(step, _field(5, _BYTES, _field(1, _BYTES, value)))

    def close(self) -> None:
        """Close it."""
        self._file.close()

    def _add(self, step: int, what: bytes) -> None:
        """Write one event, whole: readers may look at any time."""
        event = _field(1, _FIXED64, time.time()) + _field(2, _VARINT, step) + what
        length = struct.pack("<Q", len(event))
        record = length + _checksum(length) + event + _checksum(event)
        if self._file.write(record) < len(record):
            raise OSError(f"There is no room for {self._file.name}.")


def _field(number: int, kind: int, value: bytes | float) -> bytes:
    """Write one field of a protocol buffer."""
    key = _varint(number << 3 | kind)
    if isinstance(value, bytes):
        return key + _varint(len(value)) + value
    if kind == _VARINT:
        return key + _varint(int(value))
    if kind == _FIXED32 and _LARGEST < abs(value) < math.inf:
        value = math.copysign(math.inf, value)  # float32 goes no further
    return key + struct.pack("<d" if kind == _FIXED64 else "<f", value)


def _varint(value: int) -> bytes:
    """Write a whole number from 0, seven bits a byte, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _checksum(content: bytes) -> bytes:
    """Give the masked CRC-32C of bytes."""
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF)


def crc32c(content: bytes) -> int:
    """Give the CRC-32C of bytes (RFC 3720, B.4)."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _shifted(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_shifted, range(256)))
