"""Floats on the wire: rounded to the nearest, never made infinite, little-endian."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedpeft_app.errors import WireError
from fedpeft_app.wire.cast import bfloat16, float16, float32

UNUSED = np.random.default_rng(0)
FORMATS = [float32(), bfloat16(), float16()]
every_format = pytest.mark.parametrize("codec", FORMATS, ids=lambda codec: codec.name)


def vector(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("codec", "written"),
    [
        (float32(), "0000803f 0000c0bf"),
        (bfloat16(), "803f c0bf"),
        (float16(), "003c 00be"),
    ],
    ids=lambda case: getattr(case, "name", ""),
)
def test_one_and_minus_one_and_a_half_are_written_little_endian(codec, written: str) -> None:
    assert codec.encode(vector(1, -1.5), UNUSED) == bytes.fromhex(written)


@given(bits=arrays(np.uint32, st.integers(0, 50)))
def test_float32_keeps_every_bit_and_copies_nothing(bits: np.ndarray) -> None:
    data = float32().encode(bits.view(np.float32), UNUSED)
    decoded = float32().decode(data, bits.size)
    assert decoded.tobytes() == bits.tobytes()
    assert not decoded.flags.writeable  # a view of the bytes, which nobody may change


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1 + 2**-8, 1.0),  # a tie, to the even one below
        (1 + 3 * 2**-8, 1 + 2**-6),  # a tie, to the even one above
        (1 + 2**-8 + 2**-20, 1 + 2**-7),
        (-1 - 2**-8 - 2**-20, -1 - 2**-7),
        (1e-45, 0.0),
    ],
)
def test_bfloat16_rounds_to_the_nearest_and_ties_to_even(value: float, rounded: float) -> None:
    codec = bfloat16()
    assert codec.decode(codec.encode(vector(value), UNUSED), 1) == np.float32(rounded)


@given(bits=arrays(np.uint32, st.integers(1, 50)))
def test_nan_stays_nan_and_infinity_infinity(bits: np.ndarray) -> None:
    values = np.where(bits % 2, bits | 0x7F800000, bits & 0x807FFFFF).view(np.float32)
    for codec in FORMATS:
        decoded = codec.decode(codec.encode(values, UNUSED), values.size)
        assert (np.isnan(decoded) == np.isnan(values)).all()
        assert (np.isinf(decoded) == np.isinf(values)).all()
        assert (decoded[np.isinf(values)] == values[np.isinf(values)]).all()


@pytest.mark.parametrize(
    ("codec", "last", "first"),
    [(float16(), 65519.996, 65520.0), (bfloat16(), 3.3961773e38, 3.3961775e38)],
    ids=["float16", "bfloat16"],
)
def test_what_would_become_infinite_is_refused(codec, last: float, first: float) -> None:
    assert np.isfinite(codec.decode(codec.encode(vector(last, -last), UNUSED), 2)).all()
    with pytest.raises(WireError, match=f"range of {codec.name}, got 2 beyond it"):
        codec.encode(vector(first, -first, 0), UNUSED)


@given(bits=arrays(np.uint16, st.integers(0, 50)))
def test_bfloat16_is_idempotent(bits: np.ndarray) -> None:
    values = bfloat16().decode(bits.astype("<u2").tobytes(), bits.size)
    written = bfloat16().encode(values, UNUSED)
    again = bfloat16().decode(written, bits.size)
    assert (again.view(np.uint32) | 1 << 22 == values.view(np.uint32) | 1 << 22)[
        np.isnan(values)
    ].all()  # a NaN may become quiet, which is its bit 22
    assert (again == values)[~np.isnan(values)].all()


@every_format
@pytest.mark.parametrize("change", [-1, 1])
def test_another_length_is_refused(codec, change: int) -> None:
    data = codec.encode(vector(1, 2, 3), UNUSED)
    wrong = data[:change] if change < 0 else data + b"\0"
    with pytest.raises(WireError, match=f"Expected {len(data)} bytes for 3 values"):
        codec.decode(wrong, 3)
