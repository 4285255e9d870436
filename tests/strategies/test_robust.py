"""Medians, trimmed means and Krum by hand, and the laws that are theirs alone.

What every aggregator obeys is in `contracts/test_aggregator_contract.py`.
"""

import math
import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedpeft_app.errors import QuorumError
from fedpeft_app.strategies import robust
from fedpeft_app.strategies.aggregators import Aggregator, Mean
from fedpeft_app.strategies.robust import Krum, Median, MultiKrum, TrimmedMean

SIZE = 3
whole = st.integers(-1000, 1000)  # sums of few of them are exact, also in float32
vectors = hnp.arrays(np.float32, SIZE, elements=whole)
rounds = st.lists(vectors, min_size=1, max_size=9)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
any_rounds = st.lists(hnp.arrays(np.float32, SIZE, elements=finite), min_size=1, max_size=9)
by_coordinate = pytest.mark.parametrize(
    "rule", [Median(), TrimmedMean(trim=0.1), TrimmedMean(trim=0.3), TrimmedMean(trim=0.49)]
)
Rows = Sequence[np.ndarray]


def fold(rule: Aggregator, rows: Rows) -> np.ndarray:
    return rule([(np.asarray(row, dtype=np.float32), 1.0) for row in rows])


def scalars(rule: Aggregator, *values: float) -> float:
    """Fold deltas of one value each."""
    return float(fold(rule, [np.array([value]) for value in values])[0])


# ------------------------------------------------------------------ by coordinate


def test_the_median_of_an_odd_number_is_the_middle_one() -> None:
    rows = [[1, 9, -3], [2, 0, 50], [700, 4, 0]]
    assert fold(Median(), rows).tolist() == [2, 4, 0]


def test_the_median_of_an_even_number_lies_between_the_middle_two() -> None:
    assert scalars(Median(), 100, 1, 4, -7) == 2.5
    assert scalars(Median(), 3, 4) == 3.5


@given(rows=any_rounds)
def test_the_median_is_that_of_numpy_in_float64(rows: Rows) -> None:
    expected = np.median(np.stack(rows).astype(np.float64), axis=0)
    assert fold(Median(), rows).tolist() == expected.tolist()


def test_a_trimmed_mean_leaves_the_ends_out() -> None:
    # 0.2 · 5 = 1 at each end: (2 + 3 + 7) / 3
    assert scalars(TrimmedMean(trim=0.2), 3, -100, 2, 1000, 7) == 4.0
    # 0.4 · 5 = 2 at each end: the median
    assert scalars(TrimmedMean(trim=0.4), 3, -100, 2, 1000, 7) == 3.0


def test_each_coordinate_is_trimmed_by_itself() -> None:
    rows = [[1, 30], [2, 10], [3, 20], [900, 40], [0, -900]]
    assert fold(TrimmedMean(trim=0.2), rows).tolist() == [2, 20]


@pytest.mark.parametrize(
    ("trim", "count", "cut"),
    [
        (0.0, 9, 0),
        (0.1, 10, 1),
        (0.1, 11, 2),  # 1.1 rounded up
        (0.1, 3, 1),
        (0.28, 25, 7),  # 7.000000000000001 in floating point
        (0.29, 100, 29),  # 28.999999999999996
        (0.49, 3, 1),  # 1.47 rounded up would leave nothing
        (0.49, 4, 1),
        (0.49, 2, 0),
        (0.1, 1, 0),
    ],
)
def test_the_share_is_rounded_up_and_leaves_the_median(trim: float, count: int, cut: int) -> None:
    values = [2.0**place for place in range(count)]  # the largest that is left outweighs all others
    kept = values[cut : count - cut]
    trimmed = scalars(TrimmedMean(trim=trim), *values)
    assert trimmed == pytest.approx(math.fsum(kept) / len(kept), rel=1e-15)


@given(rows=rounds)
def test_nothing_trimmed_is_the_uniform_mean(rows: Rows) -> None:
    uniform = fold(Mean(weights="uniform"), rows)
    assert fold(TrimmedMean(trim=0.0), rows).tolist() == uniform.tolist()


@by_coordinate
@given(rows=any_rounds, order=st.randoms(use_true_random=False))
def test_order_does_not_show_in_the_bits(
    rule: Aggregator, rows: Rows, order: random.Random
) -> None:
    shuffled = list(rows)
    order.shuffle(shuffled)
    assert fold(rule, shuffled).tolist() == fold(rule, rows).tolist()


@by_coordinate
@given(rows=rounds, shift=vectors)
def test_a_shift_of_all_deltas_shifts_the_result(
    rule: Aggregator, rows: Rows, shift: np.ndarray
) -> None:
    shifted = fold(rule, [row + shift for row in rows])
    np.testing.assert_allclose(shifted, fold(rule, rows) + shift, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize(("rule", "withstands"), [(Median(), 4), (TrimmedMean(trim=0.3), 3)])
@pytest.mark.parametrize("outlier", [1e30, -1e30])
def test_attackers_lead_astray_only_when_they_are_too_many(
    rule: Aggregator, withstands: int, outlier: float
) -> None:
    honest = [float(place) for place in range(9)]  # with the attackers 9 in all
    held = scalars(rule, *honest[withstands:], *[outlier] * withstands)
    assert 0 <= held <= 8
    broken = scalars(rule, *honest[withstands + 1 :], *[outlier] * (withstands + 1))
    assert abs(broken) > 1e28


@pytest.mark.parametrize("trim", [-0.1, 0.5, 1, math.nan, "0.1"])
def test_trim_is_a_share_below_one_half(trim: object) -> None:
    with pytest.raises(ValueError, match=r"Expected trim to be a number in \[0, 0.5\)"):
        TrimmedMean(trim=trim)


# ------------------------------------------------------------------ Krum

# Five deltas, one attacker: a score is the sum over the 5 − 1 − 2 = 2 nearest others.
#       0: 1 + 9 = 10      1: 1 + 4 = 5      3: 4 + 9 = 13      7: 16 + 36 = 52
# Over the 3 nearest, 3 would be best (29); over the nearest alone, 0 and 1 would tie.
FIVE = (0.0, 1.0, 3.0, 7.0, 1e9)


def test_krum_takes_the_closest_to_its_neighbours() -> None:
    assert scalars(Krum(byzantine=1), *FIVE) == 1.0
    assert scalars(Krum(byzantine=1), *reversed(FIVE)) == 1.0


def test_krum_counts_neighbours_by_attackers() -> None:
    assert scalars(Krum(byzantine=0), *FIVE) == 3.0  # over the 3 nearest: 59, 41, 29, 68


def test_krum_counts_the_nearest_neighbour() -> None:
    # 1 + 144 against 1 + 169, 100 + 144, 100 + 100, 100 + 400; without the nearest 22 would win
    assert scalars(Krum(byzantine=1), 0, -1, 12, 22, 32) == 0.0


@pytest.mark.parametrize(("keep", "mean"), [(1, 1.0), (2, 0.5), (3, 4 / 3), (4, 11 / 4)])
def test_multi_krum_averages_the_best(keep: int, mean: float) -> None:
    assert scalars(MultiKrum(byzantine=1, keep=keep), *FIVE) == mean


def test_distances_are_over_all_coordinates() -> None:
    rows = [[0, 0], [3, 4], [6, 0], [0, 9]]  # squares: 25, 36, 81; 25, 34; 117
    # scores over 2 nearest: 25 + 36, 25 + 25, 25 + 36, 34 + 81
    assert fold(Krum(byzantine=0), rows).tolist() == [3, 4]


@given(rows=st.lists(vectors, min_size=5, max_size=9))
def test_krum_gives_one_of_its_deltas(rows: Rows) -> None:
    assert fold(Krum(byzantine=1), rows).tolist() in [row.tolist() for row in rows]


@given(rows=st.lists(vectors, min_size=5, max_size=9), shift=vectors)
def test_krum_moves_with_a_shift_of_all_deltas(rows: Rows, shift: np.ndarray) -> None:
    shifted = fold(Krum(byzantine=1), [row + shift for row in rows])
    assert shifted.tolist() == (fold(Krum(byzantine=1), rows) + shift).tolist()


def test_of_equally_close_deltas_the_first_is_taken() -> None:
    assert scalars(Krum(byzantine=0), 4, 0, 2) == 4.0  # each is 4 from its nearest
    assert scalars(Krum(byzantine=0), 0, 2, 4) == 0.0


def test_small_differences_of_large_deltas_count() -> None:
    # Squares of 10⁶ are 10¹²: in ‖a‖² + ‖b‖² − 2 a·b distances of 1e-2 would drown in float32.
    values = [1e6 + value / 16 for value in FIVE[:4]]
    assert scalars(Krum(byzantine=0), *values, 0.0) == 1e6 + 3 / 16
    assert scalars(Krum(byzantine=1), *values, 0.0) == 1e6 + 1 / 16


@pytest.mark.parametrize("outlier", [1e6, -3e38])
def test_colluding_attackers_are_outvoted(outlier: float) -> None:
    honest = [0.0, 0.1, 0.2, 0.3, 0.4]
    picked = scalars(Krum(byzantine=2), *[outlier] * 2, *honest)  # 7 = 2 · 2 + 3
    assert picked in np.float32(honest)


@pytest.mark.parametrize(
    ("rule", "least"),
    [
        (Krum(byzantine=0), 3),
        (Krum(byzantine=1), 5),
        (Krum(byzantine=2), 7),
        (MultiKrum(byzantine=1, keep=2), 5),
        (MultiKrum(byzantine=1, keep=6), 7),  # of 6, one of those kept could be an attacker's
    ],
)
def test_too_few_deltas_to_withstand_so_many_are_refused(rule: Aggregator, least: int) -> None:
    fold(rule, [np.zeros(SIZE)] * least)
    with pytest.raises(QuorumError, match=f"Expected at least {least} good replies"):
        fold(rule, [np.zeros(SIZE)] * (least - 1))


@pytest.mark.parametrize("options", [{"byzantine": -1}, {"byzantine": 1.0}, {"byzantine": "1"}])
def test_krum_takes_a_number_of_attackers(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="Expected byzantine to be a whole number from 0"):
        Krum(**options)
    with pytest.raises(ValueError, match="Expected byzantine to be a whole number from 0"):
        MultiKrum(**options, keep=1)


def test_multi_krum_keeps_at_least_one() -> None:
    with pytest.raises(ValueError, match="Expected keep to be a whole number from 1, got 0"):
        MultiKrum(byzantine=1, keep=0)


# ------------------------------------------------------------------ tables


class Passes:
    """Deltas that count how often they are decoded."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self.decoded = rows, 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        for row in self._rows:
            self.decoded += 1
            yield row, 1.0


@pytest.mark.parametrize("rule", [Median(), TrimmedMean(trim=0.2), Krum(byzantine=1)])
@pytest.mark.parametrize(("table_bytes", "tables"), [(1, 10), (5 * 4 * 4, 3), (2**20, 1)])
def test_small_tables_cost_passes_and_change_nothing(
    rule: Aggregator, table_bytes: int, tables: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 10)).astype(np.float32)
    expected = fold(rule, rows)
    monkeypatch.setattr(robust, "_TABLE_BYTES", table_bytes)
    deltas = Passes(rows)
    np.testing.assert_array_equal(rule(deltas), expected)
    picked = 5 if isinstance(rule, Krum) else 0  # Krum's choice is decoded at the end
    assert deltas.decoded == 1 + 5 * tables + picked  # 1 to know the size
