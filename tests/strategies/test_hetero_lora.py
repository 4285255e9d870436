"""Mixed ranks: padding, cutting, serving, and HetLoRA's weights."""

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

from fedpeft_app.errors import AdapterMismatchError
from fedpeft_app.strategies.exact_lora import fedit, flexlora
from fedpeft_app.strategies.hetero_lora import cut, hetlora, norm_shares, padded, served


def test_padding_by_hand() -> None:
    wide = padded(pair([[1], [2]], [[3, 4]]), 3)
    assert wide.a.tolist() == [[3, 4], [0, 0], [0, 0]]
    assert wide.b.tolist() == [[1, 0, 0], [2, 0, 0]]


@given(parts=contributions(), extra=st.integers(0, 4))
def test_cutting_undoes_padding_which_keeps_the_product(parts: Weighted, extra: int) -> None:
    update = parts[0][1]
    wide = padded(update, update.rank + extra)
    np.testing.assert_array_equal(product(wide), product(update))
    back = cut(wide, update.rank)
    np.testing.assert_array_equal(back.a, update.a)
    np.testing.assert_array_equal(back.b, update.b)


def test_cutting_by_hand() -> None:
    narrow = cut(pair([[1, 2], [3, 4]], [[5, 6, 7], [8, 9, 10]]), 1)
    assert narrow.a.tolist() == [[5, 6, 7]]
    assert narrow.b.tolist() == [[1], [3]]


def test_padding_widens_and_cutting_narrows() -> None:
    update = random_factors(5, 7, 2, seed=0)
    with pytest.raises(ValueError, match="a rank from 2 to pad to, got 1"):
        padded(update, 1)
    for rank in (0, -1, 3):
        with pytest.raises(ValueError, match=f"a rank from 1 to 2 to cut to, got {rank}"):
            cut(update, rank)


def test_norm_shares_by_hand() -> None:
    # norms 3·5, 5 and 0
    updates = [pair([[1], [2], [2]], [[3, 4]]), pair([[1], [0], [0]], [[3, 4]])]
    nothing = pair(np.zeros((3, 4)), np.ones((4, 2)))
    assert norm_shares([*updates, nothing]) == pytest.approx((0.75, 0.25, 0.0))


def test_norm_shares_see_products_not_factors() -> None:
    one = random_factors(5, 7, 2, seed=0)
    same = pair(1e6 * one.b, 1e-6 * one.a)
    assert norm_shares([one, same]) == pytest.approx((0.5, 0.5))


def test_without_any_update_shares_are_equal() -> None:
    nothing = pair([[0], [0]], [[1, 2, 3]])
    assert norm_shares([nothing] * 4) == (0.25,) * 4
    server = pair(np.zeros((2, 2)), [[7, 8, 9], [4, 5, 6]])
    assert hetlora([nothing] * 4, server).a.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_hetlora_by_hand() -> None:
    # products (3, 0; 0, 0) and diag(0, 1): shares 3/4 and 1/4; only one has the second component
    low = pair([[3], [0]], [[1, 0]])
    high = pair([[0, 0], [0, 1]], [[1, 1], [0, 1]])
    mean = hetlora([low, high], pair(np.full((2, 2), 9), np.full((2, 2), 9)))
    np.testing.assert_allclose(mean.a, [[1, 0.25], [0, 1]])
    np.testing.assert_allclose(mean.b, [[2.25, 0], [0, 1]])


def test_hetlora_of_one_rank_and_equal_norms_is_fedit() -> None:
    updates = [pair([[2], [0]], [[1, 0]]), pair([[0], [1]], [[0, 2]])]
    mean, expected = hetlora(updates, updates[0]), fedit(equal_shares(updates))
    np.testing.assert_allclose(mean.a, expected.a)
    np.testing.assert_allclose(mean.b, expected.b)


def test_a_component_is_averaged_over_those_who_have_it() -> None:
    low, high = random_factors(5, 7, 1, seed=0), random_factors(5, 7, 3, seed=1)
    mean = hetlora([low, high], random_factors(5, 7, 3, seed=2))
    np.testing.assert_allclose(mean.a[1:], high.a[1:])
    np.testing.assert_allclose(mean.b[:, 1:], high.b[:, 1:])
    first, second = norm_shares([low, high])
    np.testing.assert_allclose(mean.a[0], first * low.a[0] + second * high.a[0])


def test_what_nobody_has_stays_the_servers() -> None:
    server = random_factors(5, 7, 4, seed=2)
    for low in (random_factors(5, 7, 1, seed=0), cut(server, 1)):
        mean = hetlora([low, low], server)
        np.testing.assert_array_equal(mean.a[1:], server.a[1:])
        np.testing.assert_array_equal(mean.b[:, 1:], server.b[:, 1:])
        np.testing.assert_allclose(mean.a[0], low.a[0])


def test_what_all_have_is_folded_as_in_the_paper() -> None:
    updates = [random_factors(5, 7, 2, seed) for seed in (0, 1)]
    mean = hetlora(updates, random_factors(5, 7, 2, seed=2))
    expected = fedit(list(zip(norm_shares(updates), updates, strict=True)))
    np.testing.assert_allclose(mean.a, expected.a)
    np.testing.assert_allclose(mean.b, expected.b)


def test_a_node_without_an_update_does_not_count_in_hetlora() -> None:
    updates = [random_factors(5, 7, 2, seed) for seed in (0, 1)]
    idle = pair(np.zeros((5, 2)), np.ones((2, 7)))
    server = random_factors(5, 7, 2, seed=2)
    mean, expected = hetlora([updates[0], idle, updates[1]], server), hetlora(updates, server)
    np.testing.assert_allclose(mean.a, expected.a)
    np.testing.assert_allclose(mean.b, expected.b)


def test_hetlora_refuses_what_does_not_fit() -> None:
    server = random_factors(5, 7, 2, seed=2)
    with pytest.raises(ValueError, match="positive shares that sum to 1, got 0"):
        hetlora([], server)
    with pytest.raises(ValueError, match="a rank from 3 to pad to, got 2"):
        hetlora([random_factors(5, 7, 3, seed=0)], server)
    with pytest.raises(AdapterMismatchError, match="factors of one shape"):
        hetlora([random_factors(5, 7, 2, seed=0), random_factors(5, 8, 2, seed=0)], server)


@given(parts=contributions(), rank=st.integers(1, 6))
def test_what_is_served_is_the_nearest_of_its_rank(parts: Weighted, rank: int) -> None:
    update = parts[0][1]
    found = served(update, rank)
    values = np.linalg.svd(product(update), compute_uv=False)
    assert found.rank == rank
    np.testing.assert_allclose(
        np.linalg.norm(product(update) - product(found)), np.linalg.norm(values[rank:]), atol=1e-10
    )


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_serving_what_is_decomposed_already_is_cutting(rank: int) -> None:
    parts = equal_shares([random_factors(6, 9, 2, seed) for seed in range(3)])
    whole = flexlora(parts, rank=4)
    np.testing.assert_allclose(served(whole, rank).a, cut(whole, rank).a, atol=1e-12)
    np.testing.assert_allclose(served(whole, rank).b, cut(whole, rank).b, atol=1e-12)


def test_cutting_other_factors_is_not_serving() -> None:
    # diag(1, 2) with the smaller component first
    update = pair([[1, 0], [0, 2]], [[1, 0], [0, 1]])
    assert np.linalg.norm(product(update) - product(cut(update, 1))) == pytest.approx(2)
    assert np.linalg.norm(product(update) - product(served(update, 1))) == pytest.approx(1)


def test_a_node_of_a_higher_rank_gets_directions_that_learn() -> None:
    update = random_factors(5, 7, 2, seed=0)
    found = served(update, 4)
    np.testing.assert_allclose(product(found), product(update), atol=1e-12)
    np.testing.assert_allclose(found.a @ found.a.T, np.eye(4), atol=1e-12)
    assert not found.b[:, 2:].any()


def test_a_rank_to_serve_is_positive() -> None:
    with pytest.raises(ValueError, match="a rank from 1, got 0"):
        served(random_factors(5, 7, 2, seed=0), 0)


def test_nodes_of_all_ranks_come_together_exactly_where_the_server_has_room() -> None:
    updates = [random_factors(12, 20, rank, seed=rank) for rank in (1, 2, 4)]
    parts = equal_shares(updates)
    whole = flexlora(parts, rank=7)
    np.testing.assert_allclose(product(whole), dense(parts), atol=1e-10)
    errors = [np.linalg.norm(dense(parts) - product(served(whole, rank))) for rank in (1, 2, 4, 7)]
    assert errors == sorted(errors, reverse=True)
    assert math.isclose(errors[-1], 0, abs_tol=1e-10)
