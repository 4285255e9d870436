"""Sums of low-rank products against dense ones: norms, truncation, widening."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from low_rank_samples import (
    Weighted,
    contributions,
    dense,
    equal_shares,
    pair,
    product,
    random_factors,
)

from fedpeft_app.adapters.products import product_norm, stack, truncated, widened
from fedpeft_app.errors import AdapterMismatchError

# ---------------------------------------------------------------- stacks and norms


def test_a_stack_by_hand() -> None:
    stacked = stack([(0.5, pair([[1], [2]], [[4, 6]])), (-2.0, pair([[3], [0]], [[1, 1]]))])
    assert stacked.a.tolist() == [[2, 3], [-2, -2]]
    assert stacked.b.tolist() == [[1, 3], [2, 0]]


@given(weighted=contributions())
def test_a_stack_is_the_sum(weighted: Weighted) -> None:
    np.testing.assert_allclose(product(stack(weighted)), dense(weighted), atol=1e-12)


def test_a_norm_by_hand() -> None:
    # half of (1, 2, 2)ᵀ·(3, 4): 0.5 · 3 · 5
    assert product_norm([(0.5, pair([[1], [2], [2]], [[3, 4]]))]) == pytest.approx(7.5)
    # ((1, 0), (0, 0)) − ((0, 0), (0, 1))
    crossed = [(1.0, pair([[1], [0]], [[1, 0]])), (-1.0, pair([[0], [1]], [[0, 1]]))]
    assert product_norm(crossed) == pytest.approx(math.sqrt(2))


@given(weighted=contributions(), factor=st.floats(-8, 8))
def test_a_norm_is_that_of_the_dense_sum_at_any_scale(weighted: Weighted, factor: float) -> None:
    scaled = [(factor * weight, update) for weight, update in weighted]
    expected = abs(factor) * np.linalg.norm(dense(weighted))
    assert product_norm(scaled) == pytest.approx(expected, rel=1e-12, abs=1e-10)


def test_a_norm_of_what_cancels_keeps_its_digits() -> None:
    # (1 + 2⁻³⁰)·BA − BA: Gram matrices would see 1e-18 of a squared norm of 1, and print noise
    update = random_factors(20, 30, 4, seed=0)
    left = product_norm([(1 + 2.0**-30, update), (-1.0, update)])
    assert left == pytest.approx(2.0**-30 * np.linalg.norm(product(update)), rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_passes(bad: float) -> None:
    good, broken = pair([[1]], [[1]]), pair([[1]], [[bad]])
    for weighted in ([(bad, good)], [(1.0, good), (0.5, broken)]):
        for operation in (stack, product_norm, truncated):
            with pytest.raises(ValueError, match="Expected finite weights and factors"):
                operation(weighted)  # type: ignore[operator]


def test_nothing_and_strangers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one pair of factors, got none"):
        stack([])
    strangers = [(1.0, pair([[1]], [[1, 2]])), (1.0, pair([[1]], [[1]]))]
    with pytest.raises(AdapterMismatchError, match=r"sizes \[\(1, 1\), \(1, 2\)\]"):
        stack(strangers)


# ---------------------------------------------------------------- truncation


def test_a_truncation_by_hand() -> None:
    # ((3, 0), (0, 4)) has singular values 4 and 3, and (0, 1) is the first direction
    diagonal = [(1.0, pair([[3, 0], [0, 4]], [[1, 0], [0, 1]]))]
    update, values = truncated(diagonal, rank=1)
    np.testing.assert_allclose(values, [4, 3])
    np.testing.assert_allclose(update.a, [[0, 1]], atol=1e-15)
    np.testing.assert_allclose(update.b, [[0], [4]], atol=1e-15)


def test_a_truncation_of_three_outputs_by_hand() -> None:
    # 2·(1, 2, 2)ᵀ·(3, 4) = 2 · 3 · 5 · (1, 2, 2)ᵀ/3 · (3, 4)/5
    update, values = truncated([(2.0, pair([[1], [2], [2]], [[3, 4]]))])
    np.testing.assert_allclose(values, [30])
    np.testing.assert_allclose(update.a, [[0.6, 0.8]])
    np.testing.assert_allclose(update.b, [[10], [20], [20]])
    balanced, _ = truncated([(2.0, pair([[1], [2], [2]], [[3, 4]]))], split="balanced")
    np.testing.assert_allclose(balanced.a, math.sqrt(30) * np.array([[0.6, 0.8]]))
    np.testing.assert_allclose(balanced.b, math.sqrt(30) * np.array([[1], [2], [2]]) / 3)


def test_the_first_large_entry_of_a_row_is_positive() -> None:
    update, _ = truncated([(1.0, pair([[1], [0]], [[-1, 1]]))])  # a tie but for the sign
    np.testing.assert_allclose(update.a, np.array([[1, -1]]) / math.sqrt(2))
    np.testing.assert_allclose(update.b, [[-math.sqrt(2)], [0]])


@given(weighted=contributions())
def test_all_components_are_the_sum(weighted: Weighted) -> None:
    update, values = truncated(weighted)
    wanted = dense(weighted)
    np.testing.assert_allclose(product(update), wanted, atol=1e-12)
    assert update.rank == np.linalg.matrix_rank(wanted, tol=1e-9)
    expected = np.linalg.svd(wanted, compute_uv=False)
    shared = min(len(values), len(expected))
    np.testing.assert_allclose(values[:shared], expected[:shared], atol=1e-12)
    assert not expected[shared:].round(9).any()


@given(weighted=contributions(), rank=st.integers(1, 6))
def test_no_matrix_of_that_rank_is_nearer(weighted: Weighted, rank: int) -> None:
    # Eckart and Young 1936: the least error is the norm of the singular values left out
    update, _ = truncated(weighted, rank=rank)
    wanted = dense(weighted)
    left_out = np.linalg.svd(wanted, compute_uv=False)[rank:]
    error = np.linalg.norm(wanted - product(update))
    assert update.rank <= rank
    assert error == pytest.approx(np.linalg.norm(left_out), abs=1e-10)


@given(weighted=contributions())
def test_rows_are_orthonormal_or_both_factors_weigh_alike(weighted: Weighted) -> None:
    left, values = truncated(weighted)
    balanced, _ = truncated(weighted, split="balanced")
    kept = values[: left.rank]
    np.testing.assert_allclose(left.a @ left.a.T, np.eye(left.rank), atol=1e-12)
    np.testing.assert_allclose(left.b.T @ left.b, np.diag(kept**2), atol=1e-9)
    np.testing.assert_allclose(balanced.a @ balanced.a.T, np.diag(kept), atol=1e-10)
    np.testing.assert_allclose(balanced.b.T @ balanced.b, np.diag(kept), atol=1e-10)
    np.testing.assert_allclose(product(balanced), product(left), atol=1e-12)


def test_the_same_product_in_any_basis_and_order_gives_the_same_factors() -> None:
    parts = equal_shares([random_factors(6, 9, 2, seed) for seed in range(3)])
    turn = random_factors(2, 2, 2, seed=9).a
    turned = [(w, pair(f.b @ np.linalg.inv(turn), turn @ f.a)) for w, f in reversed(parts)]
    scaled = [(w, pair(-100 * f.b, -0.01 * f.a)) for w, f in turned]
    expected, _ = truncated(parts, rank=4)
    found, _ = truncated(scaled, rank=4)
    np.testing.assert_allclose(found.a, expected.a, atol=1e-10)
    np.testing.assert_allclose(found.b, expected.b, atol=1e-10)


def test_scaling_the_weights_scales_b_alone() -> None:
    parts = equal_shares([random_factors(6, 9, 2, seed) for seed in range(3)])
    update, values = truncated(parts)
    scaled, larger = truncated([(8 * weight, part) for weight, part in parts])
    np.testing.assert_allclose(larger, 8 * values)
    np.testing.assert_allclose(scaled.a, update.a, atol=1e-12)
    np.testing.assert_allclose(scaled.b, 8 * update.b, atol=1e-12)


@pytest.mark.parametrize(("energy", "rank"), [(0.01, 1), (0.63, 1), (0.65, 2), (0.99, 2), (1.0, 2)])
def test_energy_by_hand(energy: float, rank: int) -> None:
    # 4² = 16 of 4² + 3² = 25 is 0.64
    diagonal = [(1.0, pair([[3, 0, 0], [0, 4, 0]], [[1, 0], [0, 1], [0, 0]]))]
    assert truncated(diagonal, energy=energy)[0].rank == rank
    assert truncated(diagonal, energy=energy, rank=1)[0].rank == 1


@given(weighted=contributions(), energy=st.floats(0.01, 1.0))
def test_no_component_fewer_holds_the_energy(weighted: Weighted, energy: float) -> None:
    update, values = truncated(weighted, energy=energy)
    total = (values**2).sum()
    slack = 1e-12 * total
    assert (values[: update.rank] ** 2).sum() >= energy * total - slack - 1e-20
    if update.rank:
        assert (values[: update.rank - 1] ** 2).sum() < energy * total + slack


@pytest.mark.parametrize(
    "weighted",
    [
        [(1.0, pair(np.zeros((5, 2)), np.zeros((2, 7))))],
        [(1.0, pair(np.zeros((5, 2)), np.ones((2, 7))))],  # a fresh adapter
        [(1.0, random_factors(5, 7, 2, 0)), (-1.0, random_factors(5, 7, 2, 0))],
        [(1.0, pair(np.zeros((5, 0)), np.zeros((0, 7))))],
    ],
    ids=["zeros", "zero B", "cancelled", "rank 0"],
)
def test_nothing_but_rounding_has_no_components(weighted: Weighted) -> None:
    for energy in (None, 0.5):
        update, values = truncated(weighted, energy=energy)
        assert (update.a.shape, update.b.shape) == ((0, 7), (5, 0))
        assert (values < 1e-13).all()


def test_a_component_that_all_nodes_have_is_kept_once() -> None:
    same = random_factors(5, 7, 2, seed=0)
    update, _ = truncated(equal_shares([same] * 6))
    assert update.rank == 2
    np.testing.assert_allclose(product(update), product(same), atol=1e-12)


@pytest.mark.parametrize("rank", [0, -3])
def test_a_rank_to_keep_is_positive(rank: int) -> None:
    with pytest.raises(ValueError, match=f"a rank from 1, got {rank}"):
        truncated([(1.0, pair([[1]], [[1]]))], rank=rank)


@pytest.mark.parametrize("energy", [0.0, -0.1, 1.1, math.nan])
def test_energy_is_a_share(energy: float) -> None:
    with pytest.raises(ValueError, match=r"an energy in \(0, 1\]"):
        truncated([(1.0, pair([[1]], [[1]]))], energy=energy)


# ---------------------------------------------------------------- widening


@pytest.mark.parametrize("rank", [2, 3, 7])
def test_widening_keeps_the_product_and_adds_directions_that_learn(rank: int) -> None:
    update, _ = truncated([(1.0, random_factors(5, 7, 2, seed=0))])
    wide = widened(update, rank)
    assert wide.rank == rank
    np.testing.assert_array_equal(wide.a[:2], update.a)
    np.testing.assert_array_equal(product(wide), product(update))
    np.testing.assert_allclose(wide.a @ wide.a.T, np.eye(rank), atol=1e-12)
    gradient = np.ones((5, 7))  # of the loss in the weight; that in B is gradient @ aᵀ
    assert (np.linalg.norm(gradient @ wide.a[2:].T, axis=0) > 1e-3).all()


def test_widening_nothing_makes_a_fresh_adapter() -> None:
    wide = widened(pair(np.zeros((5, 0)), np.zeros((0, 7))), 3)
    np.testing.assert_allclose(wide.a @ wide.a.T, np.eye(3), atol=1e-12)
    assert not wide.b.any()


def test_new_directions_are_the_same_on_every_machine() -> None:
    # Gram and Schmidt on the first draws of NumPy's generator of seed 0: unique, signs and all
    wide = widened(pair(np.zeros((2, 0)), np.zeros((0, 3))), 2)
    expected = [
        [0.1489114637, 0.7584992171, -0.6344322767],
        [-0.2958464187, 0.6463718479, 0.7033337264],
    ]
    np.testing.assert_allclose(wide.a, expected, atol=1e-9)


def test_widening_keeps_clear_of_rows_of_any_length() -> None:
    update = random_factors(5, 7, 2, seed=0)
    wide = widened(pair(1e-3 * update.b, 1e3 * update.a), 5)
    np.testing.assert_allclose(wide.a[2:] @ wide.a[:2].T, np.zeros((3, 2)), atol=1e-10)


def test_widening_is_the_same_up_to_rounding_for_inputs_that_are() -> None:
    update, _ = truncated([(1.0, random_factors(5, 7, 2, seed=0))])
    turned = pair(update.b[:, ::-1], update.a[::-1])  # other rows of the same span
    np.testing.assert_allclose(widened(turned, 5).a[2:], widened(update, 5).a[2:], atol=1e-12)


def test_directions_run_out_with_the_inputs() -> None:
    update = random_factors(5, 3, 2, seed=0)
    wide = widened(update, 5)
    assert np.linalg.norm(wide.a[2]) == pytest.approx(1)
    assert not wide.a[3:].any()
    np.testing.assert_array_equal(product(wide), product(update))


def test_widening_does_not_narrow() -> None:
    with pytest.raises(ValueError, match="a rank from 2 to widen to, got 1"):
        widened(random_factors(5, 7, 2, seed=0), 1)
