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
from fedpeft_app.adapters.state import Vector
from fedpeft_app.errors import AdapterMismatchError

Scalar = str | int | float | bool

_ARRAYS, _CONFIG, _METRICS = "arrays", "config", "metrics"
_ADAPTER, _SPEC, _ROUND = "adapter", "spec", "round"
_OWN = frozenset({_SPEC, _ROUND})
_DTYPE = "float32"
_PACKED = "fedpeft.f32le"  # float32, little-endian, nothing else: no header to parse or trust
_LITTLE_ENDIAN = np.dtype("<f4")
_BYTES_PER_VALUE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the server asks of a node.

    Attributes:
        state: The global adapter state.
        round_number: Round, from 1.
        options: Further scalars for the node, from the strategy; "spec" and "round" are taken.
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
        facts: Short texts about the process; "spec" and "round" are taken.
    """

    delta: AdapterState
    round_number: int
    metrics: Mapping[str, float]
    facts: Mapping[str, Scalar] = field(default_factory=dict)


def write_order(order: Order) -> RecordDict:
    """Write an order as a message's content.

    Raises:
        ValueError: If an option has the name of a scalar that the message itself carries.
    """
    return _write(order.state, order.round_number, order.options)


def read_order(content: RecordDict, spec: AdapterSpec) -> Order:
    """Read an order, trusting nothing.

    Args:
        content: The message's content, as it arrived.
        spec: The adapter that this side has.

    Returns:
        The order; its state's vector is a read-only view of the message's bytes.

    Raises:
        AdapterMismatchError: If a record is missing or its payload is no state of `spec`.
    """
    state, round_number, options = _read(content, spec)
    return Order(state=state, round_number=round_number, options=options)


def write_update(update: Update) -> RecordDict:
    """Write an update as a message's content.

    Raises:
        ValueError: If a fact has the name of a scalar that the message itself carries.
    """
    content = _write(update.delta, update.round_number, update.facts)
    content[_METRICS] = MetricRecord(dict(update.metrics))
    return content


def read_update(content: RecordDict, spec: AdapterSpec) -> Update:
    """Read an update, trusting nothing but its numbers: whether those are sane is for the guard.

    Args:
        content: The message's content, as it arrived.
        spec: The adapter that this side has.

    Returns:
        The update; its delta's vector is a read-only view of the message's bytes.

    Raises:
        AdapterMismatchError: If a record is missing or its payload is no delta of `spec`.
    """
    delta, round_number, told = _read(content, spec)
    if _METRICS not in content.metric_records:
        raise AdapterMismatchError("Expected a metric record in the update, found none.")
    return Update(delta=delta, round_number=round_number, metrics=metrics(content), facts=told)


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
    return sum(len(part.deflate()) for part in get_all_nested_objects(message).values())


def content_bytes(content: RecordDict) -> int:
    """Count the bytes of a message's content likewise, without the message around it."""
    return sum(len(part.deflate()) for part in get_all_nested_objects(content).values())


def _write(state: AdapterState, round_number: int, scalars: Mapping[str, Scalar]) -> RecordDict:
    """Pack a state and its scalars."""
    taken = sorted(_OWN & set(scalars))
    if taken:
        raise ValueError(
            f"Expected scalars other than {sorted(_OWN)}, which every message carries itself, "
            f"got {taken}. Rename them where the strategy sets its options."
        )
    config = ConfigRecord({_SPEC: state.spec.fingerprint, _ROUND: round_number})
    config.update(scalars)
    packed = Array(
        dtype=_DTYPE,
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


def _read(content: RecordDict, spec: AdapterSpec) -> tuple[AdapterState, int, dict[str, Scalar]]:
    """Unpack a state, its round and the other scalars, trusting nothing."""
    arrays = content.array_records.get(_ARRAYS)
    config = content.config_records.get(_CONFIG)
    if arrays is None or config is None or set(arrays) != {_ADAPTER}:
        raise AdapterMismatchError(
            f"Expected the records '{_ARRAYS}' (with one array '{_ADAPTER}') and '{_CONFIG}', "
            f"got {sorted(content)}."
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
    return AdapterState(spec=spec, vector=_unpack(arrays[_ADAPTER], spec)), round_number, extras


def _unpack(array: Array, spec: AdapterSpec) -> Vector:
    """View the packed bytes as a float32 vector, if they are exactly that."""
    expected = (_DTYPE, (spec.size,), _PACKED, _BYTES_PER_VALUE * spec.size)
    found = (array.dtype, array.shape, array.stype, len(array.data))
    if found != expected:
        raise AdapterMismatchError(
            f"Expected {_DTYPE} of shape {expected[1]}, packed as {_PACKED} in {expected[3]} "
            f"bytes; got {array.dtype} of shape {array.shape}, packed as {array.stype} in "
            f"{found[3]} bytes."
        )
    return np.frombuffer(array.data, dtype=_LITTLE_ENDIAN).astype(np.float32, copy=False)
