"""A node's part in a round: it goes on from what it kept, and sends what it could not before."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.parts import taken, trained_spec
from fedpeft_app.assembly import make_worker
from fedpeft_app.config import parse
from fedpeft_app.errors import AdapterMismatchError, NodeStateError, TrainingError
from fedpeft_app.node.memory import (
    BROADCAST,
    PERSONAL,
    RESIDUAL,
    experiment_folder,
    memory_of,
)
from fedpeft_app.participation import Participation
from fedpeft_app.training.worker import Worker
from fedpeft_app.wire.catalogue import parse_codec
from fedpeft_app.wire.payload import Section
from fedpeft_app.wire.record import CONTROL, DELTA, INCREMENT, STATE, Order, Update, section_of

RUN = "a-run"
NODE = {"partition-id": 1, "num-partitions": 4}


@pytest.fixture
def worker(tiny_settings: dict[str, Any]) -> Worker:
    """A node with 27 of the tiny examples, and LoRA on the tiny BERT."""
    return make_worker(parse(tiny_settings), NODE)


@pytest.fixture
def start(worker: Worker) -> AdapterState:
    """A state in which every tensor has a gradient (LoRA's B is not zero)."""
    return like(worker, 0.05 * np.random.default_rng(0).standard_normal(worker.adapted.spec.size))


def like(worker: Worker, values: Any) -> AdapterState:
    """Make a state of the worker's adapter."""
    vector = np.broadcast_to(np.asarray(values, dtype=np.float32), (worker.adapted.spec.size,))
    return AdapterState(spec=worker.adapted.spec, vector=vector.copy())


def part_of(worker: Worker, *sections: Section, round_number: int = 1, **options: Any) -> Order:
    """Make an order of these sections; underscores in options stand for dashes."""
    named = {key.replace("_", "-"): value for key, value in options.items()}
    return Order(
        spec=worker.adapted.spec,
        sections=sections,
        round_number=round_number,
        options={"experiment": RUN, **named},
    )


def takes_part(
    worker: Worker, order: Order, uplink: str = "int8", *, feedback: bool = True
) -> Participation:
    return Participation(worker=worker, order=order, uplink=parse_codec(uplink), feedback=feedback)


def trained(
    worker: Worker, start: AdapterState, round_number: int, base: int, **more: Any
) -> Update:
    """Take part in a round by int8 and feedback, from a whole state."""
    order = part_of(worker, section_of(STATE, start), round_number=round_number, base=base, **more)
    return takes_part(worker, order).train()


@pytest.mark.parametrize(("value", "named"), [(np.nan, "not finite"), (3e38, "up to 3e\\+38")])
def test_a_state_that_no_training_reaches_is_refused(
    worker: Worker, value: float, named: str
) -> None:
    state = like(worker, 0.0)
    state.vector[3] = value
    order = part_of(worker, section_of(STATE, state))
    with pytest.raises(AdapterMismatchError, match=f"The order carries a state with.*{named}"):
        takes_part(worker, order).train()
    spec = trained_spec(state.spec)
    control = AdapterState(spec=spec, vector=np.full(spec.size, value, dtype=np.float32))
    sections = section_of(STATE, like(worker, 0.0)), section_of(CONTROL, control)
    order = part_of(worker, *sections)
    with pytest.raises(AdapterMismatchError, match=f"The order carries a control with.*{named}"):
        takes_part(worker, order).train()


def sent(update: Update, name: str = DELTA) -> AdapterState:
    """Decode a section of an update."""
    (found,) = [section for section in update.sections if section.name == name]
    return found.decode()


def kept(worker: Worker, name: str, version: int) -> AdapterState:
    """Read what the node kept."""
    zeros = like(worker, 0.0)
    kind = BROADCAST if name == BROADCAST else ""
    return memory_of(RUN, worker.partition, kind).recall(name, zeros, version)


def bits(state: AdapterState) -> bytes:
    return state.vector.tobytes()


def close(found: Any, expected: Any) -> None:
    """Compare, but for the rounding of a sum and a difference in float32."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


# ------------------------------------------------------------------ what goes out


def test_without_loss_the_delta_is_sent_bit_for_bit_and_nothing_is_kept(
    worker: Worker, start: AdapterState
) -> None:
    order = Order(spec=start.spec, sections=[section_of(STATE, start)], round_number=2, options={})
    update = takes_part(worker, order, "float32", feedback=False).train()
    assert bits(sent(update)) == bits(worker.fit(start, 2).delta)
    assert (update.round_number, [section.name for section in update.sections]) == (2, ["delta"])
    assert {update.metrics[name] for name in ("num-examples", "examples-trained")} == {27.0}
    assert not experiment_folder(RUN).exists()


def test_options_reach_training(worker: Worker, start: AdapterState) -> None:
    order = part_of(worker, section_of(STATE, start), trains="b", epochs=2, proximal_mu=0.5)
    update = takes_part(worker, order, "float32", feedback=False).train()
    expected = worker.fit(start, 1, part="b", epochs=2, proximal=0.5)
    assert bits(sent(update)) == bits(expected.delta)
    assert sent(update).spec == trained_spec(start.spec, "b")
    assert update.metrics["examples-trained"] == 54.0


def test_what_is_sent_and_what_is_kept_are_what_was_learnt(
    worker: Worker, start: AdapterState
) -> None:
    learnt = [worker.fit(start, number).delta.vector for number in (1, 2, 3)]
    messages, residuals = [], []
    for number in (1, 2, 3):
        update = trained(worker, start, number, base=number - 1)
        assert {section.codec.name for section in update.sections} == {"int8"}
        messages.append(sent(update).vector)
        residuals.append(kept(worker, RESIDUAL, number).vector)
    assert all(residual.any() for residual in residuals)
    close(messages[0] + residuals[0], learnt[0])
    close(messages[1] + residuals[1], learnt[1] + residuals[0])
    close(sum(messages) + residuals[2], sum(learnt))


def test_a_reply_that_did_not_count_leaves_the_residual_before_it(
    worker: Worker, start: AdapterState
) -> None:
    trained(worker, start, 1, base=0)
    trained(worker, start, 2, base=1)  # lost, or rejected
    before, rejected = (kept(worker, RESIDUAL, version).vector for version in (1, 2))
    update = trained(worker, start, 3, base=1)
    learnt = worker.fit(start, 3).delta.vector
    close(sent(update).vector + kept(worker, RESIDUAL, 3).vector, learnt + before)
    assert np.abs(before - rejected).max() > 1e-5  # which is not what the other would give
    assert memory_of(RUN, worker.partition).rounds() == [1, 3]


def test_a_lost_residual_starts_again_from_zero_and_says_so(
    worker: Worker, start: AdapterState, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fedpeft_app.participation"):
        fresh = trained(worker, start, 2, base=0)
        assert caplog.messages == []
        shutil.rmtree(experiment_folder(RUN))
        forgetful = trained(worker, start, 2, base=1)
    assert bits(sent(forgetful)) == bits(sent(fresh))
    (message,) = caplog.messages
    assert message.startswith("Node 1 starts again from zero: Expected what this node kept of")


def test_without_feedback_what_is_lost_is_forgotten(worker: Worker, start: AdapterState) -> None:
    order = part_of(worker, section_of(STATE, start), round_number=2, base=1)
    update = takes_part(worker, order, feedback=False).train()
    learnt = worker.fit(start, 2).delta.vector
    lost = np.abs(sent(update).vector - learnt)
    assert 0 < lost.max() <= np.abs(learnt).max() / 126  # a scale is at most 1.008 max / 127
    assert not experiment_folder(RUN).exists()


@pytest.mark.parametrize("part", ["a", "b"])
def test_a_round_of_one_factor_keeps_the_residual_of_the_other(
    worker: Worker, start: AdapterState, part: str
) -> None:
    trained(worker, start, 1, base=0)
    update = trained(worker, start, 2, base=1, trains=part)
    first, second = (kept(worker, RESIDUAL, version) for version in (1, 2))
    spec = trained_spec(start.spec, part)
    names = {tensor.name for tensor in spec.tensors}
    assert 0 < len(names) < len(start.spec.tensors)
    for name, values in second.tensors().items():
        assert (values.tobytes() == first.tensors()[name].tobytes()) == (name not in names)
    learnt = worker.fit(start, 2, part=part).delta
    assert sent(update).spec == spec
    close(
        sent(update).vector + taken(second, spec).vector,
        learnt.vector + taken(first, spec).vector,
    )


def test_rounding_depends_on_seed_round_and_node_alone(worker: Worker, start: AdapterState) -> None:
    def encoded(node: Worker, number: int) -> bytes:
        delta = like(node, np.linspace(-1, 1, start.spec.size))
        order = part_of(node, round_number=number)
        section, _ = takes_part(node, order, "int4")._encoded(delta, None)
        return bytes(section.data)

    other = replace(worker, partition=2)
    reseeded = replace(worker, settings=replace(worker.settings, seed=7))
    drawn = [encoded(worker, 1), encoded(worker, 2), encoded(other, 1), encoded(reseeded, 1)]
    assert len(set(drawn)) == 4
    assert encoded(worker, 1) == drawn[0]


def test_feedback_needs_to_know_where_to_keep(worker: Worker, start: AdapterState) -> None:
    order = replace(part_of(worker, section_of(STATE, start)), options={})
    with pytest.raises(NodeStateError, match="does not say under which name this node keeps"):
        takes_part(worker, order).train()


def test_a_round_that_fails_keeps_nothing(worker: Worker, start: AdapterState) -> None:
    still = replace(worker.settings, learning_rate=0.0, head_learning_rate=0.0)
    with pytest.raises(TrainingError):
        trained(replace(worker, settings=still), start, 1, base=0)
    assert memory_of(RUN, worker.partition).rounds() == []


# ------------------------------------------------------------------ what comes in


def increments(start: AdapterState, first: int, last: int) -> list[Section]:
    """Make increments, each of its own value."""
    return [
        section_of(
            f"{INCREMENT}{version}",
            AdapterState(spec=start.spec, vector=np.full_like(start.vector, version / 100)),
            parse_codec("int8"),
        )
        for version in range(first, last + 1)
    ]


def followed(worker: Worker, *sections: Section, version: int) -> AdapterState:
    """Take part in an order of such sections; give the state that the node then has."""
    return takes_part(worker, part_of(worker, *sections, version=version))._start()


def added(state: AdapterState, sections: list[Section]) -> AdapterState:
    """Add what sections decode to, one after the other, in float32."""
    for section in sections:
        state = AdapterState(spec=state.spec, vector=state.vector + section.decode().vector)
    return state


def test_the_first_state_is_the_one_that_nodes_draw(worker: Worker) -> None:
    order = part_of(worker, version=0, base=0)
    update = takes_part(worker, order, "float32", feedback=False).train()
    assert bits(sent(update)) == bits(worker.fit(worker.adapted.initial, 1).delta)
    chain = increments(worker.adapted.initial, 1, 3)
    assert bits(followed(worker, *chain, version=3)) == bits(added(worker.adapted.initial, chain))


def test_increments_lead_from_what_the_node_decoded_last(
    worker: Worker, start: AdapterState
) -> None:
    assert bits(followed(worker, section_of(STATE, start), version=4)) == bits(start)
    chain = increments(start, 5, 7)
    expected = added(start, chain)
    assert (
        bits(followed(worker, *chain, version=7))
        == bits(expected)
        == bits(kept(worker, BROADCAST, 7))
    )
    assert bits(followed(worker, version=7)) == bits(expected)  # nothing new
    update = takes_part(worker, part_of(worker, version=7, base=0)).train()
    assert bits(sent(update)) == bits(sent(trained(worker, expected, 1, base=0)))


def test_a_state_that_the_node_has_is_not_written_again(
    worker: Worker, start: AdapterState
) -> None:
    followed(worker, section_of(STATE, start), version=4)
    (path,) = memory_of(RUN, worker.partition, BROADCAST).folder.glob("round-*")
    written = path.stat().st_ino  # another file replaces it where it is written
    followed(worker, version=4)
    assert path.stat().st_ino == written
    other = like(worker, 0.5)  # what the server sends whole counts more than what lies there
    assert bits(followed(worker, section_of(STATE, other), version=4)) == bits(other)
    assert bits(kept(worker, BROADCAST, 4)) == bits(other)


def test_an_order_that_comes_late_leaves_the_newer_state(
    worker: Worker, start: AdapterState
) -> None:
    followed(worker, section_of(STATE, start), version=6)
    followed(worker, section_of(STATE, like(worker, 0.5)), version=5)
    chain = increments(start, 7, 7)
    assert bits(followed(worker, *chain, version=7)) == bits(added(start, chain))
    assert memory_of(RUN, worker.partition, BROADCAST).rounds() == [7]


def test_whoever_judges_a_state_has_it(worker: Worker, start: AdapterState) -> None:
    judge = replace(worker, held_out=worker.train)
    order = part_of(worker, section_of(STATE, start), version=4)
    measured = takes_part(judge, order, "float32", feedback=False).evaluate(steps=3)
    assert measured == judge.evaluate(start, 1, steps=3)
    assert bits(followed(worker, version=4)) == bits(start)


@pytest.mark.parametrize(
    ("names", "version"),
    [
        ([5, 7], 7),  # a gap
        ([6, 5], 6),
        ([5, 6], 7),  # they end too early
        ([5, 6], 5),
        ([5, 5], 5),
        ([0, 1], 1),  # version 0 is drawn
        ([5], -1),
    ],
)
def test_increments_that_do_not_lead_there_are_refused(
    worker: Worker, start: AdapterState, names: list[int], version: int
) -> None:
    followed(worker, section_of(STATE, start), version=4)
    chain = [increments(start, number, number)[0] for number in names]
    with pytest.raises(AdapterMismatchError, match=rf"that lead to version {version} of it, got"):
        followed(worker, *chain, version=version)
    assert bits(kept(worker, BROADCAST, 4)) == bits(start)


def test_an_order_without_a_state_is_refused(worker: Worker) -> None:
    order = Order(spec=worker.adapted.spec, sections=(), round_number=1)
    with pytest.raises(AdapterMismatchError, match="Expected a state, or the increments"):
        takes_part(worker, order, "float32", feedback=False).train()


@pytest.mark.parametrize("first", [4, 6, 7])
def test_a_node_that_does_not_hold_the_version_before_says_so(
    worker: Worker, start: AdapterState, first: int
) -> None:
    followed(worker, section_of(STATE, start), version=4)
    with pytest.raises(NodeStateError, match=rf"of round {first - 1} \(broadcast\) in .*: 4 \("):
        followed(worker, *increments(start, first, 7), version=7)


def test_a_state_of_a_part_is_no_state(worker: Worker, start: AdapterState) -> None:
    half = taken(start, trained_spec(start.spec, "a"))
    order = part_of(worker, section_of(STATE, half))
    with pytest.raises(AdapterMismatchError):
        takes_part(worker, order).train()


@pytest.mark.parametrize("name", ["momentum", "delta", "controls"])
def test_what_this_node_does_not_know_is_refused(
    worker: Worker, start: AdapterState, name: str
) -> None:
    order = part_of(worker, section_of(STATE, start), section_of(name, start))
    with pytest.raises(AdapterMismatchError, match=rf"carries \['{name}'\], with which .* control"):
        takes_part(worker, order).train()


# ------------------------------------------------------------------ control variates


def steered(
    worker: Worker, start: AdapterState, control: AdapterState, round_number: int, base: int
) -> Update:
    """Take part in a round of SCAFFOLD."""
    order = part_of(
        worker,
        section_of(STATE, start),
        section_of(CONTROL, control),
        round_number=round_number,
        base=base,
    )
    return takes_part(worker, order, "float32", feedback=False).train()


def test_a_node_sends_how_its_control_changed_and_keeps_it(
    worker: Worker, start: AdapterState
) -> None:
    zeros, shift = like(worker, 0.0), like(worker, 0.01)
    first = worker.fit(start, 1, control=zeros)
    update = steered(worker, start, zeros, 1, base=0)
    assert [section.name for section in update.sections] == ["delta", "control"]
    assert first.control is not None
    assert bits(sent(update)) == bits(first.delta)
    assert bits(sent(update, CONTROL)) == bits(kept(worker, CONTROL, 1)) == bits(first.control)

    correction = like(worker, shift.vector - first.control.vector)
    second = worker.fit(start, 2, control=correction)
    update = steered(worker, start, shift, 2, base=1)
    assert second.control is not None
    assert bits(sent(update)) == bits(second.delta)
    assert bits(kept(worker, CONTROL, 2)) == bits(second.control)
    expected = second.control.vector - first.control.vector
    assert sent(update, CONTROL).vector.tobytes() == expected.tobytes()


def test_a_control_that_did_not_count_is_forgotten(worker: Worker, start: AdapterState) -> None:
    zeros = like(worker, 0.0)
    steered(worker, start, zeros, 1, base=0)
    before = kept(worker, CONTROL, 1)
    steered(worker, start, zeros, 2, base=1)
    update = steered(worker, start, zeros, 3, base=1)
    expected = kept(worker, CONTROL, 3).vector - before.vector
    assert sent(update, CONTROL).vector.tobytes() == expected.tobytes()


def test_a_control_travels_in_full_whatever_the_uplink(worker: Worker, start: AdapterState) -> None:
    order = part_of(worker, section_of(STATE, start), section_of(CONTROL, like(worker, 0.0)))
    update = takes_part(worker, order, "topk(0.1)+int8").train()
    assert {section.name: section.codec.name for section in update.sections} == {
        "delta": "topk(0.1)+int8",
        "control": "float32",
    }
    assert bits(sent(update, CONTROL)) == bits(kept(worker, CONTROL, 1))
    assert kept(worker, RESIDUAL, 1).vector.any()


def test_a_control_of_one_factor_is_refused(worker: Worker, start: AdapterState) -> None:
    part = taken(start, trained_spec(start.spec, "b"))
    order = part_of(worker, section_of(STATE, start), section_of(CONTROL, part))
    with pytest.raises(AdapterMismatchError, match=r"carries \['control'\].*it trains"):
        takes_part(worker, order).train()


# ------------------------------------------------------------------ parameters of its own


@pytest.fixture
def personal(tiny_settings: dict[str, Any]) -> Worker:
    """The same node with a head that stays."""
    settings = {
        **tiny_settings,
        "method.head": "personal",
        "evaluate.server": False,
        "strategy.fraction-evaluate": 1.0,
    }
    return make_worker(parse(settings), NODE)


def test_all_that_a_node_keeps_is_of_one_version(personal: Worker) -> None:
    initial, own = personal.adapted.initial, personal.adapted.personal.initial
    trained(personal, initial, 1, base=0)
    memory = memory_of(RUN, personal.partition)
    assert memory.rounds() == [1]
    expected = personal.fit(initial, 1, personal=own).personal
    assert bits(memory.recall(PERSONAL, own, 1)) == bits(expected) != bits(own)
    assert kept(personal, RESIDUAL, 1).vector.any()


@pytest.mark.parametrize("act", [Participation.train, lambda part: part.evaluate(steps=0)])
def test_lost_parameters_of_its_own_are_never_made_up(
    personal: Worker, act: Callable[[Participation], object]
) -> None:
    order = part_of(personal, section_of(STATE, personal.adapted.initial), base=1)
    with pytest.raises(NodeStateError, match=r"\(personal\).* What only this node had is lost"):
        act(takes_part(personal, order))
