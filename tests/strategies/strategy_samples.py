"""A scripted grid and well-formed replies, without any model."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from decoded import Decoded
from flwr.app import Error, Message
from flwr.serverapp import Grid

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.strategies.plan import RoundPlan
from fedpeft_app.strategies.strategy import Member, Reply
from fedpeft_app.strategies.watcher import RoundResult
from fedpeft_app.wire.codec import Codec
from fedpeft_app.wire.ledger import Entry, Ledger
from fedpeft_app.wire.payload import Section
from fedpeft_app.wire.record import (
    DELTA,
    INCREMENT,
    STATE,
    Order,
    Update,
    read_order,
    section_of,
    write_facts,
    write_update,
)

Node = Callable[[Message], Message | None]  # None = silence


def members(count: int, examples: int = 100) -> list[Member]:
    """Make nodes whose ids fall while their partitions rise."""
    return [
        Member(node_id=9000 - 7 * partition, partition=partition, examples=examples)
        for partition in range(count)
    ]


class NotedLedger(Ledger):
    """A ledger that remembers every message."""

    def __init__(self) -> None:
        super().__init__(backbone_bytes=0, full_parameters=100)
        self.entries: list[Entry] = []

    def note(self, entry: Entry) -> None:
        self.entries.append(entry)
        super().note(entry)


def ledger() -> NotedLedger:
    """Make an empty ledger."""
    return NotedLedger()


def plan(**changes: Any) -> RoundPlan:
    """Make a plan of one round over all nodes."""
    settings = {
        "rounds": 1,
        "seed": 0,
        "fraction_train": 1.0,
        "fraction_evaluate": 0.0,
        "min_replies": 1,
        "timeout_s": 5.0,
    }
    return RoundPlan(**{**settings, **changes})


def state_of(spec: AdapterSpec, values: Sequence[float] | float) -> AdapterState:
    """Make a state of given values, or of one value throughout."""
    vector = np.broadcast_to(np.asarray(values, dtype=np.float32), (spec.size,))
    return AdapterState(spec=spec, vector=vector.copy())


def numbers(examples: float = 10, loss: float = 1.0) -> dict[str, float]:
    """Make the metrics of a train reply."""
    return {"num-examples": examples, "examples-trained": examples, "steps": 1, "loss": loss}


def reply_of(member: Member, delta: AdapterState, weight: float, **metrics: float) -> Reply:
    """Make a good reply of a node that set out from zeros."""
    return Reply(
        member=member,
        start=state_of(delta.spec, 0.0),
        update=Decoded(state=delta),
        weight=weight,
        metrics={**numbers(weight), **metrics},
    )


def update(
    message: Message,
    delta: AdapterState,
    round_number: int,
    metrics: Mapping[str, float],
    *,
    spec: AdapterSpec | None = None,
    codec: Codec | None = None,
    **extras: AdapterState,
) -> Message:
    """Answer a train message; `spec` is the whole adapter's where the delta is of a part."""
    sections = [section_of(DELTA, delta, codec)]
    sections += [section_of(name, state) for name, state in extras.items()]
    answer = Update(
        spec=spec or delta.spec, sections=sections, round_number=round_number, metrics=metrics
    )
    return Message(write_update(answer), reply_to=message)


def failure(message: Message, reason: str) -> Message:
    """Answer any message with an error."""
    return Message(Error(code=0, reason=reason), reply_to=message)


class Follower:
    """A node's account of the global state: what it decoded last, and what came since.

    Args:
        initial: What it can draw for itself, version 0.

    Attributes:
        state: The global state as it has it.
    """

    def __init__(self, initial: AdapterState) -> None:
        self.state = initial

    def follow(self, sections: Sequence[Section]) -> AdapterState:
        """Take the state, or add increments; extras are left out."""
        for section in sections:
            if section.name == STATE:
                self.state = section.decode()
            elif section.name.startswith(INCREMENT):
                vector = self.state.vector + section.decode().vector
                self.state = AdapterState(spec=self.state.spec, vector=vector)
        return self.state


class Learner:
    """A node whose training adds a constant, and whose loss is that constant.

    Attributes:
        orders: Every order to train that it got.
        starts: Every state that it trained from.
        evaluated: Every state it judged.
    """

    def __init__(self, spec: AdapterSpec, step: float, examples: float = 10) -> None:
        self._spec, self._step, self._examples = spec, step, examples
        self._follower = Follower(state_of(spec, 0.0))
        self.orders: list[Order] = []
        self.starts: list[AdapterState] = []
        self.evaluated: list[AdapterState] = []

    def __call__(self, message: Message) -> Message:
        order = read_order(message.content, self._spec)
        state = self._follower.follow(order.sections)
        if message.metadata.message_type == "evaluate":
            self.evaluated.append(state)
            judged = {"loss": 0.5, "accuracy": 0.75, "num-examples": 4}
            return Message(write_facts({}, judged), reply_to=message)
        self.orders.append(order)
        self.starts.append(state)
        delta = state_of(self._spec, self._step)
        return update(message, delta, order.round_number, numbers(self._examples, self._step))


class ScriptedGrid(Grid):
    """A grid whose nodes are functions; replies come in a given order, a few per pull.

    Attributes:
        nodes: Node id → what it does with a message.
        order: Sorts the replies of one push by node id.
        per_pull: Replies handed out at once.
        also: Further messages, handed out at every pull.
        pushed_ids: Alters what `push_messages` returns.
        pulls: Number of pulls so far.
    """

    def __init__(self, nodes: Mapping[int, Node], *, per_pull: int = 1) -> None:
        self.nodes = dict(nodes)
        self.order: Callable[[int], Any] = lambda node_id: node_id
        self.per_pull = per_pull
        self.also: list[Message] = []
        self.pushed_ids: Callable[[list[str]], list[Any]] = lambda ids: ids
        self.pulls = 0
        self._ids = itertools.count()
        self._ready: list[Message] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"message-{next(self._ids)}"
        ids = self.pushed_ids([message.metadata.message_id for message in messages])
        taken = [message for message in messages if message.metadata.message_id in ids]
        taken.sort(key=lambda message: self.order(message.metadata.dst_node_id))
        replies = [self.nodes[message.metadata.dst_node_id](message) for message in taken]
        self._ready += [reply for reply in replies if reply is not None]
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.pulls += 1
        wanted = set(message_ids)
        now = [reply for reply in self._ready if reply.metadata.reply_to_message_id in wanted]
        now = now[: self.per_pull]
        self._ready = [reply for reply in self._ready if reply not in now]
        return [*now, *self.also]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        ids, found = list(self.push_messages(messages)), []
        while len(batch := list(self.pull_messages(ids))) > 0:
            found += batch
        return found

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError


class Log:
    """A watcher that writes everything down."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self.results: list[RoundResult] = []

    def round_started(self, round_number: int, cohort: Sequence[Member]) -> None:
        self.lines.append(("started", round_number, [member.partition for member in cohort]))

    def reply_arrived(self, round_number: int, member: Member, problem: str) -> None:
        self.lines.append(("reply", round_number, member.partition, problem))

    def asked_again(self, round_number: int, cohort: Sequence[Member]) -> None:
        self.lines.append(("again", round_number, [member.partition for member in cohort]))

    def came_late(self, round_number: int, member: Member, asked_in: int) -> None:
        self.lines.append(("late", round_number, member.partition, asked_in))

    def left_alone(self, node: int, until: int) -> None:
        self.lines.append(("alone", node, until))

    def evaluation_failed(self, round_number: int, member: Member, problem: str) -> None:
        self.lines.append(("unfit", round_number, member.partition, problem))

    def nobody_judged(self, round_number: int, failed: Mapping[int, str]) -> None:
        self.lines.append(("unjudged", round_number, dict(failed)))

    def round_answered(self, good: Sequence[Reply], rejected: Mapping[int, str]) -> None:
        partitions = [reply.member.partition for reply in good]
        self.lines.append(("answered", partitions, sorted(rejected)))

    def round_finished(self, result: RoundResult) -> bool:
        self.lines.append(("finished", result.round_number))
        self.results.append(result)
        return False
