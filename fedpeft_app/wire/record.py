"""Sections ↔ Flower messages: one payload and a few scalars per message.

An order (server → node) carries the state, or what a node lacks of it; an update (node →
server) the delta. The manifest — method, names, shapes — does not travel: both sides hold the
same AdapterSpec, which the roll call checks, and every message names its fingerprint.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    no_object_id_recompute,
)

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.parts import family
from fedpeft_app.errors import AdapterMismatchError, WireError
from fedpeft_app.wire.cast import float32
from fedpeft_app.wire.codec import Codec
from fedpeft_app.wire.payload import Section, read, write

Scalar = str | int | float | bool
STATE, DELTA, INCREMENT, CONTROL = "state", "delta", "increment-", "control"  # of sections

EPSILON, UNAMPLIFIED = "epsilon", "epsilon-unamplified"  # of metrics, under sample-level privacy
NOISE, SAMPLING, STEPS = "noise-multiplier", "sampling", "steps"  # and what they follow from
SITS_OUT = "sits out: "  # how what a node that does says begins, once it is here
_ARRAYS, _CONFIG, _METRICS = "arrays", "config", "metrics"
_ADAPTER, _SPEC, _ROUND, _SITS_OUT = "adapter", "spec", "round", "sits-out"
_OWN = frozenset({_SPEC, _ROUND})
_NOTED = "_object_id"  # what Flower notes in a message that it sends or weighs
_DTYPE, _PAYLOAD = "uint8", "fedpeft.payload"
MOST_STATES = 4  # so many times the values of the adapter fit into one message
MOST_INCREMENTS = 64  # and so many times more into an order; a node decodes one at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the server asks of a node.

    Attributes:
        spec: The adapter that it is about.
        sections: The global state, or the increments that the node lacks; empty if it has all.
        round_number: Round, from 1.
        options: Further scalars for the node, from the strategy; "spec" and "round" are taken.
    """

    spec: AdapterSpec
    sections: Sequence[Section]
    round_number: int
    options: Mapping[str, Scalar] = field(default_factory=dict)

    def section(self, name: str) -> Section | None:
        """Find a section by its name."""
        return next((one for one in self.sections if one.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a node sends back after training.

    Attributes:
        spec: The adapter that it is about.
        sections: "delta", local − global of what was trained; and what else a strategy needs.
        round_number: The round of the order it answers.
        metrics: Numbers about the training; always has "num-examples".
        facts: Short texts about the process; "spec" and "round" are taken.
    """

    spec: AdapterSpec
    sections: Sequence[Section]
    round_number: int
    metrics: Mapping[str, float]
    facts: Mapping[str, Scalar] = field(default_factory=dict)


def section_of(
    name: str,
    state: AdapterState,
    codec: Codec | None = None,
    generator: np.random.Generator | None = None,
) -> Section:
    """Encode a state.

    Args:
        name: What it is.
        state: The values.
        codec: How they travel; bit for bit in float32 where none is given.
        generator: For codecs that round by chance.

    Raises:
        WireError: If the codec has no place for the values.
    """
    codec = codec or float32()
    data = codec.encode(state.vector, generator or np.random.default_rng(0))
    return Section(name=name, spec=state.spec, codec=codec, data=data)


def write_order(order: Order) -> RecordDict:
    """Write an order as a message's content.

    Raises:
        ValueError: If an option has the name of a scalar that the message itself carries.
        WireError: If the sections cannot stand in one payload.
    """
    return _write(order.spec, order.sections, order.round_number, order.options)


def read_order(content: RecordDict, spec: AdapterSpec) -> Order:
    """Read an order, trusting nothing; nothing is decoded yet.

    Args:
        content: The message's content, as it arrived.
        spec: The adapter that this side has.

    Returns:
        The order; its sections are read-only views of the message's bytes.

    Raises:
        AdapterMismatchError: If a record is missing, or it is for another adapter.
        WireError: If its payload is none.
    """
    sections, round_number, options = _read(content, spec, MOST_STATES + MOST_INCREMENTS)
    return Order(spec=spec, sections=sections, round_number=round_number, options=options)


def write_update(update: Update) -> RecordDict:
    """Write an update as a message's content.

    Raises:
        ValueError: If a fact has the name of a scalar that the message itself carries.
        WireError: If the sections cannot stand in one payload.
    """
    content = _write(update.spec, update.sections, update.round_number, update.facts)
    content[_METRICS] = MetricRecord(dict(update.metrics))
    return content


def read_update(content: RecordDict, spec: AdapterSpec) -> Update:
    """Read an update, trusting nothing but its numbers: whether those are sane is for the guard.

    Args:
        content: The message's content, as it arrived.
        spec: The adapter that the node was sent.

    Returns:
        The update; its sections are read-only views of the message's bytes.

    Raises:
        AdapterMismatchError: If a record is missing, or it is for another adapter.
        WireError: If its payload is none.
    """
    sections, round_number, told = _read(content, spec, MOST_STATES)
    if _METRICS not in content.metric_records:
        raise AdapterMismatchError("Expected a metric record in the update, found none.")
    return Update(
        spec=spec,
        sections=sections,
        round_number=round_number,
        metrics=metrics(content),
        facts=told,
    )


def write_refusal(reason: str) -> RecordDict:
    """Write, in place of an update, why a node sits the round out."""
    return RecordDict({_CONFIG: ConfigRecord({_SITS_OUT: reason})})


def refusal(content: RecordDict) -> str:
    """Read what `write_refusal` wrote; empty for any other message."""
    return str(facts(content).get(_SITS_OUT, ""))


def write_facts(
    facts: Mapping[str, Scalar | list[str]], numbers: Mapping[str, float] | None = None
) -> RecordDict:
    """Write a message without tensors.

    Args:
        facts: Texts and other scalars.
        numbers: Metrics; None leaves their record out.
    """
    content = RecordDict({_CONFIG: ConfigRecord(dict(facts))})
    if numbers is not None:
        content[_METRICS] = MetricRecord(dict(numbers))
    return content


def facts(content: RecordDict) -> dict[str, Scalar | list[str]]:
    """Read what `write_facts` wrote: the texts."""
    return dict(content.config_records.get(_CONFIG, {}))  # type: ignore[arg-type]


def metrics(content: RecordDict) -> dict[str, float]:
    """Read what `write_facts` wrote: the metrics."""
    record = content.metric_records.get(_METRICS, MetricRecord())
    return {key: float(value) for key, value in record.items() if not isinstance(value, list)}


def message_bytes(message: Message) -> int:
    """Count the bytes of a message as Flower serialises it, headers included.

    Flower ships a message as a tree of objects (message, records, arrays, chunks), each
    serialised on its own and sent once; this is their sum. Not in it: the requests that carry
    the objects (some hundred bytes each), and HTTP.
    """
    return messages_bytes([message])[0]


def messages_bytes(messages: Sequence[Message]) -> list[int]:
    """Count the bytes of each of several messages; content that they share is weighed once.

    Left alone, Flower hashes the data anew for every object that stands above it, and every time
    that one of those is asked for its id: ten times and more for each message.
    """
    contents: dict[int, int] = {}
    sizes = []
    with no_object_id_recompute():
        for message in messages:
            size = len(message.deflate())
            if message.has_content():
                key = id(message.content)
                if key not in contents:
                    contents[key] = content_bytes(message.content)
                size += contents[key]
            sizes.append(size)
    return sizes


def renewed(messages: Iterable[Message]) -> list[Message]:
    """Make messages anew of the same data, to weigh them.

    Flower leaves notes in what it sends or weighs: object ids, and views of the data, of which
    there can be no deep copy. Its simulation hands the very objects that were sent to other
    threads, which pickle them. So those that are out are left as they are.

    Args:
        messages: With content; what they share, the new ones share too. Data is not copied.
    """
    contents: dict[int, RecordDict] = {}
    made = []
    for message in messages:
        content = message.content
        again = copy(message)
        again.content = contents.setdefault(id(content), _renewed_content(content))
        vars(again).pop(_NOTED, None)
        made.append(again)
    return made


def _renewed_content(content: RecordDict) -> RecordDict:
    """Make a content anew."""
    records: dict[str, ArrayRecord | ConfigRecord | MetricRecord] = {}
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            arrays = {key: _renewed_array(array) for key, array in record.items()}
            records[name] = ArrayRecord(arrays)
        else:
            scalars: dict[str, Any] = dict(record.items())
            records[name] = type(record)(scalars)
    return RecordDict(records)


def _renewed_array(array: Array) -> Array:
    """Make an array anew."""
    return Array(dtype=array.dtype, shape=array.shape, stype=array.stype, data=array.data)


def payload_bytes(message: Message) -> int:
    """Count the bytes of encoded states in a message; the rest of it is overhead."""
    arrays = message.content.array_records.values() if message.has_content() else ()
    return sum(len(array.data) for record in arrays for array in record.values())


def content_bytes(content: RecordDict) -> int:
    """Count the bytes of a message's content likewise, without the message around it."""
    return sum(len(part.deflate()) for part in get_all_nested_objects(content).values())


def _write(
    spec: AdapterSpec, sections: Sequence[Section], round_number: int, scalars: Mapping[str, Scalar]
) -> RecordDict:
    """Pack sections and scalars; without sections there is no payload."""
    taken = sorted(_OWN & set(scalars))
    if taken:
        raise ValueError(
            f"Expected scalars other than {sorted(_OWN)}, which every message carries itself, "
            f"got {taken}. Rename them where the strategy sets its options."
        )
    config = ConfigRecord({_SPEC: spec.fingerprint, _ROUND: round_number})
    config.update(scalars)
    packed = {}
    if sections:
        data = write(sections, known=family(spec))
        packed[_ADAPTER] = Array(dtype=_DTYPE, shape=(len(data),), stype=_PAYLOAD, data=data)
    return RecordDict({_ARRAYS: ArrayRecord(packed), _CONFIG: config})


def _read(
    content: RecordDict, spec: AdapterSpec, most_states: int
) -> tuple[tuple[Section, ...], int, dict[str, Scalar]]:
    """Unpack sections, the round and the other scalars, trusting nothing."""
    arrays = content.array_records.get(_ARRAYS)
    config = content.config_records.get(_CONFIG)
    if arrays is None or config is None or not set(arrays) <= {_ADAPTER}:
        raise AdapterMismatchError(
            f"Expected the records '{_ARRAYS}' (with one array '{_ADAPTER}', or none) and "
            f"'{_CONFIG}', got {sorted(content)}."
        )
    round_number = config.get(_ROUND)
    if config.get(_SPEC) != spec.fingerprint or type(round_number) is not int or round_number < 1:
        raise AdapterMismatchError(
            f"The message is for adapter {config.get(_SPEC)!r}, round {round_number!r}; "
            f"this side has adapter {spec.fingerprint!r}, and rounds count from 1."
        )
    extras = {
        key: value
        for key, value in config.items()
        if key not in _OWN and isinstance(value, str | int | float | bool)
    }
    sections = _sections(arrays[_ADAPTER], spec, most_states) if arrays else ()
    return sections, round_number, extras


def _sections(array: Array, spec: AdapterSpec, most_states: int) -> tuple[Section, ...]:
    """Take the payload of an array apart, if it is one."""
    expected = (_DTYPE, (len(array.data),), _PAYLOAD)
    if (array.dtype, tuple(array.shape), array.stype) != expected:
        raise WireError(
            f"Expected a payload of {len(array.data)} bytes as {_DTYPE} ({_PAYLOAD}), got "
            f"{array.dtype} of shape {tuple(array.shape)} ({array.stype})."
        )
    return read(array.data, family(spec), most_states * spec.size)
