"""Journal events → one plain line each, for logs and terminals that are no terminals."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from fedpeft_app.privacy.statement import counted, shown
from fedpeft_app.wire.record import SITS_OUT

_NARROWEST = 40  # columns that a wrapped text is given in any case
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def human_bytes(count: float) -> str:
    """Write a byte count with a binary unit: 318 KiB, 1.2 GiB.

    Args:
        count: Bytes.
    """
    for unit in _UNITS[:-1]:
        if round(abs(count)) < 1024:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"


def describe(event: Mapping[str, Any]) -> str | None:
    """Put an event into words.

    Args:
        event: An event of the journal.

    Returns:
        A line, or a few; None for events that are not worth one.
    """
    writer = _WRITERS.get(str(event["event"]))
    return writer(event) if writer else None


def hung(text: str, width: int) -> str:
    """Wrap each line of a text that is too long, with what follows indented below its beginning.

    Args:
        text: Lines.
        width: Columns of the terminal.
    """
    wrapped = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip()) + 2
        wrapped += textwrap.wrap(
            line,
            max(width, _NARROWEST),
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(wrapped)


def last_statement(events: Sequence[Mapping[str, Any]]) -> str:
    """Say what a private run that was stopped guarantees.

    Args:
        events: Its journal.

    Returns:
        Lines; empty where nothing was asked of nodes yet, or the run has said so itself.
    """
    kinds = [event["event"] for event in events]
    if "roll_call" not in kinds or kinds[-1] == "run_failed":
        return ""
    stated = [event for event in events if event["event"] == "privacy_statement"]
    told = [event for event in events if event["event"] in ("privacy_statement", "round_started")]
    if told and told[-1].get("final"):
        return ""
    rows = stated[-1]["rows"] if stated else {"privacy": "not known: no round has ended"}
    since = "one round more may have been spent, which the books have"
    return _stated("privacy statement of the run as far as it got", {**rows, "since then": since})


def _run_started(event: Mapping[str, Any]) -> str:
    return (
        f"run {event['run']}: {event['mode']}, {event['method']} on {event['model']}, "
        f"{event['trainable']:,} of {event['parameters']:,} parameters travel"
        + (f", {event['personal']:,} more stay on each node" if event.get("personal") else "")
        + (f", trained in {event['precision']}" if "precision" in event else "")
    )


def _roll_call(event: Mapping[str, Any]) -> str:
    refused = "".join(f"\n  refused {node}: {reason}" for node, reason in event["refused"].items())
    sizes = event["examples"].values()
    if not event.get("counted", True):
        one = len(sizes) == 1
        told = "which does not tell how many examples it holds"
        many = "which do not tell how many examples they hold"
        return f"{counted(len(sizes), 'node')}, {told if one else many}{refused}"
    return (
        f"{counted(len(sizes), 'node')} hold{'s' * (len(sizes) == 1)} "
        f"{counted(sum(sizes), 'training example')} ({min(sizes):,} to {max(sizes):,}){refused}"
    )


def _reply_failed(event: Mapping[str, Any]) -> str | None:
    if not event["problem"]:
        return None
    failed = "" if event["problem"].startswith(SITS_OUT) else "failed: "
    return f"round {event['round']}: node {event['node']} {failed}{event['problem']}"


def _unrated(event: Mapping[str, Any]) -> str:
    what = f"node {event['node']} alone" if "node" in event else f"round {event['round']}"
    return (
        f"{what} cannot be chosen: {event['metric']} is not defined on its validation data "
        f"(AUROC needs every label there), or not finite"
    )


def _budget_spent(event: Mapping[str, Any]) -> str:
    rounds = f"after {event['round']} of {counted(event['rounds'], 'round')}"
    if event["key"] == "budget.patience":
        return f"{rounds} none is better than round {event['best']} (budget.patience)"
    sent = f": nodes sent {human_bytes(event['up'])}" if "up" in event else ""
    return f"{event['key']} is spent {rounds}{sent}"


def _asked_again(event: Mapping[str, Any]) -> str:
    nodes = ", ".join(map(str, event["cohort"]))
    return f"round {event['round']}: too few good replies; asking again, or instead: {nodes}"


def _late_reply(event: Mapping[str, Any]) -> str:
    return (
        f"round {event['round']}: node {event['node']} answered round {event['asked_in']} too "
        f"late; dropped"
    )


def _left_alone(event: Mapping[str, Any]) -> str:
    return f"node {event['node']} failed too often; it is left alone until round {event['until']}"


def _evaluation_failed(event: Mapping[str, Any]) -> str:
    return f"round {event['round']}: node {event['node']} did not evaluate: {event['problem']}"


def _nobody_judged(event: Mapping[str, Any]) -> str:
    asked = counted(len(event["failed"]), "node")
    return f"round {event['round']}: {asked} asked to evaluate, none did; it goes on unjudged"


def _nodes_joined(event: Mapping[str, Any]) -> str:
    refused = "".join(f"\n  refused {node}: {reason}" for node, reason in event["refused"].items())
    return f"joined: {', '.join(event['examples']) or 'nobody'}{refused}"


def _nodes_left(event: Mapping[str, Any]) -> str:
    return f"no longer connected: {', '.join(map(str, event['nodes']))}"


def _round_finished(event: Mapping[str, Any]) -> str:
    parts = [f"round {event['round']}/{event['rounds']}"]
    if "ok" in event:
        parts.append(_answers(event))
    if event.get("train_loss") is not None:
        parts.append(f"train loss {event['train_loss']:.3f}")
    if "epsilon" in event:
        parts.append(f"epsilon {shown(event['epsilon'])}")
    if split := next((name for name in ("test", "validation") if event.get(name)), ""):
        parts.append(f"{split} {_headline(event, split)}")
    if clients := event.get("clients") or event.get("clients_accuracy"):
        decile = (
            f"worst decile {clients['worst_decile']:.4f}, " if len(clients["nodes"]) > 10 else ""
        )
        parts.append(
            f"client {_metric_of(clients)} {clients['mean']:.4f} "
            f"({decile}worst {clients['worst']:.4f})"
        )
    if "down" in event:
        parts.append(_both_ways(event))
    if "expected" in event:  # who was drawn is secret, and so is what they sent
        expected = event["expected"]
        parts.append(f"expected: {expected['clients']:g} clients, {_both_ways(expected)}")
    if "seconds" in event:
        parts.append(f"{event['seconds']:.1f} s")
    return " | ".join(parts)


def _answers(event: Mapping[str, Any]) -> str:
    reasons = event.get("rejected", {}).values()
    out = sum(reason.startswith(SITS_OUT) for reason in reasons)
    sitting = f"{out} sit{'s' * (out == 1)} out, " if out else ""
    return f"clients {event['ok']} ok, {sitting}{event['failed'] - out} failed"


def _both_ways(traffic: Mapping[str, float]) -> str:
    return f"{human_bytes(traffic['down'])} down, {human_bytes(traffic['up'])} up"


def _node_finished(event: Mapping[str, Any]) -> str:
    return f"node {event['node']} alone: test {_headline(event, 'test')}"


def _run_finished(event: Mapping[str, Any]) -> str:
    lines = [f"run finished in {event['seconds']:.1f} s: {event['folder']}"]
    if event.get("test"):
        lines.append(f"test {_measured(event)} (round {event['round']}, {event['chosen']})")
    if found := _over_nodes(event):
        key, clients = found
        why = "to report on" if key.startswith("clients_test") else "to choose the round by"
        lines.append(
            f"{_metric_of(clients)} on what {len(clients['nodes'])} nodes hold out {why}: mean "
            f"{clients['mean']:.4f}, worst decile {clients['worst_decile']:.4f}, worst "
            f"{clients['worst']:.4f} (round {event['round']}, {event['chosen']})"
        )
    if untrained := event.get("untrained"):
        lines.append(f"{len(untrained)} of these nodes never trained: their own head is random")
    if not (event.get("test") or found or event.get("nodes")):
        lines.append("nothing was measured: no server test data, and no node evaluated")
    if event.get("nodes"):
        nodes = event["nodes"]
        lines.append(
            f"test {_metric_of(nodes)} over nodes: mean {nodes['mean']:.4f}, "
            f"worst {nodes['worst']:.4f}, best {nodes['best']:.4f}"
        )
    if event.get("bytes_per_message") and event.get("mode", "federated") == "federated":
        full = f"full fine-tuning ({human_bytes(event['full_bytes_per_message'])})"
        times = event["times_fewer"]
        lines.append(
            f"{human_bytes(event['bytes_per_message'])} per client, round and direction: "
            + (f"{times:,.0f} times fewer bytes than {full}" if times > 2 else f"like {full}")
            + f"; the model itself, once per node: {human_bytes(event['backbone_bytes'])}"
        )
    if event.get("adapter"):
        lines.append(f"adapter: {event['adapter']} (its README.md shows how to load it)")
    return "\n".join(lines)


def headline(event: Mapping[str, Any]) -> tuple[str, float] | None:
    """Give the figure that sums a finished run up.

    Args:
        event: The event that ends it.

    Returns:
        The run's metric, or accuracy where that one is undefined, and its value on the server's
        test set; without one, the mean over nodes, "(nodes)" behind the metric. None where
        nothing was measured.
    """
    if test := event.get("test"):
        name = _chosen(event, test)
        return name, test[name]
    if found := _over_nodes(event):
        _, clients = found
        return f"{clients.get('metric', 'accuracy')} (nodes)", clients["mean"]
    return None


def _over_nodes(event: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """Find what nodes measured on data of their own, and its name; the more telling first."""
    names = ("clients_test", "clients_test_accuracy", "clients", "clients_accuracy")
    return next(((name, event[name]) for name in names if event.get(name)), None)


def _chosen(event: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """Name the metric that rounds are chosen by, or accuracy where that one is undefined."""
    metric: str = event.get("metric", "accuracy")
    return metric if metric in metrics else "accuracy"


def _headline(event: Mapping[str, Any], split: str) -> str:
    """Write the metric that sums a split up."""
    return _named(_chosen(event, event[split]), event[split])


def _measured(event: Mapping[str, Any]) -> str:
    """Write all test metrics, the run's first; otherwise the loss says little without a scale."""
    metrics: Mapping[str, float] = event["test"]
    first = _chosen(event, metrics)
    names = [first, *(name for name in metrics if name not in (first, "loss"))]
    return ", ".join(_named(name, metrics) for name in names)


def _metric_of(spread: Mapping[str, Any]) -> str:
    """Name what a spread over nodes is of; older journals have accuracy alone."""
    metric: str = spread.get("metric", "accuracy")
    return _WORDS.get(metric, metric)


def _named(name: str, metrics: Mapping[str, float | None]) -> str:
    value = metrics[name]  # the journal has null for what is no number
    return f"{_WORDS.get(name, name)} {'not finite' if value is None else f'{value:.4f}'}"


_WORDS = {"macro-f1": "macro-F1", "micro-f1": "micro-F1", "auroc": "AUROC"}


def _privacy_spent(event: Mapping[str, Any]) -> str:
    rounds = counted(event["rounds"], "round")
    return f"privacy is spent, the run ends before its {rounds}: {event['problem']}"


def _privacy_statement(event: Mapping[str, Any]) -> str | None:
    if not event["final"]:
        return None
    return _stated("privacy statement", event["rows"])


def _stated(title: str, rows: Mapping[str, str]) -> str:
    return title + "".join(f"\n  {name}: {text}" for name, text in rows.items())


def _run_resumed(event: Mapping[str, Any]) -> str:
    found = "".join(f"\n  {problem}" for problem in event["problems"])
    versions = event.get("versions", {}).items()  # older journals have none
    found += "".join(f"\n  mind: it was made with {name} {which}" for name, which in versions)
    changed = ", ".join(f"{key} = {value}" for key, value in event["changed"].items())
    with_what = f", with {changed}" if changed else ""
    if not event["round"]:
        return f"run begins again, for no round had ended{with_what}"
    return f"run goes on after round {event['round']}/{event['rounds']}{with_what}{found}"


def _observer_failed(event: Mapping[str, Any]) -> str:
    return f"observer {event['observer']} is left out from now on: {event['problem']}"


def _checkpoint_damaged(event: Mapping[str, Any]) -> str:
    return f"round {event['round']} may not be exported: {event['problem']}"


def _run_failed(event: Mapping[str, Any]) -> str:
    return f"run failed: {event['problem']}"


_WRITERS = {
    "run_started": _run_started,
    "run_resumed": _run_resumed,
    "observer_failed": _observer_failed,
    "checkpoint_damaged": _checkpoint_damaged,
    "roll_call": _roll_call,
    "reply": _reply_failed,
    "unrated": _unrated,
    "round_finished": _round_finished,
    "budget_spent": _budget_spent,
    "asked_again": _asked_again,
    "late_reply": _late_reply,
    "left_alone": _left_alone,
    "evaluation_failed": _evaluation_failed,
    "nobody_judged": _nobody_judged,
    "nodes_joined": _nodes_joined,
    "nodes_left": _nodes_left,
    "node_finished": _node_finished,
    "run_finished": _run_finished,
    "privacy_spent": _privacy_spent,
    "privacy_statement": _privacy_statement,
    "run_failed": _run_failed,
}
