"""What processes of one node say to each other over a socket: JSON, and bytes behind it."""

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

from fedpeft_app.errors import WireError

_HEAD = struct.Struct("<4sIQ")  # magic, bytes of JSON, bytes behind it
_MAGIC = b"fpw1"
_MOST_JSON, _MOST_BYTES = 2**20, 2**33


def send(connection: socket.socket, header: Mapping[str, Any], body: bytes = b"") -> None:
    """Send one frame."""
    text = json.dumps(header).encode()
    connection.sendall(_HEAD.pack(_MAGIC, len(text), len(body)) + text)
    if body:
        connection.sendall(body)


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytes]:
    """Receive one frame.

    Raises:
        WireError: If something else comes, or the other side hangs up.
    """
    magic, of_text, of_body = _HEAD.unpack(_exactly(connection, _HEAD.size))
    if magic != _MAGIC or of_text > _MOST_JSON or of_body > _MOST_BYTES:
        raise WireError("Expected a frame of fedpeft's worker, got something else.")
    try:
        header = json.loads(_exactly(connection, of_text))
    except ValueError as error:
        raise WireError(f"Expected JSON in a frame of fedpeft's worker: {error}.") from error
    if not isinstance(header, dict):
        raise WireError(f"Expected a JSON object in a frame, got {type(header).__name__}.")
    return header, _exactly(connection, of_body)


def _exactly(connection: socket.socket, count: int) -> bytes:
    """Receive so many bytes."""
    data = bytearray(count)
    view, at = memoryview(data), 0
    while at < count:
        got = connection.recv_into(view[at:])
        if not got:
            raise WireError(f"Expected {count} bytes of fedpeft's worker, got {at}: it hung up.")
        at += got
    return bytes(data)
