"""What nodes keep for themselves: each goes on from its last reply that counted."""

import math
from collections.abc import Sequence

import pytest
from flwr.app import Message
from strategy_samples import (
    Learner,
    ScriptedGrid,
    failure,
    ledger,
    members,
    numbers,
    plan,
    reply_of,
    state_of,
    update,
)

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.strategies.broadcast import Broadcast
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.loop import Loop
from fedpeft_app.strategies.orders import Courier
from fedpeft_app.strategies.plan import RoundPlan
from fedpeft_app.strategies.rounds import run_round
from fedpeft_app.strategies.versions import Versions
from fedpeft_app.wire.record import Scalar, read_order, write_refusal


class Keeper(Learner):
    """A node that fails in given rounds, or replies values that are not finite.

    Attributes:
        asked: What its orders said, evaluations among them: (message type, options).
    """

    def __init__(self, spec: AdapterSpec, *, fails: int = 0, raves: int = 0) -> None:
        super().__init__(spec, 1.0)
        self.asked: list[tuple[str, dict[str, Scalar]]] = []
        self._adapter, self._fails, self._raves = spec, fails, raves

    def __call__(self, message: Message) -> Message:
        order, kind = read_order(message.content, self._adapter), message.metadata.message_type
        self.asked.append((kind, dict(order.options)))
        if kind == "train" and order.round_number == self._fails:
            return failure(message, "out of memory")
        if kind == "train" and order.round_number == self._raves:
            wild = state_of(self._adapter, math.inf)
            return update(message, wild, order.round_number, numbers())
        return super().__call__(message)

    def bases(self, kind: str) -> list[Scalar]:
        """The versions that orders of a kind named."""
        return [options["base"] for asked, options in self.asked if asked == kind]


def run(
    nodes: Sequence[Keeper],
    state: AdapterState,
    settings: RoundPlan,
    versions: Versions,
    *,
    per_pull: int = 1,
) -> None:
    """Run the plan's rounds over nodes, by partition."""
    everyone = members(len(nodes))
    grid = ScriptedGrid({m.node_id: node for m, node in zip(everyone, nodes, strict=True)})
    grid.per_pull = per_pull
    loop = Loop(
        grid=grid,
        strategy=Composition(),
        plan=settings,
        members=everyone,
        courier=Courier(broadcast=Broadcast(state=state), versions=versions),
        ledger=ledger(),
        watcher=Deaf(),
    )
    for number in range(1, settings.rounds + 1):
        run_round(loop, number)


class SitsOut(Keeper):
    """A node that has no more privacy to spend from a round on."""

    def __init__(self, spec: AdapterSpec, *, last: int) -> None:
        super().__init__(spec)
        self._last = last

    def __call__(self, message: Message) -> Message:
        reply = super().__call__(message)
        if self.orders and self.orders[-1].round_number > self._last:
            return Message(write_refusal("no more to spend"), reply_to=message)
        return reply


class Deaf:
    """A watcher that heeds nothing."""

    def round_started(self, *_: object) -> None: ...

    def reply_arrived(self, *_: object) -> None: ...

    def asked_again(self, *_: object) -> None: ...

    def came_late(self, *_: object) -> None: ...

    def left_alone(self, *_: object) -> None: ...

    def evaluation_failed(self, *_: object) -> None: ...

    def nobody_judged(self, *_: object) -> None: ...

    def round_answered(self, *_: object) -> None: ...

    def round_finished(self, *_: object) -> bool:
        return False


def test_orders_say_nothing_where_nodes_keep_nothing(state: AdapterState) -> None:
    versions = Versions()
    (member,) = members(1)
    versions.advance(3, [reply_of(member, state, 1)])
    assert versions.options(member) == {}


def test_a_node_that_keeps_the_counterpart_of_an_extra_is_told_where_to_go_on() -> None:
    versions = Versions(experiment="run", accepted={0: 3})
    (member,) = members(1)
    assert versions.options(member) == {}
    assert versions.options(member, extras=True) == {"experiment": "run", "base": 3}


def test_only_parameters_of_ones_own_can_be_untrained() -> None:
    assert Versions(personal=True, accepted={0: 1, 2: 4}).untrained([0, 1, 2, 3]) == (1, 3)
    assert Versions(keeps=True, accepted={0: 1}).untrained([0, 1]) == ()


def test_a_node_starts_at_0_and_goes_on_from_its_last_good_reply(state: AdapterState) -> None:
    versions, (first, second) = Versions(experiment="run", keeps=True), members(2)
    versions.advance(1, [reply_of(first, state, 1)])
    versions.advance(4, [reply_of(first, state, 1)])
    assert versions.options(first) == {"experiment": "run", "base": 4}
    assert versions.options(second) == {"experiment": "run", "base": 0}


@pytest.mark.parametrize("trouble", ["fails", "raves"])
def test_after_a_rejected_reply_a_node_goes_on_from_before_it(
    spec: AdapterSpec, state: AdapterState, trouble: str
) -> None:
    nodes = [Keeper(spec), Keeper(spec, **{trouble: 2})]
    versions = Versions(experiment="run", keeps=True)
    run(nodes, state, plan(rounds=4, fraction_evaluate=1.0), versions)
    assert nodes[0].bases("train") == [0, 1, 2, 3]
    assert nodes[1].bases("train") == [0, 1, 1, 3]
    assert versions.accepted == {0: 4, 1: 4}


def test_what_was_released_and_rejected_is_known_of(spec: AdapterSpec, state: AdapterState) -> None:
    nodes = [Keeper(spec), Keeper(spec, raves=2), Keeper(spec, fails=2)]
    run(nodes, state, plan(rounds=3), Versions(experiment="run", keeps=True))
    told = [node.asked[2][1].get("received") for node in nodes]
    assert told == [None, 2, None]


def test_who_sat_out_has_released_nothing(spec: AdapterSpec, state: AdapterState) -> None:
    nodes = [Keeper(spec), SitsOut(spec, last=2)]
    versions = Versions(experiment="run", keeps=True)
    run(nodes, state, plan(rounds=5), versions)
    assert nodes[1].bases("train") == [0, 1, 2, 2, 2]
    assert not any("received" in options for _, options in nodes[1].asked)
    assert versions.received == {0: 5, 1: 2}


def test_an_update_that_was_not_needed_was_released(spec: AdapterSpec, state: AdapterState) -> None:
    nodes = [Keeper(spec) for _ in range(4)]
    versions = Versions(experiment="run", keeps=True)
    run(nodes, state, plan(fraction_train=0.5, over_selection=2.0), versions, per_pull=4)
    assert len(versions.accepted) == 2
    assert versions.received == dict.fromkeys(range(4), 1)


def test_a_round_is_judged_with_what_it_made_of_each_node(
    spec: AdapterSpec, state: AdapterState
) -> None:
    nodes = [Keeper(spec), Keeper(spec, fails=2)]
    run(nodes, state, plan(rounds=3, fraction_evaluate=1.0), Versions(experiment="run", keeps=True))
    assert nodes[0].bases("evaluate") == [1, 2, 3]
    assert nodes[1].bases("evaluate") == [1, 1, 3]


def test_nodes_that_were_not_asked_stay_where_they_were(
    spec: AdapterSpec, state: AdapterState
) -> None:
    nodes = [Keeper(spec) for _ in range(4)]
    versions = Versions(experiment="run", keeps=True)
    run(nodes, state, plan(rounds=5, fraction_train=0.5), versions)
    trained = [[order.round_number for order in node.orders] for node in nodes]
    assert sum(map(len, trained)) == 10
    for partition, (node, rounds) in enumerate(zip(nodes, trained, strict=True)):
        assert node.bases("train") == ([0, *rounds][:-1] if rounds else [])
        assert versions.accepted.get(partition, 0) == max(rounds, default=0)


def test_where_nodes_keep_nothing_no_order_names_a_version(
    spec: AdapterSpec, state: AdapterState
) -> None:
    node = Keeper(spec)
    run([node], state, plan(rounds=2, fraction_evaluate=1.0), Versions())
    assert node.asked == [("train", {}), ("evaluate", {})] * 2
