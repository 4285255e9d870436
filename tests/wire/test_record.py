"""Messages through Flower's real serialisation: bit-exact, strict, and counted to the byte."""

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.proto.message_pb2 import PullObjectResponse, PushObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse, PushAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.superlink.grid.http_grid import HttpGrid
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.errors import AdapterMismatchError, WireError
from fedpeft_app.wire.catalogue import parse_codec
from fedpeft_app.wire.payload import Section, write
from fedpeft_app.wire.record import (
    DELTA,
    INCREMENT,
    MOST_INCREMENTS,
    STATE,
    Order,
    Update,
    facts,
    message_bytes,
    metrics,
    read_order,
    read_update,
    renewed,
    section_of,
    write_facts,
    write_order,
    write_update,
)

READERS = [read_order, read_update]
Reader = Callable[[RecordDict, AdapterSpec], Any]


def flat_spec(size: int) -> AdapterSpec:
    """Make a spec of one tensor."""
    tensor = TensorSpec(name="w", shape=(size,))
    return AdapterSpec(method="lora", backbone="x", tensors=(tensor,), ranks={})


def random_state(size: int, seed: int = 0) -> AdapterState:
    """Make a state whose values are any bits at all, NaNs and infinities included."""
    bits = np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)
    return AdapterState(spec=flat_spec(size), vector=bits.view(np.float32))


def addressed(content: RecordDict) -> Message:
    """Put content into a message from the server to a node."""
    return Message(content, dst_node_id=1_000_000_007, message_type="train")


def travelled(content: RecordDict) -> RecordDict:
    """Deflate a message to bytes, as Flower does, and inflate it on the other side."""
    message = addressed(content)
    contents = {key: part.deflate() for key, part in get_all_nested_objects(message).items()}
    inflated = inflate_object_from_contents(message.object_id, contents)
    assert isinstance(inflated, Message)
    return inflated.content


def order_of(state: AdapterState, **changes: Any) -> Order:
    """Make an order that carries a state."""
    sections = [section_of(STATE, state)]
    fields: dict[str, Any] = {"spec": state.spec, "sections": sections, "round_number": 1}
    return Order(**{**fields, **changes})


def update_of(state: AdapterState, **changes: Any) -> Update:
    """Make an update that carries a delta."""
    fields: dict[str, Any] = {
        "spec": state.spec,
        "sections": [section_of(DELTA, state)],
        "round_number": 3,
        "metrics": {"num-examples": 8.0},
    }
    return Update(**{**fields, **changes})


def bits(read: Order | Update, name: str) -> bytes:
    """Decode the only section, of a name."""
    (section,) = read.sections
    assert section.name == name
    return section.decode().vector.tobytes()


def written(state: AdapterState) -> RecordDict:
    """Write an update, which has everything that an order has."""
    return write_update(update_of(state))


# ------------------------------------------------------------------ there and back


option_names = st.text(max_size=8).filter(lambda name: name not in {"spec", "round"})
scalars = (
    st.text(max_size=8)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.booleans()
)


@given(
    size=st.integers(0, 200),
    seed=st.integers(0, 2**32),
    round_number=st.integers(1, 2**63 - 1),
    options=st.dictionaries(option_names, scalars, max_size=4),
)
def test_an_order_arrives_as_it_was_sent(
    size: int, seed: int, round_number: int, options: dict[str, Any]
) -> None:
    state = random_state(size, seed)
    order = order_of(state, round_number=round_number, options=options)
    read = read_order(travelled(write_order(order)), state.spec)
    assert bits(read, STATE) == state.vector.tobytes()
    assert (read.round_number, read.options) == (round_number, options)
    assert [type(value) for value in read.options.values()] == [
        type(value) for value in options.values()
    ]


@given(
    size=st.integers(0, 200),
    seed=st.integers(0, 2**32),
    numbers=st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=4),
    told=st.dictionaries(option_names, scalars, max_size=4),
)
def test_an_update_arrives_as_it_was_sent(
    size: int, seed: int, numbers: dict[str, float], told: dict[str, Any]
) -> None:
    state = random_state(size, seed)
    update = update_of(state, metrics=numbers, facts=told)
    read = read_update(travelled(write_update(update)), state.spec)
    assert bits(read, DELTA) == state.vector.tobytes()
    assert (read.round_number, read.metrics, read.facts) == (3, numbers, told)


@pytest.mark.parametrize("value", [0.0, 1.0, math.nan])
def test_a_vector_of_equal_values_arrives_whole(value: float) -> None:
    # Flower sends equal chunks once: three equal megabytes must not come back as one
    spec = flat_spec(3 * 2**20)
    state = AdapterState(spec=spec, vector=np.full(spec.size, value, dtype=np.float32))
    read = read_update(travelled(written(state)), spec)
    assert bits(read, DELTA) == state.vector.tobytes()


def test_a_message_has_one_array_of_the_payloads_bytes(state: AdapterState) -> None:
    (array,) = written(state).array_records["arrays"].values()
    assert array.data == write([section_of(DELTA, state)], known={state.spec.fingerprint})
    assert array.data[-32:-4] == np.arange(7).astype("<f4").tobytes()  # filled up to 32
    assert array.data[-28:-24] == b"\x00\x00\x80\x3f"  # 1.0 is 0x3f800000
    size = len(array.data)
    assert (array.dtype, array.shape, array.stype) == ("uint8", (size,), "fedpeft.payload")


def test_a_message_that_carries_nothing_has_no_array(spec: AdapterSpec) -> None:
    content = write_order(Order(spec=spec, sections=(), round_number=2, options={"version": 7}))
    assert list(content["arrays"]) == []
    read = read_order(travelled(content), spec)
    assert (read.sections, read.round_number, read.options) == ((), 2, {"version": 7})
    assert read.section(STATE) is None


@pytest.mark.parametrize("codec", ["bfloat16", "int8", "topk(0.5)+int4+zstd"])
def test_encoded_sections_arrive_byte_by_byte_in_their_order(codec: str) -> None:
    state = AdapterState(spec=flat_spec(50), vector=np.arange(50, dtype=np.float32))
    sent = [
        section_of(f"{INCREMENT}{number}", state, parse_codec(codec), np.random.default_rng(number))
        for number in (3, 4)
    ]
    read = read_order(travelled(write_order(order_of(state, sections=sent))), state.spec)
    assert [one.name for one in read.sections] == ["increment-3", "increment-4"]
    assert [bytes(one.data) for one in read.sections] == [bytes(one.data) for one in sent]
    assert {one.codec.name for one in read.sections} == {codec}
    assert read.section("increment-4") is read.sections[1]


def test_parts_of_the_adapter_are_known_to_both_sides() -> None:
    tensors = (
        TensorSpec(name="m.lora_A.default.weight", shape=(1, 2)),
        TensorSpec(name="m.lora_B.default.weight", shape=(3, 1)),
        TensorSpec(name="m.residual", shape=(4,), frozen=True),
    )
    spec = AdapterSpec(method="lora", backbone="x", tensors=tensors, ranks={"m": 1})
    sizes = {}
    for part in ("", "a", "b"):
        own = trained_spec(spec, part)
        sent = update_of(AdapterState(spec=own, vector=np.ones(own.size, np.float32)), spec=spec)
        content = travelled(write_update(sent))
        (section,) = read_update(content, spec).sections
        assert section.spec == own
        assert b"specs" not in content["arrays"]["adapter"].data  # none is embedded
        sizes[part] = section.spec.size
    assert sizes == {"": 5, "a": 2, "b": 3}


def test_names_and_shapes_do_not_travel(state: AdapterState) -> None:
    message = addressed(written(state))
    sent = b"".join(part.deflate() for part in get_all_nested_objects(message).values())
    assert state.spec.fingerprint.encode() in sent
    assert b"lora" not in sent
    assert b"head" not in sent


def test_what_is_read_cannot_be_written_to(state: AdapterState) -> None:
    read = read_update(travelled(written(state)), state.spec)
    with pytest.raises(ValueError, match="read-only"):
        read.sections[0].decode().vector[0] = 1.0


def test_whole_numbers_among_metrics_are_read_as_floats(state: AdapterState) -> None:
    update = update_of(state, metrics={"num-examples": 8, "loss": 0.5})
    read = read_update(travelled(write_update(update)), state.spec).metrics
    assert read == {"num-examples": 8.0, "loss": 0.5}
    assert {type(value) for value in read.values()} == {float}


@pytest.mark.parametrize("name", ["spec", "round"])
def test_options_cannot_replace_what_the_message_carries(state: AdapterState, name: str) -> None:
    with pytest.raises(ValueError, match=rf"got \['{name}'\]"):
        write_order(order_of(state, options={name: 7}))
    with pytest.raises(ValueError, match=rf"got \['{name}'\]"):
        write_update(update_of(state, facts={name: 7}))


def test_facts_and_numbers_arrive_as_they_were_sent() -> None:
    told = {"host": "a", "cuda": True, "labels": ["x", "y"], "count": 3}
    content = travelled(write_facts(told, {"accuracy": 0.5}))
    assert facts(content) == told
    assert metrics(content) == {"accuracy": 0.5}


def test_facts_without_numbers_have_no_metrics() -> None:
    content = travelled(write_facts({"host": "a"}))
    assert facts(content) == {"host": "a"}
    assert metrics(content) == {}
    assert not content.metric_records


def test_an_empty_message_has_neither_facts_nor_metrics() -> None:
    assert facts(RecordDict()) == {}
    assert metrics(RecordDict()) == {}


def test_lists_among_metrics_are_left_out() -> None:
    content = RecordDict({"metrics": MetricRecord({"loss": 0.5, "losses": [0.1, 0.2]})})
    assert metrics(content) == {"loss": 0.5}


# ------------------------------------------------------------------ what is refused


def without(record: str) -> Callable[[RecordDict], None]:
    """Remove a record."""

    def remove(content: RecordDict) -> None:
        del content[record]

    return remove


def with_config(**values: Any) -> Callable[[RecordDict], None]:
    """Change scalars of the message."""
    return lambda content: content["config"].update(values)


def with_array(**changes: Any) -> Callable[[RecordDict], None]:
    """Change the packed array: by value, or by a function of the old value."""

    def change(content: RecordDict) -> None:
        array = content["arrays"]["adapter"]
        for name, value in changes.items():
            setattr(array, name, value(getattr(array, name)) if callable(value) else value)

    return change


def with_data(change: Callable[[bytes], bytes]) -> Callable[[RecordDict], None]:
    """Change the payload, and say so in the array's shape."""

    def put(content: RecordDict) -> None:
        array = content["arrays"]["adapter"]
        array.data = change(array.data)
        array.shape = (len(array.data),)

    return put


def with_records(**records: Any) -> Callable[[RecordDict], None]:
    """Replace whole records."""
    return lambda content: content.update(records)


DAMAGES: Mapping[str, tuple[Callable[[RecordDict], None], str]] = {
    "no arrays": (without("arrays"), "Expected the records 'arrays'"),
    "no config": (without("config"), "Expected the records 'arrays'"),
    "config of another kind": (
        with_records(config=MetricRecord({"round": 3})),
        "Expected the records",
    ),
    "another array": (
        with_records(arrays=ArrayRecord({"other": Array(np.zeros(7, np.float32))})),
        "with one array 'adapter'",
    ),
    "an array too many": (
        lambda content: content["arrays"].update(other=Array(np.zeros(7, np.float32))),
        "with one array 'adapter'",
    ),
    "another fingerprint": (
        with_config(spec="0000000000000000"),
        "for adapter '0000000000000000', round 3; this side has adapter '236b6255ba52d372'",
    ),
    "a fingerprint of bytes": (with_config(spec=b"236b6255ba52d372"), "for adapter b'236b"),
    "no scalars": (with_records(config=ConfigRecord()), "for adapter None, round None"),
    "round as text": (with_config(round="3"), "round '3'"),
    "round as float": (with_config(round=3.0), r"round 3\.0"),
    "round as bool": (with_config(round=True), "round True"),
    "rounds as list": (with_config(round=[3]), r"round \[3\]"),
    "round zero": (with_config(round=0), "round 0.*count from 1"),
    "negative round": (with_config(round=-1), "round -1"),
    "truncated": (with_data(lambda data: data[:-1]), "body of 32 bytes, .* got 31"),
    "a value too few": (with_data(lambda data: data[:-4]), "body of 32 bytes, .* got 28"),
    "a value too many": (with_data(lambda data: data + b"\0" * 4), "body of 32 .* got 36"),
    "no payload": (with_data(lambda data: b""), "at least 12 bytes in a payload, got 0"),
    "bytes cut off on the way": (
        with_array(data=lambda data: data[:-8]),
        r"payload of 128 bytes .* got uint8 of shape \(136,\)",
    ),
    "packed by NumPy": (with_array(stype="numpy.ndarray"), r"\(numpy.ndarray\)"),
    "another dtype": (with_array(dtype="float64"), "got float64"),
    "another shape": (with_array(shape=(1, 7)), r"of shape \(1, 7\)"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_message_is_refused(
    state: AdapterState, reader: Reader, damage: Callable[[RecordDict], None], message: str
) -> None:
    content = written(state)
    damage(content)
    with pytest.raises((AdapterMismatchError, WireError), match=message):
        reader(travelled(content), state.spec)


def carrying(size: int, count: int, make: Callable[..., Any]) -> Any:
    """Make a message of so many sections that share their bytes."""
    state = random_state(size)
    one = section_of(DELTA, state)
    sections = [replace(one, name=f"{INCREMENT}{number}") for number in range(count)]
    return make(state, sections=sections)


def test_values_beyond_what_a_message_may_have_are_refused() -> None:
    update = travelled(write_update(carrying(9, 4, update_of)))
    assert len(read_update(update, flat_spec(9)).sections) == 4
    with pytest.raises(WireError, match="at most 36 values in a payload, got 45"):
        read_update(travelled(write_update(carrying(9, 5, update_of))), flat_spec(9))
    most = 4 + MOST_INCREMENTS
    order = travelled(write_order(carrying(9, most, order_of)))
    assert len(read_order(order, flat_spec(9)).sections) == most
    with pytest.raises(WireError, match="at most 612 values in a payload, got 621"):
        read_order(travelled(write_order(carrying(9, most + 1, order_of))), flat_spec(9))


def test_an_update_without_metrics_is_refused(state: AdapterState) -> None:
    order = travelled(write_order(order_of(state)))
    with pytest.raises(AdapterMismatchError, match="Expected a metric record"):
        read_update(order, state.spec)


@pytest.mark.parametrize("reader", READERS)
def test_a_message_for_an_equally_large_adapter_is_refused(
    state: AdapterState, reader: Reader
) -> None:
    other = replace(state.spec, scaling=4.0)
    with pytest.raises(AdapterMismatchError, match=f"this side has adapter '{other.fingerprint}'"):
        reader(travelled(written(state)), other)


FUZZED = flat_spec(3)
NUMPY_BYTES = Array(np.zeros(3, np.float32)).data  # a valid .npy file, here out of place
payloads = st.binary(min_size=12, max_size=12) | st.binary(max_size=40) | st.just(NUMPY_BYTES)
config_values = scalars | st.floats() | st.binary(max_size=8) | st.lists(st.integers(), max_size=2)


ODD = {  # place → what may stand there instead of what belongs there
    "dtype": st.sampled_from(["float32", "object", ""]),
    "shape": st.lists(st.integers(-1, 4) | st.just(2**62), max_size=3).map(tuple),
    "stype": st.sampled_from(["numpy.ndarray", "pickle", ""]),
    "payload": st.binary(max_size=40) | st.just(NUMPY_BYTES),
    "spec": config_values,
    "round": config_values,
    "adapter": st.text(max_size=8),
    "arrays": st.text(max_size=8).map("x{}".format),
    "config": st.text(max_size=8).map("y{}".format),
    "metrics": st.text(max_size=8).map("z{}".format),
}


def packed(values: bytes) -> bytes:
    """Make a payload of the bytes of float32 values."""
    codec = parse_codec("float32")
    section = Section(name=DELTA, spec=FUZZED, codec=codec, data=values)
    return write([section], known={FUZZED.fingerprint})


@st.composite
def contents(draw: st.DrawFn) -> RecordDict:
    """Draw a message's content, odd in at most two places."""
    odd = draw(st.sets(st.sampled_from(list(ODD)), max_size=2))

    def at(place: str, usual: Any) -> Any:
        return draw(ODD[place]) if place in odd else usual

    payload = at("payload", packed(draw(st.binary(min_size=12, max_size=12))))
    shape = at("shape", (len(payload),))
    array = Array(at("dtype", "uint8"), shape, at("stype", "fedpeft.payload"), payload)
    config = ConfigRecord(draw(st.dictionaries(st.text(max_size=5), config_values, max_size=2)))
    config["spec"] = at("spec", FUZZED.fingerprint)
    config["round"] = at("round", draw(st.integers(1, 9)))
    numbers = st.dictionaries(st.text(max_size=5), st.integers() | st.floats(), max_size=2)
    return RecordDict(
        {
            at("arrays", "arrays"): ArrayRecord({at("adapter", "adapter"): array}),
            at("config", "config"): config,
            at("metrics", "metrics"): MetricRecord(draw(numbers)),
        }
    )


@pytest.mark.parametrize("reader", READERS)
@given(content=contents())
def test_whatever_arrives_is_read_or_refused(reader: Reader, content: RecordDict) -> None:
    try:
        read = reader(content, FUZZED)
    except (AdapterMismatchError, WireError):
        return
    (section,) = read.sections
    payload = content.array_records["arrays"]["adapter"].data
    assert packed(section.decode().vector.tobytes()) == payload
    assert read.round_number == content.config_records["config"]["round"] >= 1


@pytest.mark.parametrize("reader", READERS)
@given(payload=payloads)
def test_any_bytes_of_the_right_length_are_values(reader: Reader, payload: bytes) -> None:
    content = written(random_state(3))
    with_data(lambda data: data[:-16] + payload + bytes(4))(content)  # 12 bytes fill 16
    try:
        (section,) = reader(travelled(content), FUZZED).sections
    except WireError:
        assert len(payload) != 12
    else:
        assert section.decode().vector.tobytes() == payload


# ------------------------------------------------------------------ what it costs


class Link:
    """The SuperLink's end of Flower's HTTP connection: keeps what it is sent.

    Attributes:
        objects: Object id → bytes pushed.
        requests: Size of every request, as protobuf.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[int] = []
        self._messages: list[Any] = []
        self._trees: list[Any] = []

    def PushMessages(self, request: Any) -> PushAppMessagesResponse:  # noqa: N802  Flower's name
        self.requests.append(request.ByteSize())
        self._messages = list(request.messages_list)
        self._trees = list(request.message_object_trees)
        wanted = {part.object_id for tree in self._trees for part in iterate_object_tree(tree)}
        return PushAppMessagesResponse(
            message_ids=[message.metadata.message_id for message in self._messages],
            objects_to_push=sorted(wanted),
            session_id="s" * 32,
        )

    def PushObject(self, request: Any) -> PushObjectResponse:  # noqa: N802
        self.requests.append(request.ByteSize())
        self.objects[request.object_id] = request.object_content
        return PushObjectResponse(stored=True)

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:  # noqa: N802
        return PullAppMessagesResponse(
            messages_list=self._messages, message_object_trees=self._trees
        )

    def PullObject(self, request: Any) -> PullObjectResponse:  # noqa: N802
        return PullObjectResponse(
            object_found=True,
            object_available=True,
            object_content=self.objects[request.object_id],
        )

    def ConfirmMessageReceived(self, request: Any) -> None:  # noqa: N802
        """Do nothing."""


def push(*messages: Message) -> tuple[Link, list[Message]]:
    """Send messages by Flower's own HttpGrid and pull them again."""
    link = Link()
    grid = HttpGrid(insecure=True, token="token")
    grid._client = link  # type: ignore[assignment]
    grid._run = SimpleNamespace(run_id=1)  # type: ignore[assignment]
    ids = grid.push_messages(list(messages))
    return link, list(grid.pull_messages(ids))


ADAPTER_300_KB = 300_000 // 4
MESSAGES = {
    "order": lambda: addressed(write_order(order_of(random_state(1000)))),
    "update of 300 kB": lambda: addressed(written(random_state(ADAPTER_300_KB))),
    "order of many chunks": lambda: addressed(write_order(order_of(random_state(3 * 2**20)))),
    "zeros of equal chunks": lambda: addressed(
        written(
            AdapterState(spec=flat_spec(3 * 2**20), vector=np.zeros(3 * 2**20, dtype=np.float32))
        )
    ),
    "roll call": lambda: addressed(write_facts({"host": "a", "partition": 3})),
    "nothing": lambda: addressed(RecordDict()),
    "error": lambda: Message(Error(code=0, reason="disk on fire"), reply_to=_order()),
}


def _order() -> Message:
    order = addressed(RecordDict())
    order.metadata.__dict__["_message_id"] = "order"
    return order


@pytest.mark.parametrize("make", MESSAGES.values(), ids=MESSAGES)
def test_a_message_counts_what_flower_pushes(make: Callable[[], Message]) -> None:
    message = make()
    counted = message_bytes(message)
    link, _ = push(message)
    assert sum(len(content) for content in link.objects.values()) == counted
    assert message_bytes(message) == counted  # the id that the push gave it changes nothing


@pytest.mark.parametrize("make", MESSAGES.values(), ids=MESSAGES)
def test_a_message_costs_the_same_on_both_sides(make: Callable[[], Message]) -> None:
    message = make()
    _, (pulled,) = push(message)
    assert message_bytes(pulled) == message_bytes(message)


def test_what_flower_pushes_is_what_is_read(state: AdapterState) -> None:
    _, (pulled,) = push(addressed(written(state)))
    (section,) = read_update(pulled.content, state.spec).sections
    assert section.decode().vector.tolist() == list(range(7))


def test_headers_are_below_two_percent_of_a_300_kb_adapter() -> None:
    payload = 4 * ADAPTER_300_KB
    message = addressed(written(random_state(ADAPTER_300_KB)))
    assert payload < message_bytes(message) < 1.02 * payload


def test_the_requests_that_carry_a_message_add_below_two_percent() -> None:
    # what message_bytes leaves out: the object tree, ids and session of each request
    message = addressed(written(random_state(ADAPTER_300_KB)))
    counted = message_bytes(message)
    link, _ = push(message)
    assert counted < sum(link.requests) < 1.02 * counted


def test_a_cohort_shares_one_upload_of_the_state() -> None:
    # each node pulls the whole message, but the server pushes equal objects once
    content = write_order(order_of(random_state(ADAPTER_300_KB)))
    messages = [Message(content, dst_node_id=node, message_type="train") for node in range(1, 9)]
    link, pulled = push(*messages)
    assert sum(map(message_bytes, pulled)) == sum(map(message_bytes, messages))
    assert sum(len(part) for part in link.objects.values()) < 1.02 * message_bytes(messages[0])


def test_what_was_sent_can_be_weighed_again_and_stays_as_it_is(state: AdapterState) -> None:
    content = write_order(
        Order(spec=state.spec, sections=(section_of(STATE, state),), round_number=3, options={})
    )
    sent = [Message(content, dst_node_id=node, message_type="train") for node in (1, 2)]
    sizes = [message_bytes(message) for message in sent]  # as sending does: leaves notes
    with pytest.raises(TypeError, match="memoryview"):
        deepcopy(sent)
    noted = dict(vars(sent[0]))
    made = renewed(sent)
    assert [message_bytes(message) for message in made] == sizes
    assert made[0].content is made[1].content is not content
    assert vars(sent[0]) == noted
    (array,) = content.array_records["arrays"].values()
    (again,) = made[0].content.array_records["arrays"].values()
    assert again.data is array.data
