"""‖Σ p·BA − result‖ / ‖Σ p·BA‖: at most 1e-5 for all that is exact, as states hold it.

First the rules, as functions of one module's factors; then the strategies of a run, round by round.

The results are rounded to float32 first, as they are when they become a state. Rules that cut
lose exactly what the singular values left out say; FedIT loses its cross terms.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from low_rank_runs import ALIKE, ROOM, drawn, errors, fresh, of_ranks, spec_of
from low_rank_samples import (
    Weighted,
    as_states_are,
    dense,
    equal_shares,
    missed,
    pair,
    product,
    random_factors,
)

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.products import Factors
from fedpeft_app.strategies.catalogue import make_strategy
from fedpeft_app.strategies.exact_lora import (
    fedex,
    fedit,
    fedsvd,
    flexlora,
    flora,
    lora_fair,
)
from fedpeft_app.strategies.hetero_lora import served

EXACT = 1e-5
OUT, INPUTS, RANK, NODES = 48, 96, 4, 6
Rule = Callable[[Weighted], Sequence[Factors]]


def shares(count: int) -> list[float]:
    """Make shares as different as 1 : 2 : 3 … ."""
    return [2 * (k + 1) / (count * (count + 1)) for k in range(count)]


def trained(nodes: int = NODES, spread: float = 1.0) -> Weighted:
    """Make nodes that set out from common factors and went their own ways."""
    start = random_factors(OUT, INPUTS, RANK, seed=99)
    parts = []
    for seed, share in enumerate(shares(nodes)):
        step = random_factors(OUT, INPUTS, RANK, seed)
        update = pair(start.b + spread * step.b, start.a + spread * step.a)
        parts.append((share, as_states_are(update)))
    return parts


SCENES: dict[str, Weighted] = {
    "one node": trained(1),
    "nodes far apart": trained(),
    "nodes close together": trained(spread=1e-3),
    "a fresh adapter": [(p, as_states_are(pair(1e-6 * f.b, f.a))) for p, f in trained()],
    "ranks lost": [(p, pair(np.outer(f.b[:, 0], [1, 1, 1, 1]), f.a)) for p, f in trained()],
    "an idle node": [
        (p, pair(0 * f.b, f.a) if k == 0 else f) for k, (p, f) in enumerate(trained())
    ],
    "more rows than inputs": equal_shares(
        [random_factors(5, 7, RANK, seed) for seed in range(NODES)]
    ),
}
MIXED = [
    (share, random_factors(OUT, INPUTS, rank, seed=rank))
    for share, rank in zip(shares(4), (1, 2, 4, 8), strict=True)
]
ANY_RANKS: dict[str, Rule] = {
    "flora": lambda parts: (flora(parts),),
    "flexlora at full rank": lambda parts: (flexlora(parts, sum(f.rank for _, f in parts)),),
    "flexlora with all energy": lambda parts: (
        flexlora(parts, sum(f.rank for _, f in parts), energy=1.0),
    ),
}
ONE_RANK: dict[str, Rule] = {"fedex": fedex}


@pytest.mark.parametrize(
    "rule", [*ANY_RANKS.values(), *ONE_RANK.values()], ids=[*ANY_RANKS, *ONE_RANK]
)
@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_what_is_exact_is_exact_in_float32(rule: Rule, scene: Weighted) -> None:
    results = [as_states_are(result) for result in rule(scene)]
    assert missed(scene, *results) <= EXACT


@pytest.mark.parametrize("rule", ANY_RANKS.values(), ids=ANY_RANKS)
def test_ranks_may_differ(rule: Rule) -> None:
    results = [as_states_are(result) for result in rule(MIXED)]
    assert missed(MIXED, *results) <= EXACT


COMMON = random_factors(OUT, INPUTS, RANK, seed=99)
ONE_FACTOR_IN_COMMON: dict[str, Weighted] = {
    "ffa, or rolora while A rests": [(p, pair(f.b, COMMON.a)) for p, f in trained()],
    "rolora while B rests": [(p, pair(COMMON.b, f.a)) for p, f in trained()],
    "fed-sb: B and A rest, R between them is trained": [
        (p, pair(COMMON.b, random_factors(RANK, RANK, RANK, k).a @ COMMON.a))
        for k, (p, _) in enumerate(trained())
    ],
}


@pytest.mark.parametrize("scene", ONE_FACTOR_IN_COMMON.values(), ids=ONE_FACTOR_IN_COMMON)
def test_the_plain_mean_is_exact_where_one_factor_is_common(scene: Weighted) -> None:
    assert missed(scene, as_states_are(fedit(scene))) <= EXACT


def test_the_mean_core_is_the_mean_of_the_products() -> None:
    cores = [random_factors(RANK, RANK, RANK, seed).a for seed in range(NODES)]
    parts = [
        (p, pair(COMMON.b, core @ COMMON.a)) for p, core in zip(shares(NODES), cores, strict=True)
    ]
    mean = sum(p * core for p, core in zip(shares(NODES), cores, strict=True))
    assert missed(parts, as_states_are(pair(COMMON.b @ mean, COMMON.a))) <= EXACT


def test_fedsvd_is_exact_round_after_round() -> None:
    common = COMMON.a
    for round_number in range(5):
        steps = [random_factors(OUT, INPUTS, RANK, 10 * round_number + k).b for k in range(NODES)]
        parts = [(p, pair(step, common)) for p, step in zip(shares(NODES), steps, strict=True)]
        turned = as_states_are(fedsvd(fedit(parts)))
        assert missed(parts, turned) <= EXACT
        np.testing.assert_allclose(turned.a @ turned.a.T, np.eye(RANK), atol=1e-6)
        common = turned.a


def test_fedit_is_not_exact() -> None:
    # e₁e₁ᵀ and e₂e₂ᵀ, by hand: 1/√2; and nodes that went their own ways
    crossed = equal_shares([pair([[1], [0]], [[1, 0]]), pair([[0], [1]], [[0, 1]])])
    assert missed(crossed, fedit(crossed)) == pytest.approx(1 / math.sqrt(2))
    for name in ("nodes far apart", "an idle node", "more rows than inputs"):
        assert missed(SCENES[name], fedit(SCENES[name])) > 0.1


def test_fedits_error_grows_as_the_square_of_how_far_nodes_went() -> None:
    near, far = (trained(spread=spread) for spread in (1e-3, 1e-2))
    ratio = missed(far, fedit(far)) / missed(near, fedit(near))
    assert ratio == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_lora_fair_lies_between_fedit_and_exactness(scene: Weighted) -> None:
    plain = missed(scene, fedit(scene))
    corrected = missed(scene, lora_fair(scene))
    best = np.linalg.norm(dense(scene) @ (np.eye(scene[0][1].a.shape[1]) - row_space(scene)))
    assert corrected <= plain + 1e-12
    assert corrected >= best / np.linalg.norm(dense(scene)) - 1e-9


def row_space(scene: Weighted) -> np.ndarray:
    """Give the projection onto the rows of the mean A."""
    mean = fedit(scene).a
    return np.asarray(np.linalg.pinv(mean) @ mean)


@pytest.mark.parametrize("rank", [1, 2, RANK, 3 * RANK])
@pytest.mark.parametrize("scene", [*SCENES.values(), MIXED], ids=[*SCENES, "mixed ranks"])
def test_truncation_loses_what_eckart_and_young_say(scene: Weighted, rank: int) -> None:
    values = np.linalg.svd(dense(scene), compute_uv=False)
    least = np.linalg.norm(values[rank:]) / np.linalg.norm(values)
    found = flexlora(scene, rank)
    assert missed(scene, found) == pytest.approx(least, abs=1e-9)
    assert missed(scene, as_states_are(found)) == pytest.approx(least, abs=EXACT)
    whole = flexlora(scene, 3 * RANK)
    assert missed([(1.0, whole)], served(whole, rank)) == pytest.approx(
        np.linalg.norm(values[rank : 3 * RANK]) / np.linalg.norm(values[: 3 * RANK]), abs=1e-9
    )


@pytest.mark.parametrize("rank", [1, RANK, 3 * RANK])
def test_a_cut_residual_loses_its_own_tail(rank: int) -> None:
    scene = SCENES["nodes far apart"]
    mean, residual = fedex(scene, rank=rank)
    missing = np.linalg.svd(dense(scene) - product(mean), compute_uv=False)
    least = np.linalg.norm(missing[rank:]) / np.linalg.norm(dense(scene))
    assert missed(scene, mean, residual) == pytest.approx(least, abs=1e-9)


def test_thirty_nodes_on_a_real_layer_are_exact() -> None:
    # the second linear layer of MiniLM's MLP: 384 × 1536
    parts = equal_shares([random_factors(384, 1536, 8, seed) for seed in range(30)])
    for results in (fedex(parts), (flora(parts),), (flexlora(parts, 240),)):
        assert missed(parts, *(as_states_are(result) for result in results)) <= EXACT


# ---------------------------------------------------------------- strategies

every_start = pytest.mark.parametrize("start", [fresh, drawn])
Start = Callable[[AdapterSpec], AdapterState]


@every_start
@pytest.mark.parametrize(
    ("name", "residual"), [("fedsvd", 0), ("rolora", 0), ("fedex", ROOM), ("flora", ROOM)]
)
def test_exact_strategies_bring_the_mean_of_the_products(
    name: str, residual: int, start: Start
) -> None:
    state = start(spec_of(residual=residual))
    assert max(errors(make_strategy(name, {}), state, ALIKE)) <= EXACT


@every_start
def test_flora_is_exact_for_nodes_of_any_ranks(start: Start) -> None:
    nodes = of_ranks(1, 0, 2, 1)
    assert max(errors(make_strategy("flora", {}), start(spec_of(residual=ROOM)), nodes)) <= EXACT


@pytest.mark.parametrize("rank", [ROOM, 3])
def test_flexlora_is_exact_at_full_rank_only(rank: int) -> None:
    found = errors(make_strategy("flexlora", {}), fresh(spec_of(rank=rank)), ALIKE)
    assert (max(found) <= EXACT) is (rank == ROOM)


@pytest.mark.parametrize("name", ["fedit", "fedavg", "lora-fair", "hetlora"])
def test_other_strategies_are_not_exact(name: str) -> None:
    assert min(errors(make_strategy(name, {}), fresh(spec_of()), ALIKE)) > 0.01


def test_lora_fair_is_nearer_than_fedit() -> None:
    plain, fair = (
        errors(make_strategy(name, {}), fresh(spec_of()), ALIKE)[0]
        for name in ("fedit", "lora-fair")
    )
    assert fair < plain
