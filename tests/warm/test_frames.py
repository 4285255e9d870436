"""Frames between a node's processes."""

import socket
import struct
from collections.abc import Iterator
from threading import Thread

import pytest

from fedpeft_app.errors import WireError
from fedpeft_app.warm.frames import receive, send

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_what_is_sent_arrives(pair: Pair, size: int) -> None:
    header, body = {"do": "ask", "äöü": [1, 2.5, None]}, bytes(range(256)) * (size // 256) + b"x"
    sending = Thread(target=send, args=(pair[0], header, body))
    sending.start()
    assert receive(pair[1]) == (header, body)
    sending.join()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"fpw1",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<4sIQ", b"fpw2", 2, 0) + b"{}",
        struct.pack("<4sIQ", b"fpw1", 2**31, 0),
        struct.pack("<4sIQ", b"fpw1", 2, 2**60) + b"{}",
        struct.pack("<4sIQ", b"fpw1", 2, 0) + b"[]",
        struct.pack("<4sIQ", b"fpw1", 2, 0) + b"}{",
        struct.pack("<4sIQ", b"fpw1", 2, 9) + b"{}half",
    ],
)
def test_what_is_no_frame_is_refused(pair: Pair, data: bytes) -> None:
    pair[0].sendall(data)
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(WireError, match="Expected"):
        receive(pair[1])
