"""A round's memory: however many reply, no more than one reply is decoded at a time."""

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from strategy_samples import members, numbers, state_of, update

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.guard import admit
from fedpeft_app.strategies.strategy import Assignment, Reply
from fedpeft_app.wire.catalogue import parse_codec

VALUES = 100_000
SPEC = AdapterSpec(
    method="lora", backbone="", tensors=(TensorSpec(name="w", shape=(VALUES,)),), ranks={}
)
ADAPTER_BYTES = 4 * VALUES


def replies(count: int, codec: str) -> list[Message]:
    """Make replies of one content, so that only what is made of them takes memory."""
    vector = np.random.default_rng(0).standard_normal(VALUES).astype(np.float32)
    order = Message(content=RecordDict(), dst_node_id=1, message_type="train")
    delta = AdapterState(spec=SPEC, vector=vector)
    content = update(order, delta, 1, numbers(), codec=parse_codec(codec)).content
    return [Message(content, reply_to=order) for _ in range(count)]


def fold(messages: Sequence[Message]) -> AdapterState:
    """Guard and fold, as a round does."""
    task = Assignment(state=state_of(SPEC, 0.0))
    outcomes = [
        admit(message, member, task, 1)
        for message, member in zip(messages, members(len(messages)), strict=True)
    ]
    good = [outcome for outcome in outcomes if isinstance(outcome, Reply)]
    assert len(good) == len(messages)
    return Composition().aggregate(1, task.state, good)


def peak_bytes(messages: Sequence[Message]) -> int:
    """Give the most bytes that folding allocates at once."""
    tracemalloc.start()
    fold(messages)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("codec", ["float32", "int8", "topk(0.1)+int8+zstd"])
def test_four_times_the_replies_take_less_than_an_adapter_more(codec: str) -> None:
    messages = replies(200, codec)
    fold(messages[:2])  # what the first fold of a process keeps for all others
    assert peak_bytes(messages) - peak_bytes(messages[:50]) < ADAPTER_BYTES
