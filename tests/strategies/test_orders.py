"""Orders: what is equal is encoded once, and each node is told what is its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from strategy_samples import members, state_of

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.errors import ConfigError
from fedpeft_app.strategies.broadcast import Broadcast
from fedpeft_app.strategies.orders import Courier
from fedpeft_app.strategies.strategy import Assignment, Member
from fedpeft_app.strategies.versions import Versions
from fedpeft_app.wire.catalogue import parse_codec
from fedpeft_app.wire.record import CONTROL, MOST_INCREMENTS, Order, read_order

LARGE = AdapterSpec(
    method="lora", backbone="x", tensors=(TensorSpec(name="w", shape=(1000,)),), ranks={}
)


def courier(state: AdapterState, codec: str = "float32", **versions: Any) -> Courier:
    """Make a courier that starts from a state."""
    return Courier(
        broadcast=Broadcast(state=state, codec=parse_codec(codec)),
        versions=Versions(**versions),
    )


def orders(found: Mapping[Member, Message], *specs: AdapterSpec) -> list[Order]:
    """Read the orders, by partition; one spec for all, or one for each."""
    known = specs * len(found) if len(specs) == 1 else specs
    pairs = zip(found.values(), known, strict=True)
    return [read_order(message.content, spec) for message, spec in pairs]


def names(order: Order) -> list[str]:
    return [section.name for section in order.sections]


def test_equal_orders_share_one_content(state: AdapterState) -> None:
    cohort = members(3)
    task = Assignment(state=state)
    found = courier(state).messages("evaluate", 4, dict.fromkeys(cohort, task))
    assert len({id(message.content) for message in found.values()}) == 1
    assert [message.metadata.dst_node_id for message in found.values()] == [9000, 8993, 8986]
    assert {message.metadata.group_id for message in found.values()} == {"4"}
    assert {message.metadata.message_type for message in found.values()} == {"evaluate"}
    (order, *_) = orders(found, state.spec)
    assert (order.round_number, order.options, names(order)) == (4, {}, ["state"])
    assert order.sections[0].decode().vector.tobytes() == state.vector.tobytes()


def test_orders_that_differ_in_an_option_share_the_encoded_state(state: AdapterState) -> None:
    cohort = members(3)
    tasks = {m: Assignment(state=state, options={"epochs": m.partition // 2}) for m in cohort}
    found = courier(state).messages("train", 1, tasks)
    assert len({id(message.content) for message in found.values()}) == 2
    assert [order.options for order in orders(found, state.spec)] == [
        {"epochs": 0},
        {"epochs": 0},
        {"epochs": 1},
    ]


def test_versions_go_beside_the_strategys_own_options(state: AdapterState) -> None:
    tasks = dict.fromkeys(members(2), Assignment(state=state, options={"epochs": 2}))
    sender = courier(state, experiment="run", keeps=True, accepted={1: 3})
    assert [order.options for order in orders(sender.messages("train", 4, tasks), state.spec)] == [
        {"epochs": 2, "experiment": "run", "base": 0},
        {"epochs": 2, "experiment": "run", "base": 3},
    ]


@pytest.mark.parametrize("part", ["a", "b"])
def test_the_part_that_trains_is_named(state: AdapterState, part: str) -> None:
    (member,) = members(1)
    found = courier(state).messages("train", 1, {member: Assignment(state=state, part=part)})
    assert orders(found, state.spec)[0].options == {"trains": part}


@pytest.mark.parametrize("name", ["trains", "version", "experiment", "base"])
def test_a_strategy_cannot_say_what_orders_say_themselves(state: AdapterState, name: str) -> None:
    (member,) = members(1)
    task = Assignment(state=state, options={name: "a", "epochs": 1})
    with pytest.raises(ValueError, match=rf"orders carry themselves, got \['{name}'\]"):
        courier(state).messages("train", 1, {member: task})


def test_what_else_a_strategy_sends_is_encoded_once_and_names_a_version(
    state: AdapterState,
) -> None:
    control = state_of(state.spec, 0.5)
    task = Assignment(state=state, extras={CONTROL: control})
    sender = courier(state, experiment="run", accepted={1: 2})
    first, second, third = orders(
        sender.messages("train", 3, dict.fromkeys(members(3), task)), state.spec
    )
    assert names(first) == names(second) == ["state", "control"]
    assert second.sections[1].decode().vector.tolist() == [0.5] * 7
    assert first.options == third.options == {"experiment": "run", "base": 0}
    assert second.options == {"experiment": "run", "base": 2}


def test_nodes_may_set_out_from_states_of_their_own(state: AdapterState) -> None:
    small = replace(state.spec, tensors=state.spec.tensors[:1])
    own = AdapterState(spec=small, vector=np.array([8.0, 9.0], dtype=np.float32))
    first, second, third = members(3)
    tasks = {
        first: Assignment(state=state),
        second: Assignment(state=own),
        third: Assignment(state=own),
    }
    found = courier(state).messages("train", 1, tasks)
    assert found[second].content is found[third].content
    values = [
        order.sections[0].decode().vector.tolist()
        for order in orders(found, state.spec, small, small)
    ]
    assert values == [list(range(7)), [8.0, 9.0], [8.0, 9.0]]


def test_a_state_of_its_own_is_refused_where_increments_lead_to_the_common_one(
    state: AdapterState,
) -> None:
    member = replace(members(4)[3], rank=2)
    with pytest.raises(ConfigError, match=r"node 3 gets a state of its own \(rank 2\).*'float32'"):
        courier(state, "int8").messages("train", 1, {member: Assignment(state=state_of(LARGE, 0))})


def test_increments_go_to_those_who_lack_them_and_are_counted_once() -> None:
    sender = courier(state_of(LARGE, 0.0), "int8", experiment="run", keeps=True)
    newest, behind, lost = cohort = members(3)
    sender.note_arrivals({newest: True, behind: True, lost: True})
    sender.broadcast.advance(state_of(LARGE, 1.0))
    sender.note_arrivals({newest: True, lost: False})
    tasks = dict.fromkeys(cohort, Assignment(state=sender.broadcast.state))
    found = orders(sender.messages("train", 2, tasks), LARGE)
    assert [names(order) for order in found] == [[], ["increment-1"], ["state"]]
    assert {order.options["version"] for order in found} == {1}


def test_an_order_may_carry_as_many_increments_as_are_kept() -> None:
    spec = replace(LARGE, tensors=(TensorSpec(name="w", shape=(50_000,)),))
    sender = courier(state_of(spec, 0.0), "topk(0.0002)+int4", experiment="run", keeps=True)
    for number in range(1, MOST_INCREMENTS + 1):
        sender.broadcast.advance(state_of(spec, float(number)))
    task = Assignment(state=sender.broadcast.state, extras={CONTROL: state_of(spec, 0.5)})
    found = sender.messages("train", MOST_INCREMENTS + 1, {members(1)[0]: task})
    (order,) = orders(found, spec)
    *increments, control = order.sections
    assert (len(increments), control.name) == (MOST_INCREMENTS, "control")
    total = sum(section.decode().vector for section in increments)
    np.testing.assert_array_equal(total, sender.broadcast.state.vector)
