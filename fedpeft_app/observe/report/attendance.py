"""Journal → who was asked in which round, and what came of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedpeft_app.wire.record import SITS_OUT

# What can become of a node in a round.
GOOD, FAILED, REJECTED, SAT_OUT = "good", "failed", "rejected", "sat-out"
SURPLUS, LATE, RESTING, WAITING = "surplus", "late", "resting", "waiting"
JUDGED, ABSENT = "judged", "absent"
_TROUBLE = (FAILED, REJECTED, LATE, RESTING)


@dataclass(slots=True, kw_only=True)
class Node:
    """One node's part in a run.

    Attributes:
        number: Its partition, as the journal has it.
        name: What its owner calls it; may be empty.
        examples: Training examples; None where nodes do not tell.
        rounds: Round → what became of it, where anything did.
        reasons: Round → why its reply did not count.
        down: Bytes that it was sent; as far as the journal has them.
        up: Bytes that it sent.
        epsilon: What it said last that it has spent; None where nobody tells.
    """

    number: str
    name: str = ""
    examples: int | None = None
    rounds: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    down: int = 0
    up: int = 0
    epsilon: float | None = None

    @property
    def label(self) -> str:
        """Number, and name if there is one."""
        return f"{self.number} {self.name}" if self.name else self.number

    def count(self, *outcomes: str) -> int:
        """Count rounds that ended in one of these ways."""
        return sum(outcome in outcomes for outcome in self.rounds.values())

    @property
    def trouble(self) -> int:
        """Count rounds in which something was amiss with it."""
        return self.count(*_TROUBLE)


@dataclass(slots=True, kw_only=True)
class Attendance:
    """Everybody's part in a run.

    Attributes:
        nodes: By number, in the order of their numbers.
        rounds: Rounds that began.
        refused: Who was not let in, and why.
        secret: Whether who takes part in which round is not to be known.
        has_bytes: Whether the journal says what each node was sent.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    rounds: list[int] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    secret: bool = False
    has_bytes: bool = False

    def reasons(self) -> dict[str, list[tuple[int, Node]]]:
        """Give every reason with the rounds and nodes that it stands for, frequent ones first."""
        found: dict[str, list[tuple[int, Node]]] = {}
        for node in self.nodes.values():
            for number, reason in node.reasons.items():
                found.setdefault(reason, []).append((number, node))
        return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))


def attendance(events: Iterable[Mapping[str, Any]]) -> Attendance:
    """Follow a journal.

    Args:
        events: The journal that anybody may read. What a private run keeps in another file is
            not looked for.
    """
    found = Attendance()
    for event in events:
        if follow := _FOLLOWED.get(str(event["event"])):
            follow(found, event)
    found.nodes = dict(sorted(found.nodes.items(), key=lambda pair: _order(pair[0])))
    last = max(found.rounds, default=0)
    for node in found.nodes.values():  # who was to be left alone longer than the run went on
        node.rounds = {number: one for number, one in node.rounds.items() if number <= last}
    return found


def _order(number: str) -> tuple[int, str]:
    """Sort numbers as numbers."""
    return (int(number), "") if number.isdecimal() else (1 << 62, number)


def _node(found: Attendance, number: object) -> Node:
    """Find a node, or meet it."""
    return found.nodes.setdefault(str(number), Node(number=str(number)))


def _roll_call(found: Attendance, event: Mapping[str, Any]) -> None:
    for number, examples in event["examples"].items():
        node = _node(found, number)
        node.examples = examples if event.get("counted", True) else None
        node.name = event.get("names", {}).get(number, node.name)
    found.refused.update(event["refused"])


def _joined(found: Attendance, event: Mapping[str, Any]) -> None:
    here = max(found.rounds, default=0)
    new = [number for number in event["examples"] if number not in found.nodes]
    _roll_call(found, event)
    for number in new:
        found.nodes[number].rounds.update(dict.fromkeys(range(1, here + 1), ABSENT))


def _round_started(found: Attendance, event: Mapping[str, Any]) -> None:
    if event["round"] not in found.rounds[-1:]:
        found.rounds.append(event["round"])
    if "cohort" not in event:
        found.secret = True
    _asked(found, event)


def _asked(found: Attendance, event: Mapping[str, Any]) -> None:
    for number in event.get("cohort", ()):
        node = _node(found, number)
        if node.rounds.get(event["round"]) != GOOD:
            node.rounds[event["round"]] = WAITING


def _reply(found: Attendance, event: Mapping[str, Any]) -> None:
    node, problem = _node(found, event["node"]), event["problem"]
    node.rounds[event["round"]] = _outcome(problem)
    if problem:
        node.reasons[event["round"]] = problem
    else:
        node.reasons.pop(event["round"], None)


def _outcome(problem: str) -> str:
    """Read what became of a reply from what is said of it."""
    if problem.startswith(SITS_OUT):
        return SAT_OUT
    return FAILED if problem else GOOD


def _late_reply(found: Attendance, event: Mapping[str, Any]) -> None:
    node, number = _node(found, event["node"]), event["asked_in"]
    node.rounds[number] = LATE
    node.reasons[number] = "its reply came too late"


def _left_alone(found: Attendance, event: Mapping[str, Any]) -> None:
    first = max(found.rounds, default=0) + 1
    resting = dict.fromkeys(range(first, event["until"] + 1), RESTING)
    _node(found, event["node"]).rounds.update(resting)


def _round_finished(found: Attendance, event: Mapping[str, Any]) -> None:
    number = event["round"]
    for who, reason in event.get("rejected", {}).items():
        node = _node(found, who)
        before = node.rounds.get(number)
        if not reason:  # others were faster
            node.rounds[number] = SURPLUS
        elif before == GOOD:  # it passed when it came, and not beside the others
            node.rounds[number] = REJECTED
        else:
            node.rounds[number] = _outcome(reason)
        if reason:
            node.reasons[number] = reason
    for who in event.get("nodes", {}):
        _node(found, who).rounds[number] = GOOD
    for who in (event.get("clients") or {}).get("nodes", {}):
        _node(found, who).rounds.setdefault(number, JUDGED)
    for who, traffic in event.get("bytes_by_node", {}).items():
        found.has_bytes = True
        _node(found, who).down += traffic["down"]
        _node(found, who).up += traffic["up"]


def _statement(found: Attendance, event: Mapping[str, Any]) -> None:
    for who, epsilon in event.get("nodes", {}).items():
        _node(found, who).epsilon = epsilon


_FOLLOWED = {
    "roll_call": _roll_call,
    "nodes_joined": _joined,
    "round_started": _round_started,
    "asked_again": _asked,
    "reply": _reply,
    "late_reply": _late_reply,
    "left_alone": _left_alone,
    "round_finished": _round_finished,
    "privacy_statement": _statement,
}
