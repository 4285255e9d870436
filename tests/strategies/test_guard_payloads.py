"""The guard and what payloads may hold: good deltas pass, and nothing else, whatever the bytes."""

import math
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_samples import members, numbers, state_of, update

from fedpeft_app.adapters import AdapterSpec, TensorSpec
from fedpeft_app.adapters.bounds import LARGEST
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.strategies.guard import admit
from fedpeft_app.strategies.strategy import Assignment, Reply
from fedpeft_app.wire.catalogue import parse_codec
from fedpeft_app.wire.payload import Section
from fedpeft_app.wire.record import CONTROL, DELTA, Update, section_of, write_update

MEMBER = members(1, examples=10)[0]
ROUND = 3
LORA = AdapterSpec(
    method="lora",
    backbone="0123456789abcdef",
    tensors=(
        TensorSpec(name="m.lora_A.default.weight", shape=(1, 2)),
        TensorSpec(name="m.lora_B.default.weight", shape=(3, 1)),
        TensorSpec(name="classifier.weight", shape=(2,), head=True),
        TensorSpec(name="m.residual", shape=(4,), frozen=True),
    ),
    ranks={"m": 1},
)
PARTS = {part: trained_spec(LORA, part) for part in ("", "a", "b")}  # 7, 4 and 5 values


def asked() -> Message:
    """Make the message that a node answers."""
    return Message(content=RecordDict(), dst_node_id=MEMBER.node_id, message_type="train")


def packed(*sections: Section) -> Message:
    """Answer with these sections."""
    answer = Update(spec=LORA, sections=sections, round_number=ROUND, metrics=numbers())
    return Message(write_update(answer), reply_to=asked())


def coded(name: str, spec: AdapterSpec, values: float | list[float], codec: str) -> Section:
    """Encode a state."""
    return section_of(name, state_of(spec, values), parse_codec(codec))


def looked_at(message: Message, **changes: Any) -> Reply | str:
    """Let the guard look at a reply of a node that was asked about LORA."""
    return admit(message, MEMBER, Assignment(state=state_of(LORA, 0.0), **changes), ROUND)


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "int8", "int4", "topk(0.5)+int8+zstd"])
@pytest.mark.parametrize(("part", "whole"), [("", 7), ("a", 4), ("b", 5)])
def test_a_good_delta_is_decoded_when_it_is_asked_for(part: str, whole: int, codec: str) -> None:
    section = coded(DELTA, PARTS[part], 1.0, codec)
    reply = looked_at(packed(section), part=part)
    assert isinstance(reply, Reply)
    assert reply.update.decode().spec == PARTS[part]
    assert reply.delta.spec == LORA
    assert np.count_nonzero(reply.delta.vector) == np.count_nonzero(section.decode().vector)
    assert np.count_nonzero(section.decode().vector) in (whole, round(whole / 2))
    assert not reply.delta.tensors()["m.residual"].any()


@pytest.mark.parametrize("asked_for", PARTS)
@pytest.mark.parametrize("sent", PARTS)
def test_a_delta_is_of_the_part_that_was_to_train(asked_for: str, sent: str) -> None:
    found = looked_at(packed(coded(DELTA, PARTS[sent], 1.0, "int8")), part=asked_for)
    if asked_for == sent:
        assert isinstance(found, Reply)
    else:
        right, wrong = PARTS[asked_for].fingerprint, PARTS[sent].fingerprint
        assert found == f"sent a delta of {wrong} instead of {right}"


def test_what_never_trains_is_not_to_be_sent() -> None:
    found = looked_at(packed(coded(DELTA, LORA, 1.0, "int8")))
    wrong, right = LORA.fingerprint, PARTS[""].fingerprint
    assert found == f"sent a delta of {wrong} instead of {right}"


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ([], "sent nothing instead of delta"),
        (["state"], "sent state instead of delta"),
        (["delta", "control"], "sent control, delta instead of delta"),
        (["increment-1", "delta"], "sent delta, increment-1 instead of delta"),
    ],
)
def test_other_sections_than_were_asked_for_are_rejected(sent: list[str], reason: str) -> None:
    assert looked_at(packed(*(coded(name, PARTS[""], 1.0, "int8") for name in sent))) == reason


def test_what_else_was_asked_for_must_be_there() -> None:
    control = state_of(PARTS[""], 0.0)
    delta, own = (coded(name, PARTS[""], 1.0, "float32") for name in (DELTA, CONTROL))
    reply = looked_at(packed(delta, own), extras={CONTROL: control})
    assert isinstance(reply, Reply)
    assert list(reply.extras) == [CONTROL]
    assert reply.extras[CONTROL].decode().vector.tolist() == [1.0] * 7
    missing = looked_at(packed(delta), extras={CONTROL: control})
    assert missing == "sent delta instead of control, delta"
    part = looked_at(
        packed(delta, coded(CONTROL, PARTS["b"], 1.0, "int8")), extras={CONTROL: control}
    )
    assert str(part).startswith("sent a control of")


@pytest.mark.parametrize("name", [DELTA, CONTROL])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "codec", ["float32", "bfloat16", "float16", "topk(0.5)+float32", "float32+zstd"]
)
def test_floats_that_are_not_finite_are_found_in_every_section(
    codec: str, value: float, name: str
) -> None:
    sections = [
        coded(one, PARTS[""], [value if one == name else 1.0] + [1.0] * 6, codec)
        for one in (DELTA, CONTROL)
    ]
    found = looked_at(packed(*sections), extras={CONTROL: state_of(PARTS[""], 0.0)})
    assert found == f"sent a {name} with values that are not finite"


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "int8", "topk(0.5)+int4+zstd"])
@pytest.mark.parametrize("name", [DELTA, CONTROL])
def test_a_huge_value_is_found_in_every_section(codec: str, name: str) -> None:
    sections = [
        coded(one, PARTS[""], 2.0**20 if one == name else 1.0, codec) for one in (DELTA, CONTROL)
    ]
    found = looked_at(packed(*sections), extras={CONTROL: state_of(PARTS[""], 0.0)})
    assert str(found).startswith(f"sent a {name} with values up to 1.0")


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_no_bytes_of_an_integer_format_are_anything_but_finite_or_refused(codec: str) -> None:
    good = coded(DELTA, PARTS[""], 1.0, codec)
    for place in range(len(good.data)):
        for byte in range(256):
            data = bytes(good.data[:place]) + bytes([byte]) + bytes(good.data[place + 1 :])
            found = looked_at(packed(replace(good, data=data)))
            assert isinstance(found, Reply) or found.startswith(("Expected", "sent a delta with"))


@pytest.mark.parametrize("codec", ["float32", "int8", "topk(0.5)+int8", "int8+zstd"])
def test_a_payload_that_was_cut_off_anywhere_is_rejected(codec: str) -> None:
    whole = packed(coded(DELTA, PARTS[""], 1.0, codec))
    data = whole.content["arrays"]["adapter"].data
    for end in range(len(data)):
        array = Array(dtype="uint8", shape=(end,), stype="fedpeft.payload", data=data[:end])
        content = RecordDict({**whole.content, "arrays": ArrayRecord({"adapter": array})})
        found = looked_at(Message(content, reply_to=asked()))
        assert isinstance(found, str)
        assert found.startswith("Expected")


# ------------------------------------------------------------------ whatever arrives

WIDE = AdapterSpec(
    method="lora",
    backbone="0123456789abcdef",
    tensors=(TensorSpec(name="w", shape=(25, 1000)),),
    ranks={},
)
ADAPTER_BYTES = 4 * WIDE.size
MOST_MEMORY = 4 * ADAPTER_BYTES
CODECS = ["float32", "bfloat16", "int8", "topk(0.1)+int8", "int4+zstd"]
ODD = {  # place → what may stand there instead of what belongs there
    "dtype": st.sampled_from(["float32", "object", ""]),
    "shape": st.sampled_from([(2**40,), (2**62, 2**62), (0,), (-1,), (), (3, 3)]),
    "stype": st.sampled_from(["numpy.ndarray", "pickle", ""]),
    "spec": st.text(max_size=4) | st.just(LORA.fingerprint),
    "round": st.integers() | st.text(max_size=4) | st.just(value=True),
    "metric": st.floats() | st.integers(-(2**63), 2**63 - 1) | st.lists(st.floats(), max_size=2),
    "missing": st.sampled_from(["arrays", "config", "metrics"]),
    "bytes": st.lists(  # most of them in the header, which says how much is to come
        st.tuples(st.integers(0, 127) | st.integers(0, 10**6), st.integers(0, 255)), max_size=3
    ),
    "cut": st.integers(0, 10**6),
    "more": st.binary(min_size=1, max_size=16),
}


@st.composite
def replies(draw: st.DrawFn) -> Message:
    """Draw a reply that is odd in at most two places."""
    odd = draw(st.sets(st.sampled_from(list(ODD)), max_size=2))

    def at(place: str, usual: Any) -> Any:
        return draw(ODD[place]) if place in odd else usual

    vector = np.random.default_rng(0).standard_normal(WIDE.size)
    codec = parse_codec(draw(st.sampled_from(CODECS)))
    whole = update(asked(), state_of(WIDE, vector), ROUND, numbers(), codec=codec).content
    data = bytearray(whole["arrays"]["adapter"].data)
    for place, byte in at("bytes", []):
        data[place % len(data)] = byte
    data = data[: at("cut", len(data))] + at("more", b"")
    array = Array(
        dtype=at("dtype", "uint8"),
        shape=at("shape", (len(data),)),
        stype=at("stype", "fedpeft.payload"),
        data=bytes(data),
    )
    metric = draw(st.sampled_from(sorted(numbers())))
    scalars = {"spec": at("spec", WIDE.fingerprint), "round": at("round", ROUND)}
    content = {
        "arrays": ArrayRecord({"adapter": array}),
        "config": ConfigRecord(scalars),
        "metrics": MetricRecord({**numbers(), metric: at("metric", numbers()[metric])}),
    }
    content.pop(at("missing", ""), None)
    return Message(RecordDict(content), reply_to=asked())


@given(replies())
@settings(max_examples=300)
def test_whatever_a_node_sends_is_admitted_or_rejected_with_a_reason(message: Message) -> None:
    assignment = Assignment(state=state_of(WIDE, 0.0))
    tracemalloc.start()
    try:
        found = admit(message, MEMBER, assignment, ROUND)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < MOST_MEMORY
    if isinstance(found, Reply):
        assert np.abs(found.delta.vector).max() <= LARGEST
        assert 0 < found.weight <= MEMBER.examples
        assert math.isfinite(found.metrics["loss"])
    else:
        assert found
