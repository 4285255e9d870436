"""Packed positions: the bits by hand, near the entropy, and nothing but rising positions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.errors import WireError
from fedpeft_app.wire.positions import most_position_bytes, pack_positions, unpack_positions


def positions(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_gaps_are_written_in_two_planes() -> None:
    # 3 of 10: the mean gap is 7/3, so b = 1. Gaps 0, 2, 5 = 2·(0, 1, 2) + (0, 0, 1):
    # lower plane 0 0 1, upper plane 1 01 001
    assert pack_positions(positions(0, 3, 9), 10) == bytes([0b0010_0000, 0b1010_0100])


def test_dense_positions_are_a_bit_per_place() -> None:
    assert pack_positions(positions(0, 1, 3, 4, 5, 7), 8) == bytes([0b1101_1101])


@given(
    size=st.integers(0, 2000),
    share=st.sampled_from([0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 99),
)
def test_positions_come_back(size: int, share: float, seed: int) -> None:
    chosen = np.flatnonzero(np.random.default_rng(seed).random(size) < share)
    data = pack_positions(chosen, size)
    assert len(data) <= most_position_bytes(size, chosen.size)
    assert np.array_equal(unpack_positions(data, size, chosen.size), chosen)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 40, 257])
def test_the_bound_is_reached_by_gaps_without_lower_parts(size: int) -> None:
    for count in range(1, size + 1):
        last = positions(*range(count - 1), size - 1)  # one gap that has all there is
        length = len(pack_positions(last, size))
        assert most_position_bytes(size, count) - 1 <= length <= most_position_bytes(size, count)


@pytest.mark.parametrize("gap", [1, 200, 70_000, 5_000_000_000])
def test_gaps_may_be_of_any_length(gap: int) -> None:
    chosen = positions(gap, 2 * gap)
    size = 2 * gap + 1
    assert np.array_equal(unpack_positions(pack_positions(chosen, size), size, 2), chosen)


@pytest.mark.parametrize("share", [0.1, 0.01, 0.001])
def test_independent_positions_cost_their_entropy_and_two_percent(share: float) -> None:
    size = 1_000_000
    chosen = np.sort(np.random.default_rng(0).choice(size, round(share * size), replace=False))
    entropy = -np.log2(share) - (1 - share) / share * np.log2(1 - share)  # bits per position
    bits = 8 * len(pack_positions(chosen, size)) / chosen.size
    assert entropy <= bits <= 1.02 * entropy


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ([], "nothing"),
        ([0b0010_0000], "no upper plane"),
        ([0b0011_0000, 0b1010_0100], "bits behind the lower plane"),
        ([0b0010_0000, 0b1010_0000], "a position too few"),
        ([0b0010_0000, 0b1010_0110], "a position too many"),
        ([0b0010_0000, 0b1010_0001], "a position beyond the vector"),
        ([0b0010_0000, 0b1010_0100, 0], "a byte behind the last position"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_anything_else_is_refused(data: list[int], what: str) -> None:
    with pytest.raises(WireError, match="Expected 3 rising positions below 10"):
        unpack_positions(bytes(data), 10, 3)


def test_a_byte_of_zeros_within_the_bound_is_refused() -> None:
    data = pack_positions(positions(0, 1, 2, 3, 4, 5), 60)
    assert data == bytes([0, 0, 0, 0b1111_1100])
    assert len(data) + 1 == most_position_bytes(60, 6)
    with pytest.raises(WireError, match="Expected 6 rising positions below 60"):
        unpack_positions(data + b"\0", 60, 6)


@given(data=st.binary(max_size=40), size=st.integers(0, 60), count=st.integers(0, 60))
def test_what_is_read_is_what_would_be_written(data: bytes, size: int, count: int) -> None:
    try:
        read = unpack_positions(data, size, min(count, size))
    except WireError:
        return
    assert pack_positions(read, size) == data
