"""Any Flower `Strategy`, unchanged, behind our protocol.

The strategy sees what it would see under Flower's own loop: a grid with the cohort as its
nodes, and replies that carry whole states as plain float32 arrays, one per tensor.
"""

import contextlib
import copy
import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
    QFedAvg,
)
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.algebra import shifted
from fedpeft_app.errors import ConfigError, Fault, QuorumError
from fedpeft_app.seeds import derive_seed
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies import attributes
from fedpeft_app.strategies.ranks import require_one_rank
from fedpeft_app.strategies.strategy import Assignment, Member, Reply
from fedpeft_app.wire.record import Scalar

_flower_log = logging.getLogger("flwr")
_ROUND = "server-round"  # every message of Flower's strategies says it, and so do our orders
_KNOWN_OPTIONS = frozenset({"epochs", "proximal-mu", _ROUND})
_OF_EACH = (Bulyan, FedMedian, FedTrimmedAvg, Krum, MultiKrum, QFedAvg)
_REHEARSED = 100  # nodes; a strategy that finds too few would wait for more


class FlowerAdapter:
    """Drive a Flower strategy by our round loop.

    Cohorts are sampled by our loop, seeded by partition; the strategy's own fractions apply
    within the cohort (Flower's default is all of it).

    Args:
        strategy: The Flower strategy.
        seed: Seeds the global generator that Flower's strategies sample with.
    """

    def __init__(self, strategy: FlowerStrategy, seed: int = 0) -> None:
        self._strategy = strategy
        self._seed = seed
        self._before = attributes.held(strategy)

    @property
    def needs_each(self) -> bool:
        """Say whether it is one of Flower's that compare nodes, or weigh them by their losses."""
        return isinstance(self._strategy, _OF_EACH)

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Refuse nodes of their own rank, and a strategy that tells nodes what they do not know.

        Only what it writes into the round's config shows here, as FedProx does: outside of a
        run Flower makes no messages. `configure` looks at what they carry.

        Raises:
            ConfigError: As `configure` does.
            RollCallError: If some node has a rank of its own.
        """
        require_one_rank(self._name(), members)
        crowd = [Member(node_id=i, partition=i, examples=1) for i in range(_REHEARSED)]
        arrays, told = ArrayRecord({"any": Array(np.zeros(1, np.float32))}), ConfigRecord()
        rehearsing = copy.deepcopy(self._strategy)  # some keep the first state they see
        with _content_with(rehearsing, _REHEARSED), contextlib.suppress(Exception):
            # no messages; or it wants other tensors
            list(rehearsing.configure_train(1, arrays, told, _CohortGrid(crowd)))
        self._require_known(set(told))

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Let the strategy choose among the cohort, and keep its options for each node.

        Raises:
            ConfigError: If it tells nodes something on which they would not act: dropping it
                would be another algorithm.
        """
        before = random.getstate()
        random.seed(derive_seed(self._seed, "flower-strategy", round_number=round_number))
        try:
            with _content_with(self._strategy, len(cohort)):
                messages = list(
                    self._strategy.configure_train(
                        round_number, to_arrays(state), ConfigRecord(), _CohortGrid(cohort)
                    )
                )
        finally:
            random.setstate(before)
        options = {message.metadata.dst_node_id: _options(message) for message in messages}
        self._require_known({key for told in options.values() for key in told})
        return {
            node_id: Assignment(state=state, options=_for_nodes(told))
            for node_id, told in options.items()
        }

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Hand the strategy whole states and take its aggregate back.

        Raises:
            QuorumError: If the strategy returned nothing.
            AdapterMismatchError: If what it returned is no state of this adapter.
        """
        shared = set.intersection(*(set(reply.metrics) for reply in replies))
        messages = [_message(state, reply, shared) for reply in replies]
        arrays, _ = self._strategy.aggregate_train(round_number, messages)
        if arrays is None:
            raise QuorumError(
                f"Round {round_number}: {type(self._strategy).__name__} returned no aggregate "
                f"of {len(replies)} good replies."
            )
        return from_arrays(state.spec, arrays)

    def snapshot(self) -> Snapshot:
        """Read what the strategy's rounds have changed of its attributes."""
        return attributes.read(self._strategy, self._before)

    def go_on(self, snapshot: Snapshot, state: AdapterState) -> None:
        """Give them back.

        Raises:
            RunFolderError: If some are no plain data.
        """
        attributes.write(self._strategy, snapshot)

    def _require_known(self, told: set[str]) -> None:
        """Refuse a strategy that counts on more than our nodes do."""
        if unknown := sorted(told - _KNOWN_OPTIONS):
            problem = (
                f"{type(self._strategy).__name__} tells nodes {', '.join(unknown)}, on which "
                f"fedpeft's nodes do not act. Nodes know: {', '.join(sorted(_KNOWN_OPTIONS))}."
            )
            raise ConfigError([Fault(key="strategy.name", value=self._name(), problem=problem)])

    def _name(self) -> str:
        """Write the strategy as a dotted path."""
        kind = type(self._strategy)
        return f"{kind.__module__}:{kind.__qualname__}"


@contextlib.contextmanager
def _content_with(strategy: FlowerStrategy, size: int) -> Iterator[None]:
    """Lower Flower's minimum node counts to a cohort; it would wait for ever otherwise.

    Nor does it say meanwhile how many nodes there are: at the user level that is secret.
    """
    names = ("min_available_nodes", "min_train_nodes")
    lowered = {name: getattr(strategy, name) for name in names if getattr(strategy, name, 0) > size}
    level = _flower_log.level
    _flower_log.setLevel(logging.WARNING)
    try:
        for name in lowered:
            setattr(strategy, name, size)
        yield
    finally:
        _flower_log.setLevel(level)
        for name, usual in lowered.items():
            setattr(strategy, name, usual)


class _CohortGrid(Grid):
    """A grid that only knows its nodes: strategies choose, our loop sends."""

    def __init__(self, cohort: Sequence[Member]) -> None:
        self._nodes = [member.node_id for member in cohort]

    def get_node_ids(self) -> Iterable[int]:
        """Give the cohort's node ids, by partition."""
        return list(self._nodes)

    def set_run(self, run: Any) -> None:
        """Do nothing: there is no connection."""

    @property
    def run(self) -> Any:
        """Refuse: there is no connection."""
        raise NotImplementedError(_REFUSAL)

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Refuse: there is no connection."""
        raise NotImplementedError(_REFUSAL)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refuse: there is no connection."""
        raise NotImplementedError(_REFUSAL)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refuse: there is no connection."""
        raise NotImplementedError(_REFUSAL)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Refuse: there is no connection."""
        raise NotImplementedError(_REFUSAL)


_REFUSAL = "A strategy chooses nodes and folds replies; fedpeft's round loop sends the messages."


def to_arrays(state: AdapterState) -> ArrayRecord:
    """Write a state as Flower's strategies expect it: one float32 array per tensor."""
    return ArrayRecord({name: Array(np.array(view)) for name, view in state.tensors().items()})


def from_arrays(spec: AdapterSpec, arrays: ArrayRecord) -> AdapterState:
    """Read a state that Flower's strategies hold, of any float dtype.

    Args:
        spec: What is expected.
        arrays: One array per tensor, by name.

    Raises:
        AdapterMismatchError: If names or shapes are not those of the spec.
    """
    tensors = {name: array.numpy().astype(np.float32) for name, array in arrays.items()}
    return AdapterState.from_tensors(spec, tensors)


def _options(message: Message) -> dict[str, Scalar]:
    """Read the scalars a strategy put into a message's config."""
    merged: dict[str, Scalar] = {}
    for record in message.content.config_records.values():
        merged.update(
            {
                key: value
                for key, value in record.items()
                if isinstance(value, str | int | float | bool)
            }
        )
    return merged


def _for_nodes(told: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Leave out what our orders say by themselves."""
    return {key: value for key, value in told.items() if key != _ROUND}


def _message(state: AdapterState, reply: Reply, shared: set[str]) -> Message:
    """Build the reply that Flower's own client would have sent: a whole local state.

    Only metrics that all replies share go in; Flower refuses the round otherwise.
    """
    local = shifted(state, reply.delta.vector)
    numbers = MetricRecord({key: reply.metrics[key] for key in sorted(shared)})
    numbers["num-examples"] = reply.weight
    content = RecordDict({"arrays": to_arrays(local), "metrics": numbers})
    order = Message(content=RecordDict(), dst_node_id=reply.member.node_id, message_type="train")
    order.metadata.__dict__["_message_id"] = f"order-{reply.member.node_id}"
    return Message(content, reply_to=order)
