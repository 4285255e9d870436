"""Who is there, and does everyone hold the same model and adapter? Asked before round 1."""

import re
import time
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedpeft_app.errors import RollCallError
from fedpeft_app.strategies.exchange import Arrival, exchange
from fedpeft_app.strategies.guard import short_reason
from fedpeft_app.strategies.strategy import Member
from fedpeft_app.wire.ledger import Ledger
from fedpeft_app.wire.record import facts

ROLL_CALL = "query.roll_call"
_IDENTITY, _NAME = re.compile(r"([0-9a-f]{32})?"), re.compile(r"[A-Za-z0-9._-]{0,64}")
_SETTLE_S = 0.3
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What a node says of itself.

    Attributes:
        partition: Its own number, from 0.
        examples: Training examples it holds.
        labels: Its label names, in order.
        agreed: What must be equal everywhere: name → value (versions, fingerprints).
        rank: The rank that it trains in; 0 = the run's.
        identity: What tells it from all others; empty if its owner numbers nodes. The server
            gives numbers to those who have one (`numbering`).
        name: What its owner calls it; may be empty.
    """

    partition: int
    examples: int
    labels: tuple[str, ...]
    agreed: Mapping[str, str]
    rank: int = 0
    identity: str = ""
    name: str = ""

    def to_facts(self) -> dict[str, str | int | float | bool | list[str]]:
        """Write it as scalars of a message."""
        agreed = {f"agreed.{key}": value for key, value in self.agreed.items()}
        return {
            "partition": self.partition,
            "examples": self.examples,
            "rank": self.rank,
            "identity": self.identity,
            "name": self.name,
            "labels": list(self.labels),
            **agreed,
        }

    @classmethod
    def from_facts(cls, values: Mapping[str, object]) -> "Presence":
        """Read what `to_facts` wrote.

        Raises:
            RollCallError: If something is missing or of the wrong type.
        """
        partition, examples = values.get("partition"), values.get("examples")
        labels, rank = values.get("labels"), values.get("rank")
        if not (
            isinstance(partition, int)
            and isinstance(examples, int)
            and isinstance(rank, int)
            and isinstance(labels, list)
        ):
            raise RollCallError(
                f"Expected partition, examples, rank and labels, got {sorted(values)}."
            )
        identity, name = str(values.get("identity", "")), str(values.get("name", ""))
        if not (_IDENTITY.fullmatch(identity) and _NAME.fullmatch(name)):
            raise RollCallError("Expected an identity of 32 hex digits, and a name without spaces.")
        prefix = "agreed."
        agreed = {
            key.removeprefix(prefix): str(value)
            for key, value in values.items()
            if key.startswith(prefix)
        }
        return cls(
            partition=partition,
            examples=examples,
            labels=tuple(map(str, labels)),
            agreed=agreed,
            rank=rank,
            identity=identity,
            name=name,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The outcome of a roll call.

    Attributes:
        members: Nodes that may take part, by partition.
        labels: The label names they all share.
        refused: Node → reason, for the others.
        refused_ids: Their Flower ids.
        names: Partition → what a member's owner calls it, where it has a name.
    """

    members: tuple[Member, ...]
    labels: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    refused_ids: frozenset[int] = frozenset()
    names: Mapping[int, str] = field(default_factory=dict)


def wait_for_nodes(grid: Grid, minimum: int, timeout_s: float) -> list[int]:
    """Wait until enough nodes are connected, and no more come.

    Args:
        grid: Flower's connection.
        minimum: Fewest nodes.
        timeout_s: Seconds to wait at most.

    Returns:
        The ids of all connected nodes, sorted.

    Raises:
        RollCallError: If there are still too few after `timeout_s` seconds.
    """
    deadline = time.monotonic() + timeout_s
    while len(nodes := sorted(grid.get_node_ids())) < minimum:
        if time.monotonic() > deadline:
            raise RollCallError(
                f"Only {len(nodes)} of at least {minimum} nodes (strategy.min-nodes) were "
                f"connected after {timeout_s:g} s. Start more nodes, or lower the minimum."
            )
        time.sleep(_POLL_S)
    settled: list[int] = []
    while settled != nodes and time.monotonic() <= deadline:  # others may be on their way
        settled = nodes
        time.sleep(_SETTLE_S)
        nodes = sorted(grid.get_node_ids())
    return nodes


def call_roll(
    grid: Grid, nodes: Sequence[int], *, ledger: Ledger, timeout_s: float
) -> list[tuple[int, Presence | str]]:
    """Ask every node who it is.

    Args:
        grid: Flower's connection.
        nodes: Node ids.
        ledger: Told every message's size, under the node's place in `nodes`.
        timeout_s: Seconds to wait for answers.

    Returns:
        (node id, its answer or the reason why there is none), in the order of `nodes`.
    """
    strangers = {
        Member(node_id=node_id, partition=index, examples=0): Message(
            content=RecordDict(), dst_node_id=node_id, message_type=ROLL_CALL
        )
        for index, node_id in enumerate(nodes)
    }
    arrivals = exchange(
        grid, strangers, ledger=ledger, round_number=0, kind="roll-call", timeout_s=timeout_s
    )
    return [(arrival.member.node_id, _answer(arrival)) for arrival in arrivals]


def make_roster(
    answers: Sequence[tuple[int, Presence | str]],
    *,
    expected: Mapping[str, str],
    minimum: int,
    labels: tuple[str, ...] = (),
    objection: Callable[[Member], str] = lambda member: "",
    present: Sequence[Member] = (),
) -> Roster:
    """Keep the nodes that agree with the server, refuse the others by name.

    Args:
        answers: What `call_roll` returned.
        expected: What the server has for each name a presence must agree on.
        minimum: Fewest nodes that must pass.
        labels: The server's label names; empty = those of the first node that passes.
        objection: Says why else a node cannot take part; empty if it can.
        present: Those who take part already; nobody else has their numbers.

    Returns:
        The roster, without those who were present.

    Raises:
        RollCallError: If too few pass; the message says which node differs in what.
    """
    members: dict[int, Member] = {}  # by partition
    refused: dict[str, str] = {}
    names: dict[int, str] = {}
    taken = ChainMap(members, {member.partition: member for member in present})
    for node_id, answer in answers:
        if isinstance(answer, str):
            refused[f"node {node_id}"] = answer
            continue
        number = answer.partition
        member = Member(
            node_id=node_id, partition=number, examples=answer.examples, rank=answer.rank
        )
        reason = _difference(answer, expected, labels) or _taken(answer, taken)
        if reason := reason or objection(member):
            called = f"node {number}" + (f" ({answer.name})" if answer.name else "")
            known = number in members or called in refused
            refused[f"{called} (Flower id {node_id})" if known else called] = reason
            continue
        labels = answer.labels
        members[number] = member
        if answer.name:
            names[number] = answer.name
    _require(minimum, len(members), len(answers), refused)
    ordered = tuple(members[number] for number in sorted(members))
    passed = {member.node_id for member in ordered}
    return Roster(
        members=ordered,
        labels=labels,
        refused=refused,
        refused_ids=frozenset(node_id for node_id, _ in answers if node_id not in passed),
        names=dict(sorted(names.items())),
    )


def _require(minimum: int, passed: int, asked: int, refused: Mapping[str, str]) -> None:
    """Refuse to go on with too few nodes."""
    if passed >= minimum:
        return
    reasons = "".join(f"\n  {names}: {reason}" for names, reason in _grouped(refused).items())
    raise RollCallError(
        f"{passed} of {asked} nodes passed the roll call, at least {minimum} "
        f"(strategy.min-nodes) must." + (f" Refused:{reasons}" if reasons else "")
    )


def _answer(arrival: Arrival) -> Presence | str:
    """Read one answer."""
    if arrival.message.has_error():
        return short_reason(arrival.message.error.reason)
    try:
        return Presence.from_facts(facts(arrival.message.content))
    except RollCallError as error:
        return str(error)


def _difference(answer: Presence, expected: Mapping[str, str], labels: tuple[str, ...]) -> str:
    """Say why a node cannot take part; empty if it can."""
    differences = [
        f"{name} is {answer.agreed.get(name, 'missing')}, expected {value}"
        for name, value in expected.items()
        if answer.agreed.get(name) != value
    ]
    if labels and answer.labels != labels:
        differences.append(
            f"labels are {list(answer.labels)}, expected {list(labels)} "
            f"(data.labels gives all nodes the same)"
        )
    if answer.examples < 1:
        differences.append("holds no training examples")
    return "; ".join(differences)


def _taken(answer: Presence, members: Mapping[int, Member]) -> str:
    """Say that another node has this number; empty if none has."""
    if answer.partition not in members:
        return ""
    other = f"(Flower id {members[answer.partition].node_id})"
    if answer.identity:
        return (
            f"another node has the same identity {other}. Give each node its own FEDPEFT_HOME, "
            f"or nodes that share one a name each in their --node-config"
        )
    return (
        f"another node is partition {answer.partition} too {other}. Give each node its own "
        f"partition-id in its --node-config, or none at all"
    )


def _grouped(refused: Mapping[str, str]) -> dict[str, str]:
    """Join nodes that were refused for the same reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused.items():
        by_reason.setdefault(reason, []).append(name)
    return {", ".join(names): reason for reason, names in by_reason.items()}
