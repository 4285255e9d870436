"""A study's results as Markdown for people: the numbers, what they are, what is missing."""

from collections import Counter
from collections.abc import Sequence

from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.studies.conduct import Standing
from fedpeft_app.studies.grid import describe
from fedpeft_app.studies.metrics import CLIENT_METRICS
from fedpeft_app.studies.study import Study
from fedpeft_app.studies.table import Line, lines, missing
from fedpeft_app.studies.tuning import Choice

_ABSENT = "–"
_READING = (
    "mean ± half-width of the 95 % interval over seeds (Student's t); one run alone has no "
    f"interval; {_ABSENT} was not measured; bytes as Flower serialises them"
)
_BEST = (
    "in bold: better than every other row with the same data and seeds, by the 95 % intervals of "
    "differences paired by seed"
)
_ON_TEST = "measured on the server's test set; with mode = local, the mean over nodes of that"
_OVER_NODES = {  # metric of nodes → what it is
    "clients.mean": "mean over nodes",
    "clients.worst-decile": "worst tenth of nodes",
    "clients.worst": "worst node",
}


class _Bold(str):
    """Text that stands out."""

    __slots__ = ()


def to_markdown(study: Study, standing: Standing) -> str:
    """Write a study's results for people.

    Args:
        study: What the file says.
        standing: How the study stands.

    Returns:
        Markdown: with several columns the metric by row and column first; then all numbers;
        then what they are, what tuning chose, and what is missing.
    """
    table = lines(study, standing)
    parts = [f"# {study.name}"]
    if study.layout.columns:
        parts.append(_pivot(study, table))
    made = [(f"made with {things} ({_runs(n)})", ()) for things, n in made_with(standing).items()]
    said = [
        *((one, ()) for one in notes(study, standing, table)),
        *made,
        *gaps(study, standing, table),
    ]
    bullets = [line for title, items in said for line in _group(title, items)]
    parts += [_details(study, table), "\n".join(bullets)]
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------ tables


def _pivot(study: Study, table: Sequence[Line]) -> str:
    """Write the metric alone by row and column."""
    columns = list(dict.fromkeys(line.column for line in table))
    rows = list(dict.fromkeys(line.row for line in table))
    shown = {(line.row, line.column): _level(line) for line in table}
    keys = ", ".join(study.layout.columns)
    head = [metric_title(study), *(f"{keys} = {column}" for column in columns)]
    body = [[row, *(shown.get((row, column), "") for column in columns)] for row in rows]
    return _markdown(head, body, names=1)


def _details(study: Study, table: Sequence[Line]) -> str:
    """Write all numbers, a line each."""
    by_column, compared = bool(study.layout.columns), bool(study.layout.baseline)
    head = [", ".join(study.layout.rows) or "cell"]
    head += [", ".join(study.layout.columns)] * by_column
    head += [metric_title(study), "runs"]
    head += [f"difference to {study.layout.baseline}"] * compared
    head += ["parameters", "bytes per message", "times fewer", "bytes per run"]
    head += ["examples trained", "seconds"]
    body = []
    for line in table:
        row = [line.row] + [line.column] * by_column
        row += [_level(line), f"{line.runs} of {line.planned}"]
        row += [_plus_minus(line.difference, line.difference_half_width, sign="+")] * compared
        row += [
            _shown(line.trainable, ","),
            human_bytes(line.bytes_per_message) if line.bytes_per_message else _ABSENT,
            _shown(line.times_fewer, ",.1f"),
            human_bytes(line.run_bytes) if line.run_bytes else _ABSENT,
            _shown(line.examples, ",.0f"),
            _shown(line.seconds, ",.0f"),
        ]
        body.append(row)
    return _markdown(head, body, names=1 + by_column)


def metric_title(study: Study) -> str:
    """Name the metric, with whose data it was measured on."""
    layout = study.layout
    over_nodes = _OVER_NODES.get(layout.metric)
    return f"{layout.node_metric}, {over_nodes}" if over_nodes else f"test {layout.metric}"


# ------------------------------------------------------------------ notes


def notes(study: Study, standing: Standing, table: Sequence[Line]) -> list[str]:
    """Say what the numbers are, and what was chosen.

    Args:
        study: What the file says.
        standing: How the study stands.
        table: Its lines.
    """
    said = [_READING, *_metric_notes(study, standing)]
    if any(line.best for line in table):
        said.append(_BEST)
    if study.layout.baseline:
        said.append(f"differences to {study.layout.baseline} are paired by seed")
    said += [_choice_note(study, choice) for choice in standing.choices]
    if study.tuning:
        said.append(_budget_note(study, standing))
    return said


def gaps(
    study: Study, standing: Standing, table: Sequence[Line]
) -> list[tuple[str, Sequence[str]]]:
    """Say which runs have no number, and why.

    Args:
        study: What the file says.
        standing: How the study stands.
        table: Its lines.

    Returns:
        What is missing, with the runs.
    """
    failed = [
        f"{cell.name}: {record.status}: {record.reason}"
        for cell, record in standing.trials
        if record and record.measured is None
    ]
    absent = sum(line.planned - line.runs for line in table)
    lacking = [
        (f"{absent} of {len(standing.slots)} runs missing:", missing(study, standing)),
        (f"{len(failed)} of {len(standing.trials)} tuning runs without a score:", failed),
    ]
    return [(title, items) for title, items in lacking if items]


def made_with(standing: Standing) -> dict[str, int]:
    """Say what made the numbers.

    Args:
        standing: How the study stands.

    Returns:
        Versions in words → how many of the study's runs were made with them.
    """
    found = Counter(describe(slot.record.made_with) for slot in standing.slots if slot.record)
    return dict(sorted(found.items()))


def _metric_notes(study: Study, standing: Standing) -> list[str]:
    """Say what data the metric was measured on."""
    if study.layout.metric not in CLIENT_METRICS:
        return [_ON_TEST]
    records = [slot.record for slot in standing.slots if slot.record]
    found = [record.measured for record in records if record.measured]
    kinds = Counter(
        "holds out only to report on" if run.clients_test else "holds out to choose the round by"
        for run in found
        if run.figure(study.layout.metric) is not None
    )
    notes = [
        f"each node is judged on data of its own that it {kind}, and counts the same "
        f"({_runs(count)})"
        for kind, count in sorted(kinds.items())
    ]
    if untrained := sum(bool(run.untrained) for run in found):
        notes.append(
            f"some nodes never trained the head they were judged with ({_runs(untrained)})"
        )
    return notes


def _choice_note(study: Study, choice: Choice) -> str:
    """Say what was chosen for a group, among what."""
    name = describe(choice.group) or "all"
    metric = study.tuning.metric if study.tuning else ""
    scores = "; ".join(f"{describe(tried)}: {_shown(s, '.4f')}" for tried, s in choice.scores)
    chosen = describe(choice.chosen) if choice.chosen is not None else "nothing, all failed"
    note = f"tuned for {name}: {chosen} (validation {metric}: {scores})"
    if choice.at_edge:
        note += f"; {' and '.join(choice.at_edge)} at the edge of what was tried"
    return note


def _budget_note(study: Study, standing: Standing) -> str:
    """Say what tuning cost."""
    settings, seeds = (study.tuning.settings, study.tuning.seeds) if study.tuning else ({}, ())
    ended = [record for _, record in standing.trials if record]
    seconds = sum(record.measured.seconds for record in ended if record.measured)
    return (
        f"tuning budget: {len(ended)} of {len(standing.trials)} runs, {seconds:,.0f} s, with "
        f"{describe(settings) or 'the settings of the study'}, seeds {', '.join(map(str, seeds))}; "
        f"chosen by validation data alone"
    )


# ------------------------------------------------------------------ text


def _runs(count: int) -> str:
    """Count runs."""
    return f"{count} run" + "s" * (count != 1)


def _level(line: Line) -> str:
    """Write a field's mean with its interval; the best in bold."""
    text = _plus_minus(line.mean, line.half_width)
    return _Bold(text) if line.best else text


def _plus_minus(mean: float | None, half_width: float | None, *, sign: str = "") -> str:
    """Write a mean with its half-width."""
    if mean is None:
        return _ABSENT
    return f"{mean:{sign}.4f}" + (f" ± {half_width:.4f}" if half_width is not None else "")


def _shown(value: float | None, form: str) -> str:
    """Write a number, or that there is none."""
    return _ABSENT if value is None else f"{value:{form}}"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]], *, names: int) -> str:
    """Write a table: names to the left, numbers to the right."""
    rule = ["---"] * names + ["--:"] * (len(head) - names)
    rows = [[_cell(value) for value in row] for row in (head, *body)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def _cell(value: str) -> str:
    """Write a field of a table."""
    text = _plain(value).replace("|", "\\|")
    return f"**{text}**" if isinstance(value, _Bold) else text


def _group(title: str, items: Sequence[str]) -> list[str]:
    """Write items below their title."""
    return [*_bullets([title]), *(f"  {line}" for line in _bullets(items))]


def _bullets(items: Sequence[str]) -> list[str]:
    """Write a list."""
    return [f"- {_plain(item)}" for item in items]


def _plain(text: str) -> str:
    """Keep text on one line, and GitHub from reading marks into it."""
    line = " ".join(text.split())
    for mark in "<*`":
        line = line.replace(mark, f"\\{mark}")
    return line
