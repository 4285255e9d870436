"""zstd: smaller where there is redundancy, bounded whatever is claimed."""

import struct
import tracemalloc

import numpy as np
import pytest
from pyarrow import Codec as Compressor

from fedpeft_app.errors import WireError
from fedpeft_app.wire.cast import float32
from fedpeft_app.wire.lossless import Zstd
from fedpeft_app.wire.sparsify import Sparse, Threshold

CODEC = Zstd(inner=float32())
UNUSED = np.random.default_rng(0)
ONES = np.ones(1000, dtype=np.float32)


def test_redundancy_is_removed() -> None:
    assert len(CODEC.encode(ONES, UNUSED)) < 50


@pytest.mark.parametrize("size", [0, 1, 1000, 40_000, 300_000])
def test_what_does_not_compress_stays_within_the_bound(size: int) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, size, dtype=np.uint32)
    data = CODEC.encode(bits.view(np.float32), UNUSED)
    assert len(data) <= CODEC.most_bytes(size)
    assert CODEC.decode(data, size).tobytes() == bits.tobytes()


@pytest.mark.parametrize("length", [0, 3999, 4001, 2**62, 2**64 - 1])
def test_a_wrong_length_is_refused(length: int) -> None:
    data = CODEC.encode(ONES, UNUSED)
    with pytest.raises(WireError, match="behind zstd"):
        CODEC.decode(struct.pack("<Q", length) + data[8:], 1000)


def test_a_length_that_the_inner_codec_cannot_have_is_refused_by_it() -> None:
    shorter = CODEC.encode(ONES[:999], UNUSED)
    with pytest.raises(WireError, match="Expected 4000 bytes for 1000 values in float32"):
        CODEC.decode(shorter, 1000)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[:8],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data + data[8:],
        lambda data: data[:8] + bytes(len(data) - 8),
    ],
)
def test_a_damaged_frame_is_refused(spoil) -> None:
    with pytest.raises(WireError):
        CODEC.decode(spoil(CODEC.encode(ONES, UNUSED)), 1000)


@pytest.mark.parametrize("claimed", [4000, 2**24])
def test_a_bomb_does_not_go_off(claimed: int) -> None:
    bomb = Compressor("zstd").compress(bytes(2**24), asbytes=True)  # 16 MiB in 2 kB
    loose = Zstd(inner=Sparse(sparsifier=Threshold(value=1.0), numbers=float32()))
    for codec in (CODEC, loose):
        tracemalloc.start()
        with pytest.raises(WireError, match="behind zstd"):
            codec.decode(struct.pack("<Q", claimed) + bomb, 1000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100_000
