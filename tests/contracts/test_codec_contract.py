"""Laws that every codec obeys, for every vector and whatever bytes arrive.

A number format that an installed package adds is held to them too: alone, and in a chain. What
its author promises beyond the largest magnitude of the vector goes into PROMISES.
"""

import tracemalloc
from collections.abc import Callable, Mapping
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedpeft_app.errors import WireError
from fedpeft_app.wire.catalogue import NUMBERS, parse_codec
from fedpeft_app.wire.codec import Codec
from fedpeft_app.wire.feedback import encode_with_feedback

Bound = Callable[[np.ndarray], np.ndarray | float]  # vector → how far each value may move
FINEST = 2.0**-133  # the smallest bfloat16
LARGEST = 60_000.0  # within float16


def peak(vector: np.ndarray) -> float:
    return float(np.abs(vector).max(initial=0))


def left_out(share: float, vector: np.ndarray) -> float:
    """Give the largest magnitude that may be left out of a vector."""
    kept = max(1, round(share * vector.size))
    return float(np.sort(np.abs(vector))[-kept]) if vector.size else 0.0


def step(bits: int, vector: np.ndarray) -> float:
    """Bound the scale of every block."""
    return (1 + 2.0**-7) * peak(vector) / (2 ** (bits - 1) - 1) + FINEST


PROMISES: Mapping[str, Bound] = {
    "float32": lambda vector: 0.0,
    "bfloat16": lambda vector: 2.0**-8 * np.abs(vector) + FINEST,
    "float16": lambda vector: 2.0**-11 * np.abs(vector) + 2.0**-25,
    "int8": lambda vector: step(8, vector),
    "int4": lambda vector: step(4, vector),
    "topk(0.1)+float32": lambda vector: left_out(0.1, vector),
    "topk(0.1)+int8": lambda vector: max(left_out(0.1, vector), step(8, vector)),
    "topk(0.02)+int4": lambda vector: max(left_out(0.02, vector), step(4, vector)),
    "topk(1.0)+bfloat16": lambda vector: 2.0**-8 * np.abs(vector) + FINEST,
    "threshold(0.5)+float32": lambda vector: 0.5,
    "threshold(0.5)+int4": lambda vector: max(0.5, step(4, vector)),
    "float32+zstd": lambda vector: 0.0,
    "int4+zstd": lambda vector: step(4, vector),
    "topk(0.1)+int8+zstd": lambda vector: max(left_out(0.1, vector), step(8, vector)),
}
ADDED = [name for name in NUMBERS.names() if name not in NUMBERS.builtin]
CODECS = [*PROMISES, *ADDED, *(f"topk(0.1)+{name}+zstd" for name in ADDED)]
every_codec = pytest.mark.parametrize("codec", [parse_codec(name) for name in CODECS], ids=CODECS)

vectors = arrays(
    np.float32,
    st.integers(0, 300),
    elements=st.floats(-LARGEST, LARGEST, width=32),
    fill=st.just(0.0),
)


def draws(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(size: int, seed: int = 0) -> np.ndarray:
    return draws(seed).standard_normal(size).astype(np.float32)


def decoded(codec: Codec, vector: np.ndarray, seed: int = 0) -> np.ndarray:
    return codec.decode(codec.encode(vector, draws(seed)), vector.size)


# ------------------------------------------------------------------ there and back


@pytest.mark.parametrize("name", CODECS)
def test_its_name_makes_it_again(name: str) -> None:
    assert parse_codec(name).name == name


@every_codec
@given(vector=vectors, seed=st.integers(0, 99))
def test_no_value_moves_further_than_promised(codec: Codec, vector: np.ndarray, seed: int) -> None:
    bound = PROMISES.get(codec.name, peak)(vector)
    moved = np.abs(decoded(codec, vector, seed).astype(np.float64) - vector)
    assert (moved <= bound).all()


@every_codec
@given(vector=vectors)
def test_a_vector_comes_back_as_contiguous_float32_of_its_size(
    codec: Codec, vector: np.ndarray
) -> None:
    back = decoded(codec, vector)
    assert (back.dtype, back.shape) == (np.float32, vector.shape)
    assert back.flags.c_contiguous


@every_codec
@pytest.mark.parametrize("size", [0, 1, 2, 127, 128, 129, 1000])
def test_zeros_stay_zeros(codec: Codec, size: int) -> None:
    assert not decoded(codec, np.zeros(size, dtype=np.float32)).any()


@every_codec
@given(vector=vectors)
def test_no_encoding_is_longer_than_stated(codec: Codec, vector: np.ndarray) -> None:
    assert len(codec.encode(vector, draws())) <= codec.most_bytes(vector.size)


@pytest.mark.parametrize("name", NUMBERS.names())
@given(vector=vectors)
def test_the_length_of_a_number_format_is_exact(name: str, vector: np.ndarray) -> None:
    codec = parse_codec(name)
    assert len(codec.encode(vector, draws())) == codec.most_bytes(vector.size)


@every_codec
def test_the_same_draws_give_the_same_bytes(codec: Codec) -> None:
    vector = normal(1000)
    assert codec.encode(vector, draws(1)) == codec.encode(vector, draws(1))


@every_codec
def test_the_vector_itself_is_left_alone(codec: Codec) -> None:
    vector = normal(1000)
    vector.flags.writeable = False
    codec.encode(vector, draws())
    assert np.array_equal(vector, normal(1000))


@every_codec
def test_a_view_of_the_bytes_reads_like_the_bytes(codec: Codec) -> None:
    data = codec.encode(normal(1000), draws())
    shifted = memoryview(b"?" + data)[1:]
    assert np.array_equal(codec.decode(shifted, 1000), codec.decode(data, 1000))


# ------------------------------------------------------------------ what is not finite


@every_codec
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_or_arrives_and_is_never_hidden(
    codec: Codec, value: float
) -> None:
    vector = normal(300)
    vector[77] = value
    try:
        back = decoded(codec, vector)
    except WireError:
        return
    assert np.array_equal(back[77], value, equal_nan=True)


@every_codec
def test_what_is_finite_never_becomes_infinite(codec: Codec) -> None:
    vector = np.array([np.finfo(np.float32).max, 1], dtype=np.float32)
    try:
        assert np.isfinite(decoded(codec, vector)).all()
    except WireError:
        return


# ------------------------------------------------------------------ over rounds


@every_codec
def test_messages_and_residual_sum_up_to_the_deltas(codec: Codec) -> None:
    rounds, size = 300, 400
    direction, generator = normal(size, seed=1), draws(2)
    residual = np.zeros(size, dtype=np.float32)
    sent, learnt = np.zeros(size), np.zeros(size)
    norms = []
    for round_number in range(rounds):
        delta = (direction + normal(size, seed=100 + round_number)) / 4
        data, residual = encode_with_feedback(codec, delta, residual, generator)
        sent += codec.decode(data, size)
        learnt += delta
        norms.append(np.linalg.norm(residual))
    assert np.abs(sent + residual - learnt).max() <= rounds * 2.0**-23 * np.abs(learnt).max()
    assert norms[-1] <= 2 * max(norms[: rounds // 2]) + 1e-9  # bounded, so …
    assert np.linalg.norm(sent - learnt) <= 0.15 * np.linalg.norm(learnt)  # … the mean converges


# ------------------------------------------------------------------ whatever arrives


@st.composite
def spoilt(draw: st.DrawFn, data: bytes) -> bytes:
    """Change an encoding the way that networks and attackers do."""
    at = draw(st.integers(0, len(data)))
    kind = draw(st.sampled_from(["cut", "extend", "flip", "swap", "repeat", "replace"]))
    if kind == "cut":
        return data[:at]
    if kind == "extend":
        return data + draw(st.binary(min_size=1, max_size=9))
    if kind == "flip" and data:
        bit = draw(st.integers(0, 8 * len(data) - 1))
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        return bytes(flipped)
    if kind == "swap":
        return data[at:] + data[:at]
    if kind == "repeat":
        return data[:at] + data
    return draw(st.binary(max_size=len(data) + 8))


@every_codec
@given(choices=st.data(), size=st.sampled_from([0, 1, 5, 130, 300]))
def test_any_bytes_are_a_vector_or_one_kind_of_error(
    codec: Codec, choices: st.DataObject, size: int
) -> None:
    data = choices.draw(spoilt(codec.encode(normal(size), draws())))
    try:
        back = codec.decode(data, size)
    except WireError:
        return
    assert (back.dtype, back.shape) == (np.float32, (size,))


@every_codec
def test_memory_is_bounded_by_the_size_whatever_the_bytes_claim(codec: Codec) -> None:
    size = 20_000
    valid = codec.encode(normal(size), draws())
    claims = [
        valid,
        bytes(len(valid)),
        b"\xff" * len(valid),
        b"\xff" * codec.most_bytes(size),
        valid[:8] + b"\xff" * (len(valid) - 8),
        b"\xff" * 7 + b"\x7f" + valid[8:],
        valid + bytes(1_000_000),
    ]
    for data in claims:
        tracemalloc.start()
        with suppress(WireError):
            codec.decode(data, size)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes <= 50 * size + 50_000
