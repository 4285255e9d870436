"""SCAFFOLD on the server: the mean of the deltas, and c over all nodes, worked by hand."""

import numpy as np
import pytest
from decoded import Decoded
from strategy_samples import members, numbers, state_of

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.strategies.catalogue import make_strategy
from fedpeft_app.strategies.scaffold import Scaffold
from fedpeft_app.strategies.strategy import Member, Reply
from fedpeft_app.wire.record import CONTROL


def reply(member: Member, state: AdapterState, delta: float, shift: float, weight: float) -> Reply:
    """Make a reply that moves every value alike."""
    spec = state.spec
    return Reply(
        member=member,
        start=state,
        update=Decoded(state=state_of(spec, delta)),
        weight=weight,
        metrics=numbers(weight),
        extras={CONTROL: Decoded(state=state_of(spec, shift))},
    )


@pytest.fixture
def scaffold(spec: AdapterSpec) -> Scaffold:
    made = make_strategy("scaffold", {})
    assert isinstance(made, Scaffold)
    made.prepare(spec, members(4))
    return made


def test_c_starts_at_zero_and_goes_with_the_state(scaffold: Scaffold, state: AdapterState) -> None:
    tasks = scaffold.configure(1, state, members(2))
    assert {task.extras[CONTROL].vector.any() for task in tasks.values()} == {np.False_}
    assert all(task.state is state for task in tasks.values())


def test_c_moves_by_the_share_of_the_nodes_that_answered(
    scaffold: Scaffold, state: AdapterState
) -> None:
    scaffold.configure(1, state, members(2))
    first, second = members(2)
    replies = [reply(first, state, 1.0, 4.0, 10), reply(second, state, 3.0, 8.0, 90)]
    after = scaffold.aggregate(1, state, replies)
    np.testing.assert_array_equal(after.vector, state.vector + 2)  # uniform: (1 + 3) / 2
    sent = scaffold.configure(2, after, members(4))[9000].extras[CONTROL]
    np.testing.assert_array_equal(sent.vector, np.full(state.spec.size, 3.0))  # (4 + 8) / 4
    scaffold.aggregate(2, after, [reply(first, after, 1.0, -4.0, 10)])
    sent = scaffold.configure(3, after, members(4))[9000].extras[CONTROL]
    np.testing.assert_array_equal(sent.vector, np.full(state.spec.size, 2.0))  # 3 - 4 / 4


def test_folding_before_asking_is_refused(scaffold: Scaffold, state: AdapterState) -> None:
    with pytest.raises(RuntimeError, match="configure before aggregate"):
        scaffold.aggregate(1, state, [reply(members(1)[0], state, 1.0, 1.0, 1)])
