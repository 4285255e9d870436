"""The default composition, FedAvg, and the local-only baseline, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from decoded import Decoded
from strategy_samples import members, reply_of, state_of

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.errors import AdapterMismatchError, RollCallError
from fedpeft_app.strategies.alone import Alone
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.server_optimizers import Sgd
from fedpeft_app.strategies.strategy import Reply, Strategy


def test_deltas_are_weighted_by_examples(spec: AdapterSpec, state: AdapterState) -> None:
    # (1 · 4 + 3 · 8) / 4 = 7, added to 0 … 6.
    first, second = members(2)
    replies = [reply_of(first, state_of(spec, 4.0), 1), reply_of(second, state_of(spec, 8.0), 3)]
    folded = Composition().aggregate(1, state, replies)
    np.testing.assert_array_equal(folded.vector, [7, 8, 9, 10, 11, 12, 13])


def test_one_reply_is_taken_as_it_is(spec: AdapterSpec, state: AdapterState) -> None:
    folded = Composition().aggregate(1, state, [reply_of(members(1)[0], state_of(spec, 0.5), 3)])
    np.testing.assert_array_equal(folded.vector, state.vector + np.float32(0.5))


def test_opposite_deltas_cancel(spec: AdapterSpec, state: AdapterState) -> None:
    first, second = members(2)
    replies = [reply_of(first, state_of(spec, 1e6), 5), reply_of(second, state_of(spec, -1e6), 5)]
    assert Composition().aggregate(1, state, replies).vector.tobytes() == state.vector.tobytes()


def test_the_state_given_is_left_alone(spec: AdapterSpec, state: AdapterState) -> None:
    Composition().aggregate(1, state, [reply_of(members(1)[0], state_of(spec, 1.0), 1)])
    np.testing.assert_array_equal(state.vector, np.arange(7))


def test_fedavg_asks_the_whole_cohort_for_nothing_special(state: AdapterState) -> None:
    cohort = members(3)
    asked = Composition().configure(1, state, cohort)
    assert sorted(asked) == sorted(member.node_id for member in cohort)
    for one in asked.values():
        assert one.state is state
        assert (one.part, one.options, one.extras) == ("", {}, {})


def test_an_optimiser_remembers_from_round_to_round(spec: AdapterSpec, state: AdapterState) -> None:
    strategy = Composition("fedavgm", optimizer=Sgd(momentum=0.5))
    replies = [reply_of(members(1)[0], state_of(spec, 4.0), 1)]
    first = strategy.aggregate(1, state, replies)
    second = strategy.aggregate(2, first, replies)
    # v = 4, then 0.5 · 4 + 4 = 6
    np.testing.assert_array_equal(first.vector - state.vector, np.full(7, 4.0))
    np.testing.assert_array_equal(second.vector - first.vector, np.full(7, 6.0))


def test_deltas_of_another_adapter_are_refused(spec: AdapterSpec, state: AdapterState) -> None:
    other = replace(spec, method="other")
    with pytest.raises(AdapterMismatchError, match="Cannot fold a delta of adapter"):
        Composition().aggregate(1, state, [reply_of(members(1)[0], state_of(other, 1.0), 1)])


def test_what_a_node_did_not_train_counts_as_unmoved(
    spec: AdapterSpec, state: AdapterState
) -> None:
    # Two nodes of one example each, one of which sends the head only: (1 + 3) / 2 and 1 / 2.
    head = replace(spec, tensors=spec.tensors[-1:])
    first, second = members(2)
    part = Reply(
        member=second,
        start=state,
        update=Decoded(state=state_of(head, 3.0)),
        weight=1.0,
        metrics={},
    )
    folded = Composition().aggregate(1, state, [reply_of(first, state_of(spec, 1.0), 1), part])
    np.testing.assert_array_equal(folded.vector - state.vector, [0.5] * 4 + [2.0] * 3)


@pytest.mark.parametrize("strategy", [Composition("fedadam"), Alone()])
def test_nodes_of_their_own_rank_are_refused_by_number(
    spec: AdapterSpec, strategy: Strategy
) -> None:
    cohort = members(4)
    strategy.prepare(spec, cohort)
    strategy.prepare(spec, ())
    mixed = [replace(one, rank=rank) for one, rank in zip(cohort, (0, 4, 0, 2), strict=True)]
    refusal = "folds adapters of one rank, but node 1 has rank 4, node 3 has rank 2. Use"
    with pytest.raises(RollCallError, match=refusal):
        strategy.prepare(spec, mixed)


def test_alone_asks_everyone_and_keeps_the_state(spec: AdapterSpec, state: AdapterState) -> None:
    cohort, strategy = members(2), Alone()
    asked = strategy.configure(1, state, cohort)
    assert set(asked) == {member.node_id for member in cohort}
    assert all(one.state is state for one in asked.values())
    replies = [reply_of(member, state_of(spec, 1.0), 1) for member in cohort]
    assert strategy.aggregate(1, state, replies).vector.tobytes() == state.vector.tobytes()
