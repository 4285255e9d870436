"""Strategies for LoRA as the round loop drives them; which are exact: the exactness contract."""

import numpy as np
import pytest
from low_rank_runs import (
    ALIKE,
    INPUTS,
    ROOM,
    drawn,
    errors,
    fresh,
    gained,
    local,
    of_ranks,
    spec_of,
    trained,
)

from fedpeft_app.adapters import AdapterSpec, TensorSpec
from fedpeft_app.adapters.lora import factors, resized_spec
from fedpeft_app.adapters.residuals import residual_factors
from fedpeft_app.errors import AdapterMismatchError, RollCallError
from fedpeft_app.strategies.catalogue import make_strategy
from fedpeft_app.strategies.residual_lora import FedEx, Flora
from fedpeft_app.strategies.strategy import Assignment

EXACT = 1e-5


@pytest.mark.parametrize("strategy", [FedEx, Flora])
def test_a_residual_without_room_keeps_the_best_and_says_so(
    strategy: type[FedEx | Flora], caplog: pytest.LogCaptureFixture
) -> None:
    roomy, narrow = strategy(), strategy()
    assert max(errors(roomy, fresh(spec_of(residual=ROOM)), ALIKE)) <= EXACT
    assert roomy.notes["residual-lost"] <= EXACT
    assert not caplog.text
    assert min(errors(narrow, fresh(spec_of(residual=2)), ALIKE)) > EXACT
    assert f"{narrow.name}: the frozen residuals have room for all but" in caplog.text


def test_the_note_is_the_share_of_the_norm_that_is_lost() -> None:
    state, strategy = fresh(spec_of(residual=2)), Flora()
    tasks = strategy.configure(1, state, ALIKE)
    replies = [trained(tasks[node.node_id], node, 1) for node in ALIKE]
    wanted = sum(reply.weight / 100 * gained(local(reply)) for reply in replies)
    values = np.linalg.svd(wanted, compute_uv=False)  # of each module
    strategy.aggregate(1, state, replies)
    lost = np.linalg.norm(values[:, 2:]) / np.linalg.norm(values)
    assert strategy.notes == {"residual-lost": pytest.approx(lost, rel=1e-5)}


def test_both_halves_of_a_residual_are_of_one_size() -> None:
    state, strategy = fresh(spec_of(residual=ROOM)), Flora()
    tasks = strategy.configure(1, state, ALIKE)
    after = strategy.aggregate(1, state, [trained(tasks[n.node_id], n, 1) for n in ALIKE])
    for found in residual_factors(after).values():
        np.testing.assert_allclose(
            np.linalg.norm(found.a, axis=1), np.linalg.norm(found.b, axis=0), rtol=1e-5
        )


@pytest.mark.parametrize("residual", [0, ROOM])
def test_the_head_is_averaged_by_examples(residual: int) -> None:
    for name in ("flora", "fedex") if residual else ("flexlora", "fedsvd", "hetlora", "rolora"):
        state, nodes = fresh(spec_of(residual=residual)), ALIKE
        strategy = make_strategy(name, {})
        tasks = strategy.configure(1, state, nodes)
        replies = [trained(tasks[node.node_id], node, 1) for node in nodes]
        head = "classifier.weight"
        wanted = sum(r.weight / 100 * local(r).tensors()[head].astype(float) for r in replies)
        result = strategy.aggregate(1, state, replies)
        np.testing.assert_allclose(result.tensors()[head], wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["flexlora", "hetlora", "flora"])
def test_every_node_gets_its_own_rank(name: str) -> None:
    state = fresh(spec_of(residual=ROOM if name == "flora" else 0))
    nodes, strategy = of_ranks(1, 0, 2, 1), make_strategy(name, {})
    strategy.prepare(state.spec, nodes)
    tasks = strategy.configure(1, state, nodes)
    for node in nodes:
        wanted = resized_spec(state.spec, node.rank) if node.rank else state.spec
        assert tasks[node.node_id].state.spec.fingerprint == wanted.fingerprint
    assert tasks[100].state is tasks[103].state  # equal states are made, and encoded, once
    assert tasks[101].state is state
    replies = [trained(tasks[node.node_id], node, 1) for node in nodes]
    assert strategy.aggregate(1, state, replies).spec.fingerprint == state.spec.fingerprint


def test_flexlora_serves_the_best_of_a_rank() -> None:
    state, nodes = fresh(spec_of()), of_ranks(1, 0)
    strategy = make_strategy("flexlora", {})
    whole = local(trained(Assignment(state=state), nodes[1], 1))
    served = gained(strategy.configure(1, whole, nodes)[100].state)
    for found, wanted in zip(served, gained(whole), strict=True):
        values = np.linalg.svd(wanted, compute_uv=False)
        missing = np.linalg.norm(found - wanted)
        assert missing == pytest.approx(np.linalg.norm(values[1:]), rel=1e-5)


@pytest.mark.parametrize("name", ["fedavg", "fedsvd", "rolora", "fedex", "lora-fair", "scaffold"])
def test_strategies_of_one_rank_refuse_others_by_number(name: str) -> None:
    spec = spec_of(residual=ROOM)
    with pytest.raises(RollCallError, match=r"node 0 has rank 1, node 2 has rank 2\. Use 'flex"):
        make_strategy(name, {}).prepare(spec, of_ranks(1, 0, 2))


@pytest.mark.parametrize(
    "name", ["fedsvd", "rolora", "flexlora", "hetlora", "lora-fair", "fedex", "flora"]
)
def test_adapters_without_factors_are_refused(name: str) -> None:
    bias = AdapterSpec(
        method="bias", backbone="x", tensors=(TensorSpec(name="b", shape=(3,)),), ranks={}
    )
    with pytest.raises(AdapterMismatchError, match="bias adapter without any"):
        make_strategy(name, {}).prepare(bias, ())


@pytest.mark.parametrize("name", ["fedex", "flora"])
def test_residuals_need_their_method(name: str) -> None:
    with pytest.raises(AdapterMismatchError, match=r"Use method\.name = 'lora-residual'"):
        make_strategy(name, {}).prepare(spec_of(), ())


def test_flora_draws_new_factors_every_round_by_the_seed() -> None:
    state, nodes = fresh(spec_of(residual=ROOM)), ALIKE
    ends = []
    for seed in (0, 0, 1):
        strategy = make_strategy("flora", {}, seed=seed)
        tasks = strategy.configure(1, state, nodes)
        replies = [trained(tasks[node.node_id], node, 1) for node in nodes]
        ends.append(strategy.aggregate(1, state, replies))
    assert ends[0].vector.tobytes() == ends[1].vector.tobytes() != ends[2].vector.tobytes()
    for update in factors(ends[0]).values():
        assert not update.b.any()
        assert 0.9 / np.sqrt(INPUTS) < np.abs(update.a).max() <= 1 / np.sqrt(INPUTS)


def test_rolora_trains_b_first_and_then_a() -> None:
    strategy, state = make_strategy("rolora", {}), fresh(spec_of())
    parts = [strategy.configure(n, state, of_ranks(0))[100].part for n in (1, 2, 3, 4)]
    assert parts == ["b", "a", "b", "a"]


def test_rolora_leaves_the_other_factor_alone() -> None:
    strategy, state, nodes = make_strategy("rolora", {}), fresh(spec_of()), ALIKE
    tasks = strategy.configure(1, state, nodes)
    replies = [trained(tasks[node.node_id], node, 1) for node in nodes]
    after = strategy.aggregate(1, state, replies)
    for module, update in factors(state).items():
        assert factors(after)[module].a.tolist() == update.a.tolist()
        assert factors(after)[module].b.tolist() != update.b.tolist()


def test_hetlora_forgets_nothing_while_nodes_of_high_rank_are_away() -> None:
    strategy, state = make_strategy("hetlora", {}), drawn(spec_of())
    low = of_ranks(1, 1)
    for round_number in (1, 2, 3):
        tasks = strategy.configure(round_number, state, low)
        replies = [trained(tasks[node.node_id], node, round_number) for node in low]
        after = strategy.aggregate(round_number, state, replies)
        for module, kept in factors(state).items():
            found = factors(after)[module]
            np.testing.assert_array_equal(found.a[1:], kept.a[1:])
            np.testing.assert_array_equal(found.b[:, 1:], kept.b[:, 1:])
            assert (found.a[0] != kept.a[0]).any()
        state = after


def test_flora_gives_nodes_of_any_rank_the_adapter_that_a_run_goes_on_from() -> None:
    state, nodes = drawn(spec_of(residual=ROOM)), of_ranks(1, 0, 2)
    tasks = make_strategy("flora", {}).configure(1, state, nodes)
    for node in nodes:
        served = tasks[node.node_id].state
        np.testing.assert_allclose(gained(served), gained(state), rtol=1e-4, atol=1e-4)
        assert all(found.b.any() != bool(node.rank) for found in factors(served).values())


def test_flora_leaves_residuals_alone_until_there_is_something_to_add() -> None:
    spec = spec_of(residual=ROOM)
    state, strategy = fresh(spec), make_strategy("flora", {})
    tasks = strategy.configure(1, state, ALIKE)
    after = strategy.aggregate(1, state, [trained(tasks[n.node_id], n, 1) for n in ALIKE])
    served = strategy.configure(2, after, of_ranks(1))[100].state
    for module, kept in residual_factors(after).items():
        assert residual_factors(served)[module].b.tobytes() == kept.b.tobytes()
