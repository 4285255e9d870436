"""The LoRA-aware rules: by hand, against dense products, and by their laws."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from low_rank_samples import (
    Weighted,
    contributions,
    dense,
    equal_shares,
    missed,
    pair,
    product,
    random_factors,
)

from fedpeft_app.adapters.products import Factors
from fedpeft_app.errors import AdapterMismatchError
from fedpeft_app.strategies.exact_lora import (
    fedex,
    fedit,
    fedsvd,
    flexlora,
    flora,
    lora_fair,
)

# e₁e₁ᵀ and e₂e₂ᵀ: the mean product is I / 2, the product of means ((1, 1), (1, 1)) / 4
CROSSED = [(0.5, pair([[1], [0]], [[1, 0]])), (0.5, pair([[0], [1]], [[0, 1]]))]
UNEVEN = [(0.75, CROSSED[0][1]), (0.25, CROSSED[1][1])]  # the mean is diag(3, 1) / 4
RULES: dict[str, Callable[[Weighted], Sequence[Factors]]] = {
    "fedit": lambda parts: (fedit(parts),),
    "flora": lambda parts: (flora(parts),),
    "flexlora": lambda parts: (flexlora(parts, rank=2),),
    "flexlora, as FLoRIST": lambda parts: (flexlora(parts, rank=2, energy=0.9),),
    "fedex": fedex,
    "fedex truncated": lambda parts: fedex(parts, rank=1),
    "lora_fair": lambda parts: (lora_fair(parts, ridge=0.0),),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def result_of(results: Sequence[Factors]) -> np.ndarray:
    """Form what a rule's results stand for."""
    return np.sum([product(result) for result in results], axis=0)


# ---------------------------------------------------------------- by hand


def test_fedit_by_hand() -> None:
    mean = fedit(CROSSED)
    assert mean.a.tolist() == [[0.5, 0.5]]
    assert mean.b.tolist() == [[0.5], [0.5]]


def test_fedit_weighs_both_factors() -> None:
    mean = fedit([(0.25, pair([[4], [0], [8]], [[4, 8]])), (0.75, pair([[0], [4], [0]], [[0, 4]]))])
    assert mean.a.tolist() == [[1, 5]]
    assert mean.b.tolist() == [[1], [3], [2]]


def test_fedit_misses_by_its_cross_terms() -> None:
    # I/2 − ((1, 1), (1, 1))/4 = ((1, −1), (−1, 1))/4 has norm 1/2; I/2 has norm 1/√2
    assert missed(CROSSED, fedit(CROSSED)) == pytest.approx(1 / math.sqrt(2))


def test_flora_by_hand() -> None:
    stacked = flora(UNEVEN)
    assert stacked.a.tolist() == [[0.75, 0], [0, 0.25]]  # the weights are on A alone
    assert stacked.b.tolist() == [[1, 0], [0, 1]]


def test_flexlora_by_hand() -> None:
    best = flexlora(UNEVEN, rank=1)
    np.testing.assert_allclose(best.a, [[1, 0]], atol=1e-15)
    np.testing.assert_allclose(best.b, [[0.75], [0]], atol=1e-15)
    # 1/4 is lost of a norm of √(9 + 1)/4
    assert missed(UNEVEN, best) == pytest.approx(1 / math.sqrt(10))


def test_flexlora_has_the_rank_it_was_asked_for() -> None:
    wide = flexlora(UNEVEN, rank=2)
    wider = flexlora([(1.0, pair([[2], [0], [0]], [[3, 0, 4]]))], rank=3)
    np.testing.assert_allclose(wide.b, [[0.75, 0], [0, 0.25]], atol=1e-15)
    np.testing.assert_allclose(wider.b, [[10, 0, 0], [0, 0, 0], [0, 0, 0]], atol=1e-14)
    np.testing.assert_allclose(wider.a[0], [0.6, 0, 0.8])
    np.testing.assert_allclose(wider.a @ wider.a.T, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(("energy", "kept"), [(0.89, 1), (0.91, 2), (1.0, 2), (None, 2)])
def test_florists_energy_by_hand(energy: float | None, kept: int) -> None:
    # 9 of 9 + 1 is 0.9
    found = flexlora(UNEVEN, rank=2, energy=energy)
    assert np.count_nonzero(found.b.any(axis=0)) == kept
    np.testing.assert_allclose(found.a @ found.a.T, np.eye(2), atol=1e-12)
    assert flexlora(UNEVEN, rank=1, energy=energy).rank == 1


def test_flexlora_of_nothing_is_a_fresh_adapter() -> None:
    fresh = flexlora([(1.0, pair([[0], [0]], [[0, 0, 0]]))], rank=1, energy=0.9)
    assert np.linalg.norm(fresh.a) == pytest.approx(1)
    assert not fresh.b.any()


def test_fedex_by_hand() -> None:
    mean, residual = fedex(CROSSED)
    assert (mean.a.tolist(), mean.b.tolist()) == ([[0.5, 0.5]], [[0.5], [0.5]])
    # ((1, −1), (−1, 1))/4 = 1/2 · (1, −1)ᵀ/√2 · (1, −1)/√2
    np.testing.assert_allclose(residual.a, np.array([[1, -1]]) / math.sqrt(2))
    np.testing.assert_allclose(residual.b, np.array([[1], [-1]]) / math.sqrt(8))


def test_fedsvd_by_hand() -> None:
    # (2, 0, 0)ᵀ·(3, 4) = (10, 0, 0)ᵀ·(0.6, 0.8)
    turned = fedsvd(pair([[2], [0], [0]], [[3, 4]]))
    np.testing.assert_allclose(turned.a, [[0.6, 0.8]])
    np.testing.assert_allclose(turned.b, [[10], [0], [0]])


def test_lora_fair_by_hand() -> None:
    # B₁A₁ = 1·1, B₂A₂ = 2·3: ΔW = 7/2, Ā = 2, B̄ = 3/2, and 7/4 · 2 would be right
    parts = equal_shares([pair([[1]], [[1]]), pair([[2]], [[3]])])
    assert lora_fair(parts, ridge=0.0).a.tolist() == [[2]]
    np.testing.assert_allclose(lora_fair(parts, ridge=0.0).b, [[1.75]])
    # with μ = 2λ·(7/2)² = 4, ΔB = (7/2 − 3)·2 / (2² + 4) = 1/8
    np.testing.assert_allclose(lora_fair(parts, ridge=4 / 24.5).b, [[1.625]])
    np.testing.assert_allclose(lora_fair(parts, ridge=1e9).b, [[1.5]])


def test_lora_fair_cannot_reach_what_the_mean_rows_do_not_span() -> None:
    # the residual's rows, (1, −1), are orthogonal to Ā = (1, 1)/2: nothing to correct
    np.testing.assert_allclose(lora_fair(CROSSED, ridge=0.0).b, fedit(CROSSED).b)
    assert missed(CROSSED, lora_fair(CROSSED)) == pytest.approx(1 / math.sqrt(2))


# ---------------------------------------------------------------- against dense products


@given(parts=contributions(one_rank=True))
def test_fedits_error_is_the_covariance_of_the_factors(parts: Weighted) -> None:
    mean = fedit(parts)
    covariance = sum(p * (f.b - mean.b) @ (f.a - mean.a) for p, f in parts)
    np.testing.assert_allclose(dense(parts) - product(mean), covariance, atol=1e-12)


@given(parts=contributions(), rank=st.integers(1, 6))
def test_flexlora_is_the_dense_decomposition_cut(parts: Weighted, rank: int) -> None:
    u, values, vt = np.linalg.svd(dense(parts), full_matrices=False)
    gaps = np.append(values, 0.0)
    found = flexlora(parts, rank=rank)
    assert found.rank == rank
    np.testing.assert_allclose(
        np.linalg.norm(dense(parts) - product(found)), np.linalg.norm(values[rank:]), atol=1e-10
    )
    if rank >= len(values) or gaps[rank - 1] - gaps[rank] > 1e-6:  # else the best is not unique
        best = (u[:, :rank] * values[:rank]) @ vt[:rank]
        np.testing.assert_allclose(product(found), best, atol=1e-8)


@given(parts=contributions(), energy=st.floats(0.01, 1.0))
def test_an_energy_loses_no_more_than_it_may(parts: Weighted, energy: float) -> None:
    room = min(dense(parts).shape)
    found = flexlora(parts, room, energy)
    lost = np.linalg.norm(dense(parts) - product(found))
    assert lost <= math.sqrt(1 - energy) * np.linalg.norm(dense(parts)) + 1e-7
    assert found.rank == room


@given(parts=contributions(one_rank=True))
def test_fedex_is_exact_with_a_residual_of_low_rank(parts: Weighted) -> None:
    mean, residual = fedex(parts)
    np.testing.assert_allclose(product(mean) + product(residual), dense(parts), atol=1e-12)
    assert residual.rank <= (len(parts) - 1) * mean.rank


@given(parts=contributions(one_rank=True), rank=st.integers(1, 3))
def test_a_truncated_residual_loses_the_least(parts: Weighted, rank: int) -> None:
    mean, residual = fedex(parts, rank=rank)
    missing = dense(parts) - product(mean)
    values = np.linalg.svd(missing, compute_uv=False)
    assert residual.rank <= rank
    np.testing.assert_allclose(
        np.linalg.norm(missing - product(residual)), np.linalg.norm(values[rank:]), atol=1e-10
    )


@given(parts=contributions())
def test_fedsvd_keeps_product_and_shape_and_makes_rows_orthonormal(parts: Weighted) -> None:
    mean = parts[0][1]
    turned = fedsvd(mean)
    np.testing.assert_allclose(product(turned), product(mean), atol=1e-12)
    assert (turned.a.shape, turned.b.shape) == (mean.a.shape, mean.b.shape)
    spanned = min(turned.a.shape)
    np.testing.assert_allclose(
        turned.a @ turned.a.T, np.diag(np.arange(mean.rank) < spanned), atol=1e-12
    )


def test_fedsvd_again_changes_nothing() -> None:
    once = fedsvd(random_factors(6, 9, 3, seed=0))
    twice = fedsvd(once)
    np.testing.assert_allclose(twice.a, once.a, atol=1e-12)
    np.testing.assert_allclose(twice.b, once.b, atol=1e-12)


def fair_objective(parts: Weighted, result: Factors, ridge: float) -> float:
    """What LoRA-FAIR minimises, from dense matrices."""
    wanted = dense(parts)
    error = np.linalg.norm(wanted - product(result)) ** 2 / (2 * np.linalg.norm(wanted) ** 2)
    return float(error + ridge * np.linalg.norm(result.b - fedit(parts).b) ** 2)


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 0.01, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_step_from_lora_fairs_correction_leads_down(ridge: float, seed: int) -> None:
    parts = equal_shares([random_factors(5, 7, 2, 10 * seed + k) for k in range(4)])
    found = lora_fair(parts, ridge=ridge)
    least = fair_objective(parts, found, ridge)
    assert least < fair_objective(parts, fedit(parts), ridge)
    steps = np.random.default_rng(seed).standard_normal((50, 5, 2))
    for size in (1e-3, 1.0):  # the objective is convex: what is least nearby is least
        for step in steps:
            moved = pair(found.b + size * step, found.a)
            assert fair_objective(parts, moved, ridge) > least


@given(parts=contributions(one_rank=True))
def test_lora_fair_without_a_ridge_is_least_squares(parts: Weighted) -> None:
    mean = fedit(parts)
    step = np.linalg.lstsq(mean.a.T, (dense(parts) - product(mean)).T, rcond=1e-10)[0].T
    np.testing.assert_allclose(lora_fair(parts, ridge=0.0).b, mean.b + step, atol=1e-7)


def test_at_one_length_lora_fairs_error_is_one_minus_the_cosine() -> None:
    first, second = (product(random_factors(5, 7, 2, seed)) for seed in (0, 1))
    second *= np.linalg.norm(first) / np.linalg.norm(second)
    cosine = (first * second).sum() / np.linalg.norm(first) ** 2
    error = np.linalg.norm(first - second) ** 2 / (2 * np.linalg.norm(first) ** 2)
    assert error == pytest.approx(1 - cosine)


@given(parts=contributions(one_rank=True), ridge=st.floats(0, 10))
def test_lora_fair_is_never_further_off_than_fedit(parts: Weighted, ridge: float) -> None:
    before = np.linalg.norm(dense(parts) - product(fedit(parts)))
    after = np.linalg.norm(dense(parts) - product(lora_fair(parts, ridge=ridge)))
    assert after <= before + 1e-9


# ---------------------------------------------------------------- laws


@every_rule
def test_one_node_is_taken_as_it_is(rule: Callable[[Weighted], Sequence[Factors]]) -> None:
    one = random_factors(5, 7, 2, seed=0)
    np.testing.assert_allclose(result_of(rule([(1.0, one)])), product(one), atol=1e-12)


@every_rule
def test_equal_nodes_are_as_one(rule: Callable[[Weighted], Sequence[Factors]]) -> None:
    one = random_factors(5, 7, 2, seed=0)
    results = rule(equal_shares([one] * 7))
    np.testing.assert_allclose(result_of(results), product(one), atol=1e-12)


def test_equal_nodes_leave_no_residual() -> None:
    assert fedex(equal_shares([random_factors(5, 7, 2, seed=0)] * 7))[1].rank == 0


@every_rule
def test_the_order_of_nodes_does_not_matter(
    rule: Callable[[Weighted], Sequence[Factors]],
) -> None:
    parts = [(w, random_factors(5, 7, 2, k)) for k, w in enumerate((0.5, 0.2, 0.3))]
    there, back = result_of(rule(parts)), result_of(rule(parts[::-1]))
    np.testing.assert_allclose(back, there, atol=1e-12)


@every_rule
@pytest.mark.parametrize("scale", [1e-6, -3.0, 1e6])
def test_scaling_b_scales_the_result(
    rule: Callable[[Weighted], Sequence[Factors]], scale: float
) -> None:
    parts = equal_shares([random_factors(5, 7, 2, k) for k in range(3)])
    scaled = [(share, pair(scale * part.b, part.a)) for share, part in parts]
    expected = scale * result_of(rule(parts))
    np.testing.assert_allclose(result_of(rule(scaled)), expected, atol=1e-10 * abs(scale))


@every_rule
def test_untrained_nodes_give_an_untrained_mean(
    rule: Callable[[Weighted], Sequence[Factors]],
) -> None:
    parts = equal_shares([pair(np.zeros((5, 2)), random_factors(5, 7, 2, k).a) for k in range(3)])
    results = rule(parts)
    assert not result_of(results).any()
    assert all(np.isfinite(result.a).all() for result in results)


@every_rule
def test_results_are_wide_and_inputs_are_left_alone(
    rule: Callable[[Weighted], Sequence[Factors]],
) -> None:
    parts = equal_shares([random_factors(5, 7, 2, k) for k in range(3)])
    before = [(part.a.copy(), part.b.copy()) for _, part in parts]
    assert {result.a.dtype for result in rule(parts)} == {np.dtype(np.float64)}
    for (_, part), (a, b) in zip(parts, before, strict=True):
        np.testing.assert_array_equal(part.a, a)
        np.testing.assert_array_equal(part.b, b)


@every_rule
@pytest.mark.parametrize("shares", [(), (0.5, 0.4), (2.0, 3.0), (1.5, -0.5), (1.0, 0.0)])
def test_shares_are_positive_and_sum_to_one(
    rule: Callable[[Weighted], Sequence[Factors]], shares: tuple[float, ...]
) -> None:
    parts = [(share, random_factors(5, 7, 2, k)) for k, share in enumerate(shares)]
    with pytest.raises(ValueError, match="Expected positive shares that sum to 1, got"):
        rule(parts)


@pytest.mark.parametrize("rule", [fedit, fedex, lora_fair])
def test_means_of_factors_need_one_rank(rule: Any) -> None:
    parts = equal_shares([random_factors(5, 7, rank, seed=0) for rank in (1, 2)])
    with pytest.raises(AdapterMismatchError, match="factors of one shape to average"):
        rule(parts)


def test_many_small_shares_sum_to_one() -> None:
    count = 3000
    parts = [(1 / count, pair([[1]], [[2]]))] * count
    assert product(fedit(parts)).item() == pytest.approx(2)


@pytest.mark.parametrize("ridge", [-0.1, math.inf, math.nan])
def test_a_ridge_is_not_negative(ridge: float) -> None:
    with pytest.raises(ValueError, match="a ridge ≥ 0"):
        lora_fair(CROSSED, ridge=ridge)
