"""A run's rounds as charts: metrics over rounds and over bytes, losses, ε."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.observe.report import figures
from fedpeft_app.observe.report.axis import Axis, bytes_axis, rounds_axis, value_axis
from fedpeft_app.observe.report.chart import Chart, Point, Series, panel
from fedpeft_app.observe.report.markup import Html, element
from fedpeft_app.observe.report.run import Event, RunStory
from fedpeft_app.privacy.statement import shown

_SPLITS = {"test": "test set", "validation": "validation set"}  # of the server
_OVER_NODES = {"mean": "mean", "worst_decile": "worst tenth", "worst": "worst"}  # of nodes
_LOSS = "loss"
NAMES = {"macro-f1": "macro-F1", "micro-f1": "micro-F1", "auroc": "AUROC"}
Found = Sequence[tuple[str, list[float | None]]]  # name → a value or None per round


def curves(story: RunStory) -> list[Html]:
    """Draw what changes from round to round.

    Args:
        story: The run.

    Returns:
        Panels of charts; none where no round ended.
    """
    rounds = story.rounds
    if not rounds or story.mode == "local":
        return []
    numbers = [float(event["round"]) for event in rounds]
    below = rounds_axis(numbers, figures.whole)
    chosen = _chosen(story)
    judged = [(name, _judged(rounds, name)) for name in _metrics(story, rounds)]
    over_rounds = [
        _chart(f"{_title(name)} over rounds", "round", numbers, below, found, _title(name), chosen)
        for name, found in judged
        if found
    ]
    sent = _sent(rounds)
    over_bytes = []
    if sent and story.mode == "federated":
        name_of_x, so_far = sent
        axis = bytes_axis(so_far, human_bytes)
        over_bytes = [
            _chart(f"{_title(name)} over bytes", name_of_x, so_far, axis, found, _title(name))
            for name, found in judged
            if found
        ]
    losses = _losses(rounds)
    spent = [("ε", [_number(event.get("epsilon")) for event in rounds])]
    others = [
        _chart("Loss over rounds", "round", numbers, below, losses, "loss", chosen)
        if losses
        else None,
        _chart("ε spent", "round", numbers, below, spent, "ε", form=shown)
        if _any(spent[0][1])
        else None,
    ]
    panels = [panel(over_rounds), panel(over_bytes)]
    panels += [panel([chart]) for chart in others if chart]
    return [element("div", *filter(None, panels), class_="panels")]


def _chart(
    title: str,
    x_name: str,
    xs: Sequence[float],
    below: Axis,
    found: Found,
    tab: str,
    mark: tuple[float, str] | None = None,
    form: Callable[[float], str] = figures.metric,
) -> Chart:
    """Make a chart of values by round."""
    values = [value for _, column in found for value in column if value is not None]
    return Chart(
        title=title[:1].upper() + title[1:],
        x_name=x_name,
        x=below,
        y=value_axis(values, lambda value: f"{value:g}"),
        series=[
            Series(
                name=name,
                points=[Point(x=x, y=y) for x, y in zip(xs, column, strict=True)],
                texts=[figures.shown(value, form) for value in column],
            )
            for name, column in found
        ],
        tab=tab,
        mark=mark,
    )


def _metrics(story: RunStory, rounds: Iterable[Event]) -> list[str]:
    """Name what was measured, the run's own metric first; loss has a chart with the others."""
    own = story.finished.get("metric") or next((e["metric"] for e in rounds if "metric" in e), "")
    names = dict.fromkeys([own])
    for event in rounds:
        for split in _SPLITS:
            names.update(dict.fromkeys(event.get(split) or {}))
        for key in ("clients", "clients_test", "clients_accuracy", "clients_test_accuracy"):
            if over := event.get(key):
                names[over.get("metric", "accuracy")] = None
    return [name for name in names if name and name != _LOSS]


def _judged(rounds: Sequence[Event], metric: str) -> Found:
    """Collect a metric: by the server, by nodes to choose the round, by nodes to report."""
    found = [
        (what, [_number((event.get(split) or {}).get(metric)) for event in rounds])
        for split, what in _SPLITS.items()
    ]
    kinds = {"clients": "nodes", "clients_test": "nodes, test"}
    for (key, who), (name, what) in itertools.product(kinds.items(), _OVER_NODES.items()):
        column = [_number(_spread(event, key, metric).get(name)) for event in rounds]
        found.append((f"{who}: {what}", column))
    return [(name, column) for name, column in found if _any(column)]


def _spread(event: Event, key: str, metric: str) -> Mapping[str, Any]:
    """Find what nodes measured of a metric; accuracy may be beside another one."""
    for name in (key, f"{key}_accuracy"):
        over: Mapping[str, Any] = event.get(name) or {}
        if over and over.get("metric", "accuracy") == metric:
            return over
    return {}


def _losses(rounds: Sequence[Event]) -> Found:
    """Collect losses: of training, and of what judges."""
    found = [("training", [_number(event.get("train_loss")) for event in rounds])]
    found += [
        (what, [_number((event.get(split) or {}).get(_LOSS)) for event in rounds])
        for split, what in _SPLITS.items()
    ]
    return [(name, column) for name, column in found if _any(column)]


def _sent(rounds: Iterable[Event]) -> tuple[str, list[float]] | None:
    """Add bytes up, round by round: those that were counted, or else what was expected."""
    for name, column in (
        ("bytes so far, both directions", [_both(event) for event in rounds]),
        ("expected bytes so far, both directions", [_both(e.get("expected")) for e in rounds]),
    ):
        told = [each for each in column if each is not None]
        if len(told) == len(column) and any(told):
            return name, list(itertools.accumulate(told))
    return None


def _both(traffic: Mapping[str, Any] | None) -> float | None:
    """Add both directions up; None where there are none."""
    if not traffic or "down" not in traffic or "up" not in traffic:
        return None
    return float(traffic["down"] + traffic["up"])


def _chosen(story: RunStory) -> tuple[float, str] | None:
    """Give the round whose adapter was exported."""
    finished = story.finished
    if not finished:
        return None
    return float(finished["round"]), f"round {finished['round']} was exported: {finished['chosen']}"


def _title(metric: str) -> str:
    """Name a metric as people do."""
    return NAMES.get(metric, metric)


def _number(value: Any) -> float | None:
    """Read a number; the journal has null for what is none."""
    return float(value) if isinstance(value, int | float) else None


def _any(column: Iterable[float | None]) -> bool:
    """Say whether anything was measured."""
    return any(value is not None for value in column)
