"""Adapter states ↔ Flower messages: one packed array and a few scalars per message.

An order (server → node) carries the global state, an update (node → server) the delta. The
manifest — method, names, shapes — does not travel: both sides hold the same AdapterSpec,
which the roll call checks, and every message names its fingerprint.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.errors import AdapterMismatchError

Scalar = str | int | float | bool

_ARRAYS, _CONFIG, _METRICS = "arrays", "config", "metrics"
_ADAPTER, _SPEC, _ROUND = "adapter", "spec", "round"
_PACKED = "fedpeft.f32le"  # float32, little-endian, nothing else: no header to parse or trust
_LITTLE_ENDIAN = np.dtype("<f4")
_BYTES_PER_VALUE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the server asks of a node.

    Attributes:
        state: The global adapter state.
        round_number: Round, from 1.
        options: Further scalars for the node, from the strategy.
    """

    state: AdapterState
    round_number: int
    options: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a node sends back after training.

    Attributes:
        delta: local − global.
        round_number: The round of the order it answers.
        metrics: Numbers about the training; always has "num-examples".
        facts: Short texts about the process.
    """

    delta: AdapterState
    round_number: int
    metrics: Mapping[str, float]
    facts: Mapping[str, Scalar] = field(default_factory=dict)


def write_order(order: Order) -> RecordDict:
    """Write an order as a message's content."""
    return _write(order.state, order.round_number, order.options)


def read_order(content: RecordDict, spec: AdapterSpec) -> Order:
    """Read an order.

    Raises:
        AdapterMismatchError: If its payload is not a state of `spec`.
    """
    config = dict(content.config_records[_CONFIG])
    state = _read(content, spec)
    options = {key: value for key, value in config.items() if key not in (_SPEC, _ROUND)}
    return Order(
        state=state,
        round_number=int(config[_ROUND]),  # type: ignore[arg-type]  # checked by _read
        options=options,  # type: ignore[arg-type]  # scalars only, we wrote them
    )


def write_update(update: Update) -> RecordDict:
    """Write an update as a message's content."""
    content = _write(update.delta, update.round_number, update.facts)
    content[_METRICS] = MetricRecord(dict(update.metrics))
    return content


def read_update(content: RecordDict, spec: AdapterSpec) -> Update:
    """Read an update.

    Raises:
        AdapterMismatchError: If a record is missing or its payload is no delta of `spec`.
    """
    delta = _read(content, spec)
    if _METRICS not in content.metric_records:
        raise AdapterMismatchError("Expected a metric record in the update, found none.")
    config = dict(content.config_records[_CONFIG])
    facts = {key: value for key, value in config.items() if key not in (_SPEC, _ROUND)}
    return Update(
        delta=delta,
        round_number=int(config[_ROUND]),  # type: ignore[arg-type]  # checked by _read
        metrics=metrics(content),
        facts=facts,  # type: ignore[arg-type]  # scalars only, we wrote them
    )


def write_facts(
    facts: Mapping[str, Scalar | list[str]], numbers: Mapping[str, float] | None = None
) -> RecordDict:
    """Write a message without tensors: texts, and optionally metrics."""
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
    serialised on its own and sent once; this is their sum.
    """
    return sum(len(part.deflate()) for part in get_all_nested_objects(message).values())


def _write(state: AdapterState, round_number: int, scalars: Mapping[str, Scalar]) -> RecordDict:
    """Pack a state and its scalars."""
    config = ConfigRecord({_SPEC: state.spec.fingerprint, _ROUND: round_number})
    config.update(scalars)
    packed = Array(
        dtype="float32",
        shape=state.vector.shape,
        stype=_PACKED,
        data=state.vector.astype(_LITTLE_ENDIAN, copy=False).tobytes(),
    )
    return RecordDict(
        {
            _ARRAYS: ArrayRecord({_ADAPTER: packed}),
            _CONFIG: config,
        }
    )


def _read(content: RecordDict, spec: AdapterSpec) -> AdapterState:
    """Unpack a state, trusting nothing."""
    arrays = content.array_records.get(_ARRAYS)
    config = content.config_records.get(_CONFIG)
    if arrays is None or config is None or set(arrays) != {_ADAPTER}:
        raise AdapterMismatchError(
            f"Expected the records '{_ARRAYS}' (with one array '{_ADAPTER}') and '{_CONFIG}', "
            f"got {sorted(content)}."
        )
    if config.get(_SPEC) != spec.fingerprint or not isinstance(config.get(_ROUND), int):
        raise AdapterMismatchError(
            f"The message is for adapter {config.get(_SPEC)!r}, round {config.get(_ROUND)!r}; "
            f"this side has adapter {spec.fingerprint}."
        )
    array = arrays[_ADAPTER]
    if array.stype != _PACKED or len(array.data) != _BYTES_PER_VALUE * spec.size:
        raise AdapterMismatchError(
            f"Expected {spec.size} packed values ({_PACKED}, {_BYTES_PER_VALUE * spec.size} "
            f"bytes), got {array.stype}, {len(array.data)} bytes."
        )
    vector = np.frombuffer(array.data, dtype=_LITTLE_ENDIAN).astype(np.float32, copy=False)
    return AdapterState(spec=spec, vector=vector)
