"""A run's page."""

from collections.abc import Mapping
from typing import Any

from fedpeft_app.observe.lines import describe, headline, human_bytes
from fedpeft_app.observe.report import figures
from fedpeft_app.observe.report.attendance import attendance
from fedpeft_app.observe.report.clients import clients
from fedpeft_app.observe.report.curves import NAMES, curves
from fedpeft_app.observe.report.document import document
from fedpeft_app.observe.report.markup import Child, Html, element, join
from fedpeft_app.observe.report.run import Event, RunStory
from fedpeft_app.observe.report.tables import facts, folded, section, table
from fedpeft_app.observe.report.traffic import traffic
from fedpeft_app.privacy.statement import counted, shown

_STANDING = {
    "finished": "finished",
    "failed": "failed",
    "running": "still under way",
    "unfinished": "ended before it was done",
}
_MOST_LINES = 400  # of the journal in words
_MOST_ROUNDS = 500  # rows of the rounds' table


def run_page(story: RunStory) -> str:
    """Write the report of a run.

    Args:
        story: The run: finished, failed, stopped, or still under way.

    Returns:
        A whole HTML document, the same for the same journal.
    """
    found = attendance(story.events)
    sections = {
        "Curves": section("curves", "Curves", *curves(story)),
        "Rounds": section("rounds", "Rounds", *_rounds(story)),
        "Nodes alone": section("alone", "Every node alone", *_alone(story)),
        "Bytes": section("bytes", "Bytes", *traffic(story)),
        "Clients": section("clients", "Clients", *clients(found)),
        "Privacy": section("privacy", "Privacy statement", *_privacy(story)),
        "Settings": section("settings", "Settings", *_settings(story)),
        "Environment": section("environment", "Environment", *_environment(story)),
        "Reproduce": section("reproduce", "Do it again", *_commands(story)),
        "Journal": section("journal", "Journal", *_journal(story)),
    }
    return document(f"{story.name}: fedpeft", _header(story), sections)


# ------------------------------------------------------------------ what came of it


def _header(story: RunStory) -> Html:
    """Sum the run up."""
    return join(
        element(
            "p",
            "fedpeft run ",
            element(
                "strong",
                _STANDING.get(story.standing, story.standing),
                class_=f"standing {story.standing}",
            ),
            class_="kicker",
        ),
        element("h1", story.name),
        element("p", _what(story), class_="lead"),
        _end(story),
        facts(_key_figures(story), class_="figures"),
    )


def _what(story: RunStory) -> str:
    """Say what was run, in a sentence."""
    config, started = story.config, story.last("run_started")
    model, data = (_last_part(config.get(key, "")) for key in ("model.name", "data.name"))
    words = [f"{config.get('method.name', '?')} on {model}, {data}"]
    if story.mode != "federated":
        words.append({"central": "all data pooled", "local": "every node alone"}[story.mode])
    else:
        words.append(str(config.get("strategy.name", "")))
    if started:
        words.append(f"{started['trainable']:,} of {started['parameters']:,} parameters train")
    return " · ".join(filter(None, words))


def _end(story: RunStory) -> Html | None:
    """Say what went wrong, or where a run stands that has not ended well."""
    if failed := story.last("run_failed"):
        lines = [element("h2", "It failed"), element("pre", str(failed.get("problem", "")))]
        return element("div", *lines, class_="alert", role="note")
    at = figures.moment(story.events[-1].get("at")) if story.events else figures.ABSENT
    done = f"{len(story.rounds)} of {counted(story.config.get('rounds', 0), 'round')} had ended"
    if story.standing == "running":
        return element("p", f"This is how it stood at {at}: {done}.", class_="alert")
    if story.standing == "unfinished":
        text = f"Its process was ended; the last that is known is of {at}. By then {done}."
        return element("p", text, class_="alert")
    return None


def _key_figures(story: RunStory) -> dict[str, Child]:
    """Choose what a reader looks for first."""
    finished, rounds = story.finished, story.rounds
    rows: dict[str, Child] = {}
    if alone := finished.get("nodes"):
        name = alone.get("metric", "accuracy")
        worst = f"worst {figures.metric(alone['worst'])}, best {figures.metric(alone['best'])}"
        rows[f"mean test {NAMES.get(name, name)}"] = _figure(figures.metric(alone["mean"]), worst)
    elif finished and (best := headline(finished)):
        name, value = best
        where = f"round {finished['round']}, {finished['chosen']}"
        over_nodes = name.endswith("(nodes)")
        title = name if over_nodes else f"test {NAMES.get(name, name)}"
        rows[title] = _figure(figures.shown(value, figures.metric), where)
    if story.mode != "local":
        rows["rounds"] = _figure(f"{len(rounds):,}", f"of {story.config.get('rounds', '?')}")
    if finished.get("bytes_per_message") and story.mode == "federated":
        fewer = f"{figures.times(finished['times_fewer'])} fewer than full fine-tuning"
        title = "bytes per message" + ", expected" * bool(finished.get("expected"))
        rows[title] = _figure(human_bytes(finished["bytes_per_message"]), fewer)
    if told := _epsilon(story):
        rows["ε"] = told
    if finished:
        rows["time"] = _figure(figures.duration(finished["seconds"]), _since(story))
    elif story.events:
        rows["began"] = element("small", _since(story))
    return rows


def _figure(value: str, more: str) -> Html:
    """Write a figure with what it means."""
    return join(element("b", value), element("small", more) if more else None)


def _epsilon(story: RunStory) -> Html | None:
    """Give what was spent of privacy, as the run stated last."""
    rows = story.last("privacy_statement").get("rows")
    if not rows:
        return None
    told = next(
        (e["epsilon"] for e in reversed(story.events) if e.get("epsilon") is not None), None
    )
    least = "at least " if "not known" in rows or told is None else ""
    unsafe = "UNSAFE: noise from a seed" if story.config.get("privacy.unsafe-seed", -1) >= 0 else ""
    delta = f"δ = {story.config.get('privacy.delta', 0):g}"
    value = f"{least}{shown(told)}" if told is not None else "not known"
    return _figure(value, unsafe or delta)


def _since(story: RunStory) -> str:
    """Say when it began."""
    return figures.moment(story.events[0].get("at")) if story.events else ""


def _last_part(name: object) -> str:
    """Shorten a path or an id to its last part."""
    return str(name).rstrip("/").rpartition("/")[2]


# ------------------------------------------------------------------ sections


def _rounds(story: RunStory) -> list[Html]:
    """List all figures of all rounds."""
    rounds = story.rounds
    if not rounds or story.mode == "local":
        return []
    shown_rounds = rounds[-_MOST_ROUNDS:]
    columns = {name: read for name, read in _COLUMNS.items() if any(map(read, rounds))}
    rows = [
        [f"{event['round']}", *(read(event) or figures.ABSENT for read in columns.values())]
        for event in shown_rounds
    ]
    whole = table(["round", *columns], rows, label="All rounds", names=1)
    left_out = f"The last {_MOST_ROUNDS} of {len(rounds):,} rounds are listed."
    note = element("p", left_out, class_="note") if len(rounds) > _MOST_ROUNDS else Html("")
    return [
        folded(f"All figures of {counted(len(rounds), 'round')}", whole, open_=len(rows) <= 12),
        note,
    ]


def _metric(split: str, event: Event) -> str:
    """Write the run's metric of a split; empty where it was not measured."""
    measured = event.get(split) or {}
    name = event.get("metric", "accuracy")
    value = measured.get(name, measured.get("accuracy"))
    return figures.metric(value) if value is not None else ""


def _nodes_mean(event: Event) -> str:
    """Write the mean over nodes; empty where none evaluated."""
    over = event.get("clients") or event.get("clients_accuracy")
    return figures.metric(over["mean"]) if over else ""


def _plain(key: str, form: figures.Form) -> Any:
    """Make a reader of one number of a round."""
    return lambda event: figures.shown(event[key], form) if event.get(key) is not None else ""


_COLUMNS: Mapping[str, Any] = {
    "test": lambda event: _metric("test", event),
    "validation": lambda event: _metric("validation", event),
    "nodes, mean": _nodes_mean,
    "training loss": _plain("train_loss", figures.metric),
    "good": _plain("ok", figures.whole),
    "not counted": _plain("failed", figures.whole),
    "examples": _plain("examples", figures.whole),
    "down": _plain("down", human_bytes),
    "up": _plain("up", human_bytes),
    "ε": _plain("epsilon", shown),
    "training": _plain("seconds", figures.duration),
}


def _alone(story: RunStory) -> list[Html]:
    """List what every node reached by itself."""
    ended = story.all("node_finished")
    if not ended:
        return []
    names = list(dict.fromkeys(name for event in ended for name in event.get("test") or {}))
    rows = [
        [
            f"{event['node']}",
            *(figures.shown(event["test"].get(name), figures.metric) for name in names),
            figures.shown(event.get("train", {}).get("num-examples"), figures.whole),
        ]
        for event in ended
    ]
    head = ["node", *(f"test {NAMES.get(name, name)}" for name in names), "examples"]
    return [table(head, rows, label="Every node alone")]


def _privacy(story: RunStory) -> list[Html]:
    """Repeat what the run states, word for word."""
    statement = story.last("privacy_statement")
    if not statement.get("rows"):
        return []
    parts = []
    if not statement.get("final"):
        early = (
            "The run did not say so at its end: this is as of its last whole round. One round more "
            "may have been spent, which the books of nodes or server have."
        )
        parts.append(element("p", early, class_="alert"))
    return [*parts, facts(statement["rows"], class_="facts statement")]


def _settings(story: RunStory) -> list[Html]:
    """Give the configuration: what was said, and all of it."""
    differing = story.differing()
    resumed = [
        f"It went on after round {event['round']}"
        + (f", with {changed}" if (changed := _pairs(event.get("changed", {}))) else "")
        + "."
        for event in story.all("run_resumed")
    ]
    parts = [element("p", " ".join(resumed), class_="note")] if resumed else []
    if differing:
        parts.append(_keys(story, differing, "What differs from the defaults"))
    else:
        parts.append(element("p", "Every setting has its default."))
    return [*parts, folded("The whole configuration", _keys(story, story.config, "All settings"))]


def _keys(story: RunStory, chosen: Mapping[str, Any], label: str) -> Html:
    """List settings."""
    rows: list[list[Child]] = [
        [
            element("code", key),
            element("code", _said(value)),
            element("code", _said(story.defaults[key]))
            if key in story.defaults
            else figures.ABSENT,
            element("span", story.meanings.get(key, ""), class_="meaning"),
        ]
        for key, value in chosen.items()
    ]
    return table(["key", "value", "default", "meaning"], rows, label=label, names=4)


def _said(value: Any) -> str:
    """Write a value as on a command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _pairs(settings: Mapping[str, Any]) -> str:
    """Write settings in a line."""
    return ", ".join(f"{key} = {_said(value)}" for key, value in settings.items())


def _environment(story: RunStory) -> list[Html]:
    """Say what it ran on, as far as the journal has it."""
    started = story.last("run_started")
    rows: dict[str, Child] = dict(started.get("environment", {}))
    if "precision" in started:
        rows["training precision"] = str(started["precision"])
    loads = {
        f"{facts_.get('process')}": facts_.get("threads")
        for event in story.rounds
        for facts_ in event.get("nodes", {}).values()
        if "process" in facts_
    }
    if loads:
        threads = sorted({str(one) for one in loads.values()})
        rows["nodes trained in"] = (
            f"{len(loads):,} process{'es' * (len(loads) > 1)}, threads each: {', '.join(threads)}"
        )
    if not started.get("environment") and started:
        rows["versions"] = "this journal does not say: an older version of fedpeft made it"
    for event in story.all("run_resumed"):
        rows |= {
            f"changed at round {event['round']}: {k}": v
            for k, v in event.get("versions", {}).items()
        }
    return [facts(rows)] if rows else []


def _commands(story: RunStory) -> list[Html]:
    """Give the commands, and how to load what came of it."""
    parts: list[Html] = []
    for title, command in story.commands.items():
        parts += [element("p", title), element("pre", element("code", command), class_="copy")]
    if snippet := story.finished.get("snippet"):
        code = element("pre", element("code", snippet), class_="copy")
        parts.append(folded("Load the adapter, without fedpeft", code))
    return parts


def _journal(story: RunStory) -> list[Html]:
    """Put the journal into words, folded."""
    said = [(figures.moment(event.get("at")), describe(event)) for event in story.events]
    lines = [(at, line) for at, line in said if line]
    left_out = len(lines) - _MOST_LINES
    if left_out > 0:
        lines = [
            *lines[: _MOST_LINES // 4],
            (figures.ABSENT, f"{left_out:,} lines are left out here"),
            *lines[-3 * _MOST_LINES // 4 :],
        ]
    items = [element("li", element("time", at), element("span", line)) for at, line in lines]
    if not items:
        return []
    return [folded(f"In words, {counted(len(items), 'line')}", element("ol", *items, class_="log"))]
