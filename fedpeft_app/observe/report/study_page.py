"""A study's page."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.observe.report import figures
from fedpeft_app.observe.report.axis import Axis, log_bytes_axis, reach, rounds_axis, value_axis
from fedpeft_app.observe.report.chart import Chart, Point, Series, panel
from fedpeft_app.observe.report.document import document
from fedpeft_app.observe.report.markup import Child, Html, element, join
from fedpeft_app.observe.report.study import Row, StudyRun, StudyStory
from fedpeft_app.observe.report.tables import facts, folded, section, table
from fedpeft_app.privacy.statement import counted


def study_page(story: StudyStory) -> str:
    """Write the report of a study.

    Args:
        story: The study, whole or in parts.

    Returns:
        A whole HTML document, the same for the same records.
    """
    sections = {
        "Table": section("table", "Table", *_tables(story)),
        "Plots": section("plots", "Plots", *_plots(story)),
        "Notes": section("notes", "What the numbers are", _notes(story)),
        "Runs": section("runs", "Runs", *_runs(story)),
        "Settings": section("settings", "Settings", *_settings(story)),
        "Environment": section("environment", "Environment", _environment(story)),
        "Reproduce": section("reproduce", "Do it again", *_command(story)),
    }
    return document(f"{story.name}: fedpeft study", _header(story), sections)


def _header(story: StudyStory) -> Html:
    """Sum the study up."""
    own = [run for run in story.runs if not run.tuning]
    ended = Counter(run.status for run in own)
    is_whole = ended["finished"] == len(own)
    standing = "finished" if is_whole else f"{ended['finished']} of {len(own)} runs finished"
    seeds = ", ".join(map(str, story.seeds))
    others = "".join(f"{number}, " for number in story.nodes[:-1])
    nodes = f"{others}{counted(story.nodes[-1], 'simulated node')}"
    lead = f"{story.metric} · {nodes} · seeds {seeds}"
    seconds = [run.seconds for run in story.runs if run.seconds is not None]
    rows: dict[str, Child] = {
        name: element("b", f"{count:,}")
        for name, count in (
            ("runs finished", ended["finished"]),
            ("failed", ended["failed"] + ended["crashed"]),
            ("not run", ended["left"]),
            ("runs of tuning", sum(run.tuning for run in story.runs)),
        )
        if count or name == "runs finished"
    }
    if seconds:
        rows["time of all runs"] = element("b", figures.duration(sum(seconds)))
    kind = f"standing {'finished' if is_whole else ''}"
    return join(
        element("p", "fedpeft study ", element("strong", standing, class_=kind), class_="kicker"),
        element("h1", story.name),
        element("p", lead, class_="lead"),
        facts(rows, class_="figures"),
    )


# ------------------------------------------------------------------ tables


def _tables(story: StudyStory) -> list[Html]:
    """Give the metric by row and column, where there are columns, and all numbers."""
    details = _details(story)
    if not story.column_title:
        return [details]
    columns = list(dict.fromkeys(row.column for row in story.rows))
    cells = {(row.row, row.column): row for row in story.rows}
    head = [story.row_title, *(f"{story.column_title} = {column}" for column in columns)]
    body = [
        [name, *(_level(cells.get((name, column))) for column in columns)]
        for name in dict.fromkeys(row.row for row in story.rows)
    ]
    pivot = table(head, body, label=story.metric)
    return [element("p", f"{story.metric}:"), pivot, folded("All numbers", details)]


def _level(row: Row | None) -> Child:
    """Write a field's mean with its interval."""
    text = figures.plus_minus(row.mean, row.half_width) if row else ""
    return element("strong", text) if row and row.best else text


def _details(story: StudyStory) -> Html:
    """Write all numbers, a line each; columns in which there is nothing are left out."""
    head = [story.row_title, *([story.column_title] * bool(story.column_title))]
    names = len(head)
    columns: dict[str, list[Child]] = {
        story.metric: [_level(row) for row in story.rows],
        "runs": [f"{row.runs} of {row.planned}" for row in story.rows],
        f"difference to {story.baseline}": [
            figures.plus_minus(row.difference, row.difference_half_width, sign="+")
            for row in story.rows
        ],
        "parameters": [figures.shown(row.trainable, figures.whole) for row in story.rows],
        "bytes per message": [
            figures.shown(row.bytes_per_message, human_bytes) for row in story.rows
        ],
        "times fewer": [figures.shown(row.times_fewer, figures.times) for row in story.rows],
        "bytes per run": [figures.shown(row.run_bytes, human_bytes) for row in story.rows],
        "examples trained": [figures.shown(row.examples, figures.whole) for row in story.rows],
        "time": [figures.shown(row.seconds, figures.duration) for row in story.rows],
    }
    told = {name: one for name, one in columns.items() if set(one) != {figures.ABSENT}}
    rows: list[list[Child]] = [
        [row.row, *([row.column] * bool(story.column_title)), *(one[at] for one in told.values())]
        for at, row in enumerate(story.rows)
    ]
    return table([*head, *told], rows, label="All numbers", names=names)


# ------------------------------------------------------------------ plots


def _plots(story: StudyStory) -> list[Html]:
    """Draw the metric against bytes, and over rounds and bytes."""
    charts: list[list[Chart]] = [[], [], []]
    groups = list(dict.fromkeys(row.group for row in story.rows))
    for group, column in sorted(
        dict.fromkeys((row.group, row.column) for row in story.rows),
        key=lambda place: groups.index(place[0]),
    ):
        rows = [row for row in story.rows if (row.group, row.column) == (group, column)]
        judged = [row for row in rows if row.moments]
        charts[0] += _against_bytes(story, rows)
        charts[1] += _over_rounds(story, judged)
        charts[2] += _over_bytes(story, judged)
    drawn = [panel(one) for one in charts if one]
    return [element("div", *drawn, class_="panels")] if drawn else []


def _against_bytes(story: StudyStory, fields: Sequence[Row]) -> list[Chart]:
    """Draw every field as a point with its interval."""
    rows = [row for row in fields if row.drawn and row.run_bytes]
    if len(rows) < 2:
        return []
    series = [
        Series(
            name=row.series,
            look=_look(story, row),
            points=[Point(x=row.run_bytes, y=row.mean, half_width=row.half_width or 0.0)],
            texts=[figures.plus_minus(row.mean, row.half_width)],
        )
        for row in rows
        if row.run_bytes is not None
    ]
    points = [one.points[0] for one in series]
    told = [(point.y, point.half_width) for point in points if point.y is not None]
    ends = reach([mean for mean, _ in told], [half for _, half in told])
    chart = Chart(
        title=_title(f"{story.metric} against bytes", story, rows[0]),
        x_name="bytes of a whole run, both directions",
        x=log_bytes_axis([point.x for point in points], human_bytes),
        y=_axis(ends),
        series=series,
        tab=_tab(story, rows[0]),
        apart=True,
        own_x=True,
        note="Means with 95 % intervals over seeds; bytes on a logarithmic axis.",
    )
    return [chart]


def _over_rounds(story: StudyStory, rows: Sequence[Row]) -> list[Chart]:
    """Draw rows round by round."""
    if not rows:
        return []
    moments = [moment for row in rows for moment in row.moments]
    chart = Chart(
        title=_title(f"{story.curve_metric} over rounds", story, rows[0]),
        x_name="round",
        x=rounds_axis([moment.round for moment in moments], figures.whole),
        y=_axis([moment.value for moment in moments]),
        series=[_curve(story, row, by_bytes=False) for row in rows],
        tab=_tab(story, rows[0]),
        note="Means over seeds.",
    )
    return [chart]


def _over_bytes(story: StudyStory, rows: Sequence[Row]) -> list[Chart]:
    """Draw rows by what they had sent."""
    told = [row for row in rows if all(moment.sent for moment in row.moments)]
    moments = [moment for row in told for moment in row.moments]
    if not moments:
        return []
    chart = Chart(
        title=_title(f"{story.curve_metric} over bytes", story, rows[0]),
        x_name="bytes so far, both directions",
        x=log_bytes_axis([moment.sent for moment in moments if moment.sent], human_bytes),
        y=_axis([moment.value for moment in moments]),
        series=[_curve(story, row, by_bytes=True) for row in told],
        tab=_tab(story, rows[0]),
        own_x=True,
        note="Means over seeds; bytes on a logarithmic axis.",
    )
    return [chart]


def _curve(story: StudyStory, row: Row, *, by_bytes: bool) -> Series:
    """Make a line of a row."""
    return Series(
        name=row.series,
        points=[
            Point(x=(one.sent or 0.0) if by_bytes else one.round, y=one.value)
            for one in row.moments
        ],
        texts=[figures.metric(one.value) for one in row.moments],
        look=_look(story, row),
    )


def _look(story: StudyStory, row: Row) -> int:
    """Let a series look the same in every chart."""
    return list(dict.fromkeys(one.series for one in story.rows)).index(row.series)


def _title(what: str, story: StudyStory, row: Row) -> str:
    """Begin a title with a capital letter, and name the group and column, which may be alone."""
    column = row.column and f"{story.column_title} = {row.column}"
    return ", ".join(filter(None, (what[:1].upper() + what[1:], row.group, column)))


def _tab(story: StudyStory, row: Row) -> str:
    """Name the group and column, as short as they are told from others: many tabs lie in a line."""
    if not row.group:
        return row.column and f"{story.column_title} = {row.column}"
    return ", ".join(filter(None, (row.group, row.column)))


def _axis(values: Sequence[float]) -> Axis:
    """Make an axis of a metric."""
    return value_axis(values, lambda value: f"{value:g}")


# ------------------------------------------------------------------ the rest


def _notes(story: StudyStory) -> Html:
    """Say what the numbers are, and what is missing."""
    items = [
        element(
            "li",
            title,
            element("ul", *(element("li", one) for one in below)) if below else None,
        )
        for title, below in story.notes
    ]
    return element("ul", *items, class_="notes")


def _runs(story: StudyStory) -> list[Html]:
    """List the runs: the study's own, then those of tuning."""
    own = [run for run in story.runs if not run.tuning]
    tuning = [run for run in story.runs if run.tuning]
    parts = [folded(counted(len(own), "run"), _run_table(story, own), open_=len(own) <= 12)]
    if tuning:
        parts.append(folded(counted(len(tuning), "run") + " of tuning", _run_table(story, tuning)))
    return parts


def _run_table(story: StudyStory, runs: Sequence[StudyRun]) -> Html:
    """List some runs."""
    is_judged, has_problem = any(r.value is not None for r in runs), any(r.problem for r in runs)
    head = ["run", "", *([story.metric] * is_judged), "bytes", "time", "folder"]
    rows: list[list[Child]] = [
        [
            run.name,
            element("span", run.status, class_=_class(run.status)),
            *([figures.shown(run.value, figures.metric)] * is_judged),
            figures.shown(run.sent, human_bytes),
            figures.shown(run.seconds, figures.duration),
            element("code", run.run) if run.run else figures.ABSENT,
            *([element("span", run.problem, class_="reason")] * has_problem),
        ]
        for run in runs
    ]
    return table([*head, *(["problem"] * has_problem)], rows, label="Runs", names=2)


def _class(status: str) -> str:
    """Choose how a status looks."""
    return {"finished": "good", "left": "waiting"}.get(status, "failed")


def _settings(story: StudyStory) -> list[Html]:
    """Say what was varied, and what was the same everywhere."""
    rows = {
        **{key: ", ".join(map(_said, values)) for key, values in story.varied.items()},
        "seed": ", ".join(map(str, story.seeds)),
    }
    parts = [element("h3", "Varied"), facts(dict(rows))]
    if story.settings:
        same = {key: _said(value) for key, value in story.settings.items()}
        parts += [element("h3", "The same in all runs, where nothing overrides it"), facts(same)]
    return parts


def _said(value: Any) -> str:
    """Write a value as on a command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _environment(story: StudyStory) -> Html | None:
    """Say what made the numbers."""
    if not story.environment:
        return None
    made = sorted(story.environment.items())
    items = [element("li", f"{what} ({counted(number, 'run')})") for what, number in made]
    return element("ul", *items, class_="notes")


def _command(story: StudyStory) -> list[Html]:
    """Give the command."""
    if not story.command:
        return []
    said = "This runs what is left; with another --to, all of it anew:"
    code = element("pre", element("code", story.command), class_="copy")
    return [element("p", said), code]
