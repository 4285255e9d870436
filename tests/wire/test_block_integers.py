"""int8 and int4: the bytes by hand, the bound, the mean, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedpeft_app.errors import WireError
from fedpeft_app.wire.quantize import BlockIntegers, int4, int8

BLOCK = 128
MOST = float(np.finfo(np.float32).max)
both = pytest.mark.parametrize("codec", [int8(), int4()], ids=lambda codec: codec.name)
vectors = arrays(
    np.float32,
    st.integers(0, 300),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


def draws(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def there_and_back(codec: BlockIntegers, vector: np.ndarray, seed: int = 0) -> np.ndarray:
    return codec.decode(codec.encode(vector, draws(seed)), vector.size)


def scales_of(codec: BlockIntegers, vector: np.ndarray) -> np.ndarray:
    """Give the scale of each value, as it was written."""
    count = -(-vector.size // BLOCK)
    bits = np.frombuffer(codec.encode(vector, draws()), dtype="<u2", count=count)
    scales = (bits.astype(np.uint32) << 16).view(np.float32)
    return np.repeat(scales, BLOCK)[: vector.size]


# ------------------------------------------------------------------ bytes, by hand


def test_int8_is_the_scale_and_a_byte_per_value() -> None:
    vector = np.array([127, 1, -2], dtype=np.float32)  # the scale is 1: 0x3f80
    assert int8().encode(vector, draws()) == bytes.fromhex("803f 7f 01 fe")


def test_int4_puts_the_first_of_two_values_into_the_lower_nibble() -> None:
    vector = np.array([7, -7, 3], dtype=np.float32)  # -7 is 9 in four bits
    assert int4().encode(vector, draws()) == bytes.fromhex("803f 97 03")


def test_every_block_has_a_scale_of_its_own() -> None:
    vector = np.zeros(130, dtype=np.float32)
    vector[[0, 129]] = 127, 254
    data = int8().encode(vector, draws())
    assert data[:4] == bytes.fromhex("803f 0040")  # 1 and 2
    assert np.array_equal(int8().decode(data, 130), vector)


@pytest.mark.parametrize(
    ("size", "int8_bytes", "int4_bytes"),
    [(0, 0, 0), (1, 3, 3), (2, 4, 3), (128, 130, 66), (129, 133, 69), (76_808, 78_010, 39_606)],
)
def test_the_length_follows_from_the_size(size: int, int8_bytes: int, int4_bytes: int) -> None:
    vector = np.ones(size, dtype=np.float32)
    for codec, expected in ((int8(), int8_bytes), (int4(), int4_bytes)):
        assert len(codec.encode(vector, draws())) == codec.most_bytes(size) == expected


def test_int8_costs_at_most_0_256_of_float32() -> None:
    assert int8().most_bytes(76_808) <= 0.256 * 4 * 76_808


# ------------------------------------------------------------------ numbers


@both
@given(vector=vectors, seed=st.integers(0, 99))
def test_no_value_moves_by_more_than_its_scale(
    codec: BlockIntegers, vector: np.ndarray, seed: int
) -> None:
    moved = np.abs(there_and_back(codec, vector, seed).astype(np.float64) - vector)
    assert (moved <= scales_of(codec, vector)).all()


@both
@given(vector=vectors)
def test_the_scale_is_the_smallest_bfloat16_that_clips_nothing(
    codec: BlockIntegers, vector: np.ndarray
) -> None:
    scales = scales_of(codec, vector).astype(np.float64)
    peaks = np.repeat(
        [np.abs(vector[i : i + BLOCK]).max() for i in range(0, vector.size, BLOCK)], BLOCK
    )[: vector.size]
    below = scales - np.spacing(scales.astype(np.float32)) * 2**16  # the bfloat16 before
    assert (codec.largest * scales >= peaks).all()
    assert (codec.largest * below < peaks)[scales > 0].all()


@both
@pytest.mark.parametrize("value", [0.3, -2.7, 6.99, -0.001])
def test_the_mean_is_the_value(codec: BlockIntegers, value: float) -> None:
    vector = np.full((2000, BLOCK), value, dtype=np.float32)
    vector[:, 0] = codec.largest  # every scale is 1
    decoded = there_and_back(codec, vector.ravel()).reshape(vector.shape)[:, 1:]
    fraction = value - np.floor(value)
    assert set(np.unique(decoded)) == {np.floor(value), np.ceil(value)}
    deviation = np.sqrt(fraction * (1 - fraction) / decoded.size)
    assert abs(decoded.mean(dtype=np.float64) - value) <= 4 * deviation + 2**-16


class EveryDraw:
    """A generator that gives each draw once, to the values behind the first of their block."""

    def integers(self, low: int, high: int, *, size: tuple[int, int], dtype: type) -> np.ndarray:
        given = np.zeros(size, dtype=dtype)
        given[:, 1:] = np.resize(np.arange(low, high), (size[0], size[1] - 1))
        return given


@both
@pytest.mark.parametrize("value", [0.3, -2.7, 6.99, -0.001, 1 / 3])
def test_the_mean_over_all_draws_is_the_value_to_the_last_bit_of_a_draw(
    codec: BlockIntegers, value: float
) -> None:
    vector = np.full((517, BLOCK), value, dtype=np.float32)
    vector[:, 0] = codec.largest
    data = codec.encode(vector.ravel(), EveryDraw())  # type: ignore[arg-type]
    decoded = codec.decode(data, vector.size).reshape(vector.shape)[:, 1:].ravel()
    mean = decoded[: 2**16].mean(dtype=np.float64)
    assert mean * 2**16 == np.rint(np.float32(value) * 2**16)


@both
def test_draws_of_neighbours_are_independent(codec: BlockIntegers) -> None:
    vector = np.full((2000, BLOCK), 0.5, dtype=np.float32)
    vector[:, 0] = codec.largest
    up = there_and_back(codec, vector.ravel()).reshape(vector.shape)[:, 1:] - 0.5
    correlation = 4 * np.mean(up[:, 1:] * up[:, :-1])
    assert abs(correlation) <= 4 / np.sqrt(up.size)


@both
@given(codes=arrays(np.int8, 300, elements=st.integers(-7, 7)), power=st.integers(-120, 100))
def test_multiples_of_the_scale_come_back_as_they_are(
    codec: BlockIntegers, codes: np.ndarray, power: int
) -> None:
    codes[::BLOCK] = codec.largest
    vector = codes.astype(np.float32) * np.float32(2.0**power)
    assert np.array_equal(there_and_back(codec, vector), vector)


@both
def test_blocks_of_zeros_are_exact_and_other_blocks_do_not_mind(codec: BlockIntegers) -> None:
    vector = np.zeros(3 * BLOCK, dtype=np.float32)
    vector[BLOCK : 2 * BLOCK] = codec.largest
    assert np.array_equal(there_and_back(codec, vector), vector)


@both
@pytest.mark.parametrize("tiny", [1e-45, 1e-40, 1.2e-38])
def test_values_below_the_normal_range_are_kept_within_their_scale(
    codec: BlockIntegers, tiny: float
) -> None:
    vector = np.full(5, tiny, dtype=np.float32)
    moved = np.abs(there_and_back(codec, vector) - vector)
    assert (moved <= scales_of(codec, vector)).all()


# ------------------------------------------------------------------ what is refused


@both
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_when_written(codec: BlockIntegers, value: float) -> None:
    with pytest.raises(WireError, match="Expected finite values"):
        codec.encode(np.array([0, value], dtype=np.float32), draws())


@both
def test_a_signalling_nan_is_refused_like_any_other(codec: BlockIntegers) -> None:
    with pytest.raises(WireError, match="Expected finite values"):
        codec.encode(np.array([0x7F800001, 0], dtype=np.uint32).view(np.float32), draws())


@both
def test_no_finite_value_becomes_infinite(codec: BlockIntegers) -> None:
    with pytest.raises(WireError, match=r"Expected magnitudes below 3\.3e38"):
        codec.encode(np.array([MOST], dtype=np.float32), draws())
    assert np.isfinite(there_and_back(codec, np.array([3.3e38, -3.3e38], dtype=np.float32))).all()


@both
@pytest.mark.parametrize("scale", ["807f", "c07f", "ffff", "80bf", "0080", "7f7f"])
def test_a_scale_that_nothing_was_written_with_is_refused(codec: BlockIntegers, scale: str) -> None:
    data = bytes.fromhex(scale) + bytes(codec.most_bytes(3) - 2)
    with pytest.raises(WireError, match="finite scales, not negative"):
        codec.decode(data, 3)


@pytest.mark.parametrize(
    ("codec", "data"), [(int8(), "803f 80"), (int4(), "803f 08"), (int4(), "803f 0080")]
)
def test_the_code_that_has_no_opposite_is_refused(codec: BlockIntegers, data: str) -> None:
    packed = bytes.fromhex(data)
    size = (len(packed) - 2) * 8 // codec.bits
    with pytest.raises(WireError, match=f"Expected codes in ±{codec.largest}"):
        codec.decode(packed, size)


def test_the_nibble_behind_the_last_value_is_zero() -> None:
    with pytest.raises(WireError, match="Expected zeros behind the last of 3 codes"):
        int4().decode(bytes.fromhex("803f 97 13"), 3)


@both
@pytest.mark.parametrize("change", [-1, 1])
def test_another_length_is_refused(codec: BlockIntegers, change: int) -> None:
    data = codec.encode(np.ones(300, dtype=np.float32), draws())
    wrong = data[:change] if change < 0 else data + b"\0"
    with pytest.raises(WireError, match=f"Expected {len(data)} bytes for 300 values"):
        codec.decode(wrong, 300)
