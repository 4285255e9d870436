"""Strategies for LoRA as the round loop drives them: states in, deltas of what trained, states out.

A node's weights gain s·BA, and UV where there is a residual. What is exact brings the server, round
after round, the mean of what the nodes' weights gained.
"""

from collections.abc import Sequence

import numpy as np
import pytest
from strategy_samples import members, numbers

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.adapters.lora import factors, resized_spec
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.adapters.residuals import residual_factors
from fedpeft_app.errors import AdapterMismatchError, RollCallError
from fedpeft_app.strategies.catalogue import make_strategy
from fedpeft_app.strategies.strategy import Assignment, Decoded, Member, Reply, Strategy

OUT, INPUTS, RANK, SCALING, NODES, ROUNDS = 12, 20, 3, 2.0, 4, 4
EXACT = 1e-5
MODULES = ("encoder.0.query", "encoder.1.query")
WEIGHTS = (10.0, 30.0, 20.0, 40.0)


def spec_of(*, residual: int = 0, rank: int = RANK) -> AdapterSpec:
    """Make the spec of two low-rank modules and a head; with residuals if they have room."""
    tensors = []
    for module in MODULES:
        tensors += [
            TensorSpec(name=f"{module}.lora_A.default.weight", shape=(rank, INPUTS)),
            TensorSpec(name=f"{module}.lora_B.default.weight", shape=(OUT, rank)),
        ]
        for factor, shape in (("A", (residual, INPUTS)), ("B", (OUT, residual))):
            name = f"{module}.lora_residual_{factor}.default.weight"
            tensors += [TensorSpec(name=name, shape=shape, frozen=True)] * bool(residual)
    tensors.append(TensorSpec(name="classifier.weight", shape=(2, 3), head=True))
    ranks = dict.fromkeys(MODULES, rank)
    return AdapterSpec(
        method="lora", backbone="x", tensors=tuple(tensors), ranks=ranks, scaling=SCALING
    )


def fresh(spec: AdapterSpec) -> AdapterState:
    """Draw A and the head; B and residuals are zero."""
    generator = np.random.default_rng(7)
    tensors = {
        tensor.name: (
            np.zeros(tensor.shape, np.float32)
            if "_B." in tensor.name or tensor.frozen
            else generator.normal(size=tensor.shape).astype(np.float32)
        )
        for tensor in spec.tensors
    }
    return AdapterState.from_tensors(spec, tensors)


def gained(state: AdapterState) -> np.ndarray:
    """Give what all weights gain by a state: s·BA + UV, module by module."""
    residuals = residual_factors(state) if any(t.frozen for t in state.spec.tensors) else {}
    total = []
    for module, update in factors(state).items():
        dense = SCALING * update.b @ update.a
        if module in residuals:
            dense = dense + residuals[module].b @ residuals[module].a
        total.append(dense)
    return np.stack(total)


def trained(task: Assignment, member: Member, round_number: int) -> Reply:
    """Move everything that trains by chance."""
    spec = trained_spec(task.state.spec, task.part)
    generator = np.random.default_rng([member.partition, round_number])
    step = generator.normal(scale=0.5, size=spec.size).astype(np.float32)
    weight = WEIGHTS[member.partition]
    update = Decoded(state=AdapterState(spec=spec, vector=step))
    metrics = numbers(weight)
    return Reply(member=member, start=task.state, update=update, weight=weight, metrics=metrics)


def local(reply: Reply) -> AdapterState:
    """Give what a node has after training."""
    return AdapterState(spec=reply.start.spec, vector=reply.start.vector + reply.delta.vector)


def errors(strategy: Strategy, state: AdapterState, nodes: Sequence[Member]) -> list[float]:
    """Run rounds; give by how much each one's result misses the mean of what nodes gained."""
    strategy.prepare(state.spec, nodes)
    found = []
    for round_number in range(1, ROUNDS + 1):
        tasks = strategy.configure(round_number, state, nodes)
        replies = [trained(tasks[node.node_id], node, round_number) for node in nodes]
        total = sum(reply.weight for reply in replies)
        wanted = sum(reply.weight / total * gained(local(reply)) for reply in replies)
        state = strategy.aggregate(round_number, state, replies)
        missing = gained(state) - wanted
        found.append(float(np.linalg.norm(missing) / np.linalg.norm(wanted)))
    return found


ROOM = min(OUT, INPUTS)


@pytest.mark.parametrize(
    ("name", "residual"), [("fedsvd", 0), ("rolora", 0), ("fedex", ROOM), ("flora", ROOM)]
)
def test_exact_strategies_bring_the_mean_of_the_products(name: str, residual: int) -> None:
    state = fresh(spec_of(residual=residual))
    assert max(errors(make_strategy(name, {}), state, members(NODES))) <= EXACT


@pytest.mark.parametrize("rank", [ROOM, RANK])
def test_flexlora_is_exact_at_full_rank_only(rank: int) -> None:
    found = errors(make_strategy("flexlora", {}), fresh(spec_of(rank=rank)), members(NODES))
    assert (max(found) <= EXACT) is (rank == ROOM)


@pytest.mark.parametrize("name", ["fedit", "fedavg", "lora-fair", "hetlora"])
def test_other_strategies_are_not_exact(name: str) -> None:
    assert min(errors(make_strategy(name, {}), fresh(spec_of()), members(NODES))) > 0.01


def test_lora_fair_is_nearer_than_fedit() -> None:
    plain, fair = (
        errors(make_strategy(name, {}), fresh(spec_of()), members(NODES))[0]
        for name in ("fedit", "lora-fair")
    )
    assert fair < plain


@pytest.mark.parametrize("name", ["fedex", "flora"])
def test_a_residual_without_room_keeps_the_best_and_says_so(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    roomy, narrow = (
        errors(make_strategy(name, {}), fresh(spec_of(residual=room)), members(NODES))
        for room in (ROOM, 2)
    )
    assert max(roomy) <= EXACT < min(narrow)
    assert f"{name}: the frozen residuals have room for all but" in caplog.text


@pytest.mark.parametrize("residual", [0, ROOM])
def test_the_head_is_averaged_by_examples(residual: int) -> None:
    for name in ("flora", "fedex") if residual else ("flexlora", "fedsvd", "hetlora", "rolora"):
        state, nodes = fresh(spec_of(residual=residual)), members(NODES)
        strategy = make_strategy(name, {})
        tasks = strategy.configure(1, state, nodes)
        replies = [trained(tasks[node.node_id], node, 1) for node in nodes]
        head = "classifier.weight"
        wanted = sum(r.weight / 100 * local(r).tensors()[head].astype(float) for r in replies)
        result = strategy.aggregate(1, state, replies)
        np.testing.assert_allclose(result.tensors()[head], wanted, rtol=1e-6, atol=1e-6)


def of_ranks(*ranks: int) -> list[Member]:
    """Make nodes of ranks of their own; 0 = the run's."""
    return [
        Member(node_id=100 + k, partition=k, examples=100, rank=rank)
        for k, rank in enumerate(ranks)
    ]


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


def test_flora_is_exact_for_any_ranks() -> None:
    state = fresh(spec_of(residual=ROOM))
    assert max(errors(make_strategy("flora", {}), state, of_ranks(1, 0, 2, 1))) <= EXACT


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
    state, nodes = fresh(spec_of(residual=ROOM)), members(NODES)
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
    parts = [strategy.configure(n, state, members(1))[9000].part for n in (1, 2, 3, 4)]
    assert parts == ["b", "a", "b", "a"]


def test_rolora_leaves_the_other_factor_alone() -> None:
    strategy, state, nodes = make_strategy("rolora", {}), fresh(spec_of()), members(NODES)
    tasks = strategy.configure(1, state, nodes)
    replies = [trained(tasks[node.node_id], node, 1) for node in nodes]
    after = strategy.aggregate(1, state, replies)
    for module, update in factors(state).items():
        assert factors(after)[module].a.tolist() == update.a.tolist()
        assert factors(after)[module].b.tolist() != update.b.tolist()
