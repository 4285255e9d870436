"""Sparse vectors: which values are sent, and that the others are zeros."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedpeft_app.errors import WireError
from fedpeft_app.wire.cast import float32
from fedpeft_app.wire.quantize import int4, int8
from fedpeft_app.wire.sparsify import Sparse, Threshold, TopK

UNUSED = np.random.default_rng(0)
ANY_BITS = arrays(np.uint32, st.integers(0, 100))


def vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("share", "values", "chosen"),
    [
        (0.5, (1, -3, 2, 3), [1, 3]),
        (0.5, (2, -2, 2, 2), [0, 1]),  # ties by index
        (0.5, (0, 0, 0, 0), [0, 1]),
        (0.01, (1, -3, 2, 3.5), [3]),  # at least one
        (1.0, (1, 0, 2), [0, 1, 2]),
        (0.4, (1, np.nan, np.inf, -np.inf, 9), [1, 2]),  # what is wrong comes first
        (0.5, (), []),
    ],
)
def test_topk_chooses_the_largest_magnitudes(
    share: float, values: tuple[float, ...], chosen: list[int]
) -> None:
    assert TopK(share=share).choose(vector(*values)).tolist() == chosen


@given(bits=ANY_BITS, share=st.floats(0.001, 1.0))
def test_topk_chooses_exactly_its_share(bits: np.ndarray, share: float) -> None:
    chosen = TopK(share=share).choose(bits.view(np.float32))
    assert chosen.size == (max(1, round(share * bits.size)) if bits.size else 0)
    assert (np.diff(chosen) > 0).all()


@pytest.mark.parametrize(
    ("values", "chosen"),
    [((0.5, -0.5, 0.49, 2), [0, 1, 3]), ((0.1,), []), ((np.nan, -np.inf, 0), [0, 1]), ((), [])],
)
def test_a_threshold_chooses_what_reaches_it(values: tuple[float, ...], chosen: list[int]) -> None:
    assert Threshold(value=0.5).choose(vector(*values)).tolist() == chosen


def test_count_values_and_positions_follow_each_other() -> None:
    codec = Sparse(sparsifier=TopK(share=0.3), numbers=float32())
    values = vector(5, 0, 0, 6, 0, 0, 0, 0, 0, 7)
    expected = struct.pack("<Q3f", 3, 5, 6, 7) + bytes([0b0010_0000, 0b1010_0100])
    assert codec.encode(values, UNUSED) == expected
    assert np.array_equal(codec.decode(expected, 10), values)


@given(bits=ANY_BITS, share=st.floats(0.001, 1.0))
def test_sparse_float32_is_idempotent(bits: np.ndarray, share: float) -> None:
    codec = Sparse(sparsifier=TopK(share=share), numbers=float32())
    data = codec.encode(bits.view(np.float32), UNUSED)
    decoded = codec.decode(data, bits.size)
    assert codec.decode(codec.encode(decoded, UNUSED), bits.size).tobytes() == decoded.tobytes()


@pytest.mark.parametrize("numbers", [float32(), int8(), int4()], ids=lambda codec: codec.name)
def test_the_largest_count_has_the_largest_bound(numbers) -> None:
    codec = Sparse(sparsifier=Threshold(value=1.0), numbers=numbers)
    for size in range(70):
        lengths = []
        for count in range(size + 1):
            values = np.zeros(size, dtype=np.float32)
            values[: max(0, count - 1)] = 2
            values[size - 1 :] = 2 if count else 0  # the longest gap there can be
            lengths.append(len(codec.encode(values, UNUSED)))
        assert max(lengths) <= codec.most_bytes(size)


@pytest.mark.parametrize("count", [0, 2, 4, 2**63, 2**64 - 1])
def test_a_count_that_is_not_the_rules_is_refused(count: int) -> None:
    codec = Sparse(sparsifier=TopK(share=0.3), numbers=float32())
    data = codec.encode(np.arange(10, dtype=np.float32), UNUSED)
    with pytest.raises(WireError, match=r"Expected 3 to 3 of 10 values by topk\(0\.3\)"):
        codec.decode(struct.pack("<Q", count) + data[8:], 10)


def test_a_count_that_is_cut_short_is_refused() -> None:
    codec = Sparse(sparsifier=Threshold(value=1.0), numbers=float32())
    with pytest.raises(WireError, match="Expected a count of 8 bytes, got 7"):
        codec.decode(bytes(7), 10)
