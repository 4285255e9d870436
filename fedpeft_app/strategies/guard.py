"""What a reply must be before it may touch the global state, or count as a measurement."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import Message

from fedpeft_app.adapters import AdapterSpec
from fedpeft_app.adapters.bounds import beyond
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.errors import AdapterMismatchError, BudgetSpentError, QuorumError, WireError
from fedpeft_app.privacy.statement import counted
from fedpeft_app.strategies.attendance import Excused
from fedpeft_app.strategies.strategy import Assignment, Member, Reply
from fedpeft_app.wire.payload import Section
from fedpeft_app.wire.record import (
    DELTA,
    EPSILON,
    NOISE,
    SAMPLING,
    SITS_OUT,
    STEPS,
    UNAMPLIFIED,
    Scalar,
    metrics,
    read_update,
    refusal,
)

_LARGEST_METRIC = 1e100  # sums of these, weighted by examples, are finite for any number of nodes
_WEIGHT = "num-examples"
_FACTS = {  # and of its facts, by type
    "process": str,
    "backbone-loads": int,
    "threads": int,
    "layers-skipped": int,
}
_LONGEST_FACT = 64  # characters, or digits; a process is named by twelve
_JUDGED = ("loss", "accuracy")  # what every task measures
_SHARES = ("accuracy", "macro-f1", "micro-f1", "auroc", "exact-match")
_POSSIBLE = {  # the least and the most that these can be; one of its own would choose the round
    **dict.fromkeys(_SHARES, (0.0, 1.0)),
    **dict.fromkeys(("loss", "perplexity"), (0.0, math.inf)),
}
_ON_TEST = "test."  # before the names of what is measured to report
_METRIC_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_WRAPPED = re.compile(r"<class '(?P<kind>[^']*)'>:<'(?P<text>.*)'>", re.DOTALL)  # Flower's form
_OCCURRED = re.compile(r"Exception \w+ occurred\. Message: ?")  # flwr's; Ray cuts a last blank
_CAUSE = "The above exception was the direct cause of the following exception:"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # Ray colours its tracebacks
_OWN_ERRORS = "fedpeft_app.errors."
_LONGEST = 600  # characters of a reason; Ray's own run to pages


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Which metrics of a train reply are read, beside its weight.

    Attributes:
        required: What the rounds and the journal count on.
        known: What is kept where it is sent; anything else is dropped.
        ranges: The least and the most that some of the required can be.
    """

    required: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)


_SPENT = {  # what an accountant can make something of, and what it can come to
    EPSILON: (0.0, _LARGEST_METRIC),
    UNAMPLIFIED: (0.0, _LARGEST_METRIC),
    NOISE: (1e-9, _LARGEST_METRIC),
    SAMPLING: (1e-15, 1.0),  # one of more examples than any node has
    STEPS: (1.0, 1e15),  # whole numbers that float64 tells apart
}
MEASURED = Numbers(required=("loss", "examples-trained"), known=("steps", "seconds"))
SPENT = Numbers(required=tuple(_SPENT), ranges=_SPENT)  # sample level
NOTHING = Numbers()  # user level: whatever a node measures is about its data


class SatOut(Excused):
    """Why a node sits a round out: it has no more privacy to spend."""

    __slots__ = ()


def admit(
    message: Message,
    member: Member,
    assignment: Assignment,
    round_number: int,
    numbers: Numbers = MEASURED,
) -> Reply | str:
    """Decode and check one reply to a train order; what was decoded is let go again.

    Args:
        message: What came back from the node.
        member: Who was asked.
        assignment: What it was asked.
        round_number: The round it must answer.
        numbers: Which metrics are read.

    Returns:
        The reply, with those of its metrics and facts that nodes are known to send; or the
        reason why it is rejected.
    """
    if message.has_error():
        return short_reason(message.error.reason)
    if reason := refusal(message.content):
        return SatOut(_line(f"{SITS_OUT}{reason}"))
    expected = dict.fromkeys(assignment.extras, trained_spec(assignment.state.spec))
    expected[DELTA] = trained_spec(assignment.state.spec, assignment.part)
    try:
        update = read_update(message.content, assignment.state.spec)
        wrong = _wrong_sections(update.sections, expected)
    except (AdapterMismatchError, WireError) as error:
        return _line(str(error))
    read = (_WEIGHT, *numbers.required, *numbers.known)
    sent = {name: update.metrics[name] for name in update.metrics if name in read}
    problem = (
        _wrong_round(update.round_number, round_number)
        or _wrong_weight(sent, member)
        or _missing(sent, numbers.required)
        or _unusable(sent)
        or _out_of_range(sent, numbers.ranges)
        or wrong
    )
    extras = {section.name: section for section in update.sections}
    return _line(problem) or Reply(
        member=member,
        start=assignment.state,
        update=extras.pop(DELTA),
        weight=sent[_WEIGHT],
        metrics=sent,
        facts=_known_facts(update.facts),
        extras=extras,
    )


def admit_metrics(message: Message, member: Member) -> dict[str, float] | str:
    """Check one reply to an evaluate order.

    Args:
        message: What came back from the node.
        member: Who was asked.

    Returns:
        Its metrics, with at least loss, accuracy and num-examples, which is a weight: no more
        than the node trains on, whatever it holds out. Others that are no plain numbers are
        left out, as those that are not defined. Or why the reply is rejected: shares are from
        0 to 1, losses at least 0.
    """
    if message.has_error():
        return short_reason(message.error.reason)
    values = metrics(message.content)
    weight = values.get(_WEIGHT, 0.0)
    if not (math.isfinite(weight) and weight > 0):
        return f"states {weight:g} validation examples"
    judged = {name: values[name] for name in _JUDGED if name in values}
    if problem := _missing(judged, _JUDGED) or _unusable(judged) or _impossible(values):
        return problem
    others = {
        name: value
        for name, value in values.items()
        if _METRIC_NAME.fullmatch(name) and not _unusable({name: value})
    }
    return {**others, _WEIGHT: min(weight, float(member.examples))}


def require_quorum(
    round_number: int, good: Sequence[Reply], rejected: Mapping[int, str], minimum: int
) -> None:
    """Refuse a round with too few good replies.

    Args:
        round_number: Round, from 1.
        good: Replies that passed the guard.
        rejected: Partition → reason, for those that did not.
        minimum: Fewest good replies.

    Raises:
        QuorumError: If there are fewer; the message says which node failed why.
        BudgetSpentError: If there would be enough, had nobody sat out.
    """
    if len(good) >= minimum:
        return
    reasons = _listed(rejected)
    sat_out = [node for node, reason in rejected.items() if isinstance(reason, SatOut)]
    if len(good) + len(sat_out) >= minimum:
        raise BudgetSpentError(
            f"Round {round_number}: {len(sat_out)} node{_have(sat_out)} no more privacy to spend, "
            f"and good replies, {len(good)}, are fewer than {minimum} (strategy.min-replies):"
            f"{reasons}"
        )
    raise QuorumError(
        f"Round {round_number}: {len(good)} of {len(good) + len(rejected)} replies were good, "
        f"at least {minimum} (strategy.min-replies) must be."
        + (f" Rejected:{reasons}" if reasons else "")
    )


def require_judges(round_number: int, judged: Collection[int], failed: Mapping[int, str]) -> None:
    """Refuse a round in which nodes were asked to evaluate, and none of them did.

    Args:
        round_number: Round, from 1.
        judged: Partitions of those that did.
        failed: Partition → reason, for those that did not.

    Raises:
        QuorumError: With every node's reason. What only nodes can judge, nobody has judged.
    """
    if judged or not failed:
        return
    raise QuorumError(
        f"Round {round_number}: of the {counted(len(failed), 'node')} that were asked to evaluate "
        f"(strategy.fraction-evaluate) none did:{_listed(failed)}"
    )


def _have(nodes: Collection[int]) -> str:
    """End a sentence's beginning, "2 node", with the verb that its number takes."""
    return " has" if len(nodes) == 1 else "s have"


def _listed(reasons: Mapping[int, str]) -> str:
    """Give each node's reason a line of its own, below what they explain."""
    return "".join(f"\n  node {node}: {reason}" for node, reason in reasons.items())


def _wrong_sections(sections: Sequence[Section], expected: Mapping[str, AdapterSpec]) -> str:
    """Say which section is missing, too many, of another part or too large; empty if none is."""
    names = sorted(section.name for section in sections)
    if names != sorted(expected):
        return f"sent {', '.join(names) or 'nothing'} instead of {', '.join(sorted(expected))}"
    for section in sections:
        wanted = expected[section.name].fingerprint
        if section.spec.fingerprint != wanted:
            return f"sent a {section.name} of {section.spec.fingerprint} instead of {wanted}"
        if problem := beyond(section.decode()):
            return f"sent a {section.name} with {problem}"
    return ""


def _wrong_round(answered: int, asked: int) -> str:
    """Say that a reply is for another round; empty if it is not."""
    return "" if answered == asked else f"answers round {answered} instead of {asked}"


def _wrong_weight(values: Mapping[str, float], member: Member) -> str:
    """Say that an aggregation weight is none, or more than the node has; empty if it is fine."""
    weight = values.get(_WEIGHT, 0.0)
    if not (math.isfinite(weight) and weight > 0):
        return f"states {weight:g} training examples"
    if weight > member.examples:
        return f"states {weight:g} training examples, but {member.examples} at the roll call"
    return ""


def _missing(values: Mapping[str, float], needed: tuple[str, ...]) -> str:
    """Name the first metric that is missing; empty if there is none."""
    absent = next((name for name in needed if name not in values), None)
    return f"sent no metric '{absent}'" if absent else ""


def _unusable(values: Mapping[str, float]) -> str:
    """Name the first metric that is no number to reckon with; empty if there is none."""
    for name, value in values.items():
        if not abs(value) <= _LARGEST_METRIC:  # also NaN
            return f"sent metric '{name}' = {value}"
    return ""


def _out_of_range(values: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]) -> str:
    """Name the first metric that cannot be what it says; empty if there is none."""
    for name, (least, most) in ranges.items():
        if not least <= values[name] <= most:
            return f"sent metric '{name}' = {values[name]:g}, not from {least:g} to {most:g}"
    return ""


def _impossible(values: Mapping[str, float]) -> str:
    """Name the first measurement beyond what it can be; NaN, which is undefined, is not."""
    for name, value in values.items():
        ends = _POSSIBLE.get(name.removeprefix(_ON_TEST))
        if ends and (value < ends[0] or value > ends[1]):
            return f"sent metric '{name}' = {value:g}, not from {ends[0]:g} to {ends[1]:g}"
    return ""


def _known_facts(facts: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Keep what nodes say of their process; nothing depends on it, so the rest is left out."""
    return {
        name: facts[name]
        for name, kind in _FACTS.items()
        if type(facts.get(name)) is kind and len(str(facts[name])) <= _LONGEST_FACT
    }


def short_reason(reason: str | None) -> str:
    """Find the node's own words in an error's text.

    Args:
        reason: What Flower reports: the text as such, "<class 'X'>:<'text'>", or the latter
            around a traceback of Ray's.

    Returns:
        One line, never empty: the text, after the exception's name if it is none of ours.
    """
    text, kind = _COLOUR.sub("", reason or "").strip(), ""
    if wrapped := _WRAPPED.fullmatch(text):
        kind, text = wrapped["kind"], wrapped["text"]
    if len(parts := _OCCURRED.split(text, maxsplit=1)) > 1:
        kind, text = _kind_of_cause(parts[0], parts[1].strip()), parts[1]
    elif '\n  File "' in text:  # a traceback; its last line says what happened
        kind, text = "", text.rstrip().rpartition("\n")[2]
    name = "" if kind.startswith(_OWN_ERRORS) else kind.rpartition(".")[2]
    return _line(": ".join(part for part in (name, text.strip()) if part)) or "no reason given"


def _line(text: str) -> str:
    """Write a text that a node may have had a hand in as one line that is not too long."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _kind_of_cause(traceback: str, message: str) -> str:
    """Find the type of the exception that Flower's own was raised from; empty if unclear."""
    blocks = traceback.split(_CAUSE)
    if len(blocks) < 2:  # no cause was printed
        return ""
    block = blocks[-2].rstrip()
    if not block.endswith(message):
        return ""
    return block.removesuffix(message).rpartition("\n")[2].removesuffix(": ")
