"""Records → one table, as Markdown for people and CSV for programs."""

import csv
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.studies.conduct import Slot, Standing
from fedpeft_app.studies.grid import describe
from fedpeft_app.studies.intervals import interval, paired
from fedpeft_app.studies.record import Record
from fedpeft_app.studies.study import Study
from fedpeft_app.studies.tuning import Choice

_ABSENT = "–"
_READING = (
    "mean ± half-width of the 95 % interval over seeds (Student's t); one run alone has no "
    "interval; – was not measured; bytes as Flower serialises them; mode = local: mean over nodes"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One field of the table in full; None where nothing was measured.

    Attributes:
        row: Its row.
        column: Its column; empty where there is one.
        planned: Runs that the study asks for.
        runs: Runs that were measured.
        mean: Mean of the metric over the runs' seeds.
        half_width: Of its 95 % interval.
        difference: Mean difference to the baseline, seed by seed.
        difference_half_width: Of its 95 % interval.
        trainable: Parameters that train.
        examples: Training examples processed, mean over the runs.
        bytes_per_message: Mean over the runs; None where no message would travel.
        times_fewer: Bytes of a message of full fine-tuning, as this study measured them, over
            these.
        seconds: Mean over the runs.
    """

    row: str
    column: str
    planned: int
    runs: int
    mean: float | None
    half_width: float | None
    difference: float | None
    difference_half_width: float | None
    trainable: int | None
    examples: float | None
    bytes_per_message: float | None
    times_fewer: float | None
    seconds: float | None


def lines(study: Study, standing: Standing) -> list[Line]:
    """Sum every field of the table up.

    Args:
        study: What the file says.
        standing: How the study stands.
    """
    placed: dict[tuple[str, str], list[Slot]] = {}
    for slot in standing.slots:
        placed.setdefault((slot.entry.row, slot.entry.column), []).append(slot)
    return [
        _line(
            study,
            slots,
            baseline=placed.get((study.layout.baseline, column), []),
            full=[slot for slot in standing.slots if slot.entry.column == column],
        )
        for (_, column), slots in placed.items()
    ]


def to_csv(table: Sequence[Line]) -> str:
    """Write lines as CSV: numbers in full, nothing where nothing was measured.

    Args:
        table: The lines.
    """
    names = [field.name for field in fields(Line)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(line, name) for name in names] for line in table)
    return text.getvalue()


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
    parts += [_details(study, table), "\n".join(f"- {note}" for note in _notes(study, standing))]
    return "\n\n".join(parts) + "\n"


def missing(study: Study, standing: Standing) -> list[str]:
    """Say for each run without the metric why it has none.

    Args:
        study: What the file says.
        standing: How the study stands.
    """
    return [
        f"{slot.entry.name}, seed {slot.seed}: {reason}"
        for slot in standing.slots
        if (reason := _absence(study, slot))
    ]


# ------------------------------------------------------------------ numbers


def _line(
    study: Study, slots: Sequence[Slot], *, baseline: Sequence[Slot], full: Sequence[Slot]
) -> Line:
    """Sum one field up."""
    values = _values(study, slots)
    finished = [slot.record for slot in slots if slot.seed in values and slot.record]
    measured = [record.measured for record in finished if record.measured]
    against = _values(study, baseline) if slots[0].entry.row != study.layout.baseline else {}
    level, difference = interval(list(values.values())), paired(values, against)
    message, full_message = _message_bytes(finished), _message_bytes(_full_runs(full))
    return Line(
        row=slots[0].entry.row,
        column=slots[0].entry.column,
        planned=len(slots),
        runs=len(values),
        mean=level.mean if level else None,
        half_width=level.half_width if level else None,
        difference=difference.mean if difference else None,
        difference_half_width=difference.half_width if difference else None,
        trainable=measured[0].trainable if measured else None,
        examples=_mean(run.examples for run in measured),
        bytes_per_message=message,
        times_fewer=full_message / message if full_message and message else None,
        seconds=_mean(run.seconds for run in measured),
    )


def _values(study: Study, slots: Iterable[Slot]) -> dict[int, float]:
    """Collect the metric by seed, where it was measured."""
    values = {}
    for slot in slots:
        measured = slot.record.measured if slot.record else None
        if measured and study.layout.metric in measured.test:
            values[slot.seed] = measured.test[study.layout.metric]
    return values


def _full_runs(slots: Iterable[Slot]) -> list[Record]:
    """Collect the finished federated runs of full fine-tuning."""
    return [
        slot.record
        for slot in slots
        if slot.record
        and slot.record.measured
        and slot.record.settings.get("method.name") == "full"
    ]


def _message_bytes(records: Iterable[Record]) -> float | None:
    """Average the bytes of a message over federated runs."""
    return _mean(
        record.measured.bytes_per_message
        for record in records
        if record.federated and record.measured
    )


def _mean(values: Iterable[float]) -> float | None:
    """Average what there is."""
    found = list(values)
    return statistics.fmean(found) if found else None


def _absence(study: Study, slot: Slot) -> str:
    """Say why a run gives the table nothing; empty if it does."""
    if slot.cell is None:
        return "tuning has chosen nothing yet"
    if slot.record is None:
        return "not run"
    if slot.record.measured is None:
        return f"{slot.record.status}: {slot.record.problem.splitlines()[0]}"
    known = ", ".join(slot.record.measured.test) or "nothing"
    metric = study.layout.metric
    return "" if metric in slot.record.measured.test else f"no '{metric}' on the test set, {known}"


# ------------------------------------------------------------------ text


def _pivot(study: Study, table: Sequence[Line]) -> str:
    """Write the metric alone by row and column."""
    columns = list(dict.fromkeys(line.column for line in table))
    rows = list(dict.fromkeys(line.row for line in table))
    shown = {(line.row, line.column): _plus_minus(line.mean, line.half_width) for line in table}
    head = [f"test {study.layout.metric}", *columns]
    body = [[row, *(shown.get((row, column), "") for column in columns)] for row in rows]
    return _markdown(head, body)


def _details(study: Study, table: Sequence[Line]) -> str:
    """Write all numbers, a line each."""
    by_column, compared = bool(study.layout.columns), bool(study.layout.baseline)
    head = [", ".join(study.layout.rows) or "cell"]
    head += [", ".join(study.layout.columns)] * by_column
    head += [f"test {study.layout.metric}", "n"]
    head += [f"difference to {study.layout.baseline}"] * compared
    head += ["parameters", "bytes per message", "times fewer", "examples trained", "seconds"]
    body = []
    for line in table:
        row = [line.row] + [line.column] * by_column
        row += [_plus_minus(line.mean, line.half_width), f"{line.runs} of {line.planned}"]
        row += [_plus_minus(line.difference, line.difference_half_width, sign="+")] * compared
        row += [
            _shown(line.trainable, ","),
            human_bytes(line.bytes_per_message) if line.bytes_per_message else _ABSENT,
            _shown(line.times_fewer, ",.1f"),
            _shown(line.examples, ",.0f"),
            _shown(line.seconds, ",.0f"),
        ]
        body.append(row)
    return _markdown(head, body)


def _notes(study: Study, standing: Standing) -> list[str]:
    """Say what the numbers are, what was chosen, what is missing, and what made them."""
    notes = [_READING]
    if study.layout.baseline:
        notes.append(f"differences to {study.layout.baseline} are paired by seed")
    notes += [_choice_note(study, choice) for choice in standing.choices]
    if study.tuning:
        notes.append(_budget_note(study, standing))
    absent = missing(study, standing)
    notes += [f"{len(absent)} of {len(standing.slots)} runs missing:"] * bool(absent)
    notes += [f"missing: {reason}" for reason in absent]
    records = [slot.record for slot in standing.slots if slot.record]
    made_with = sorted({describe(record.made_with) for record in records})
    return notes + [f"made with {versions}" for versions in made_with]


def _choice_note(study: Study, choice: Choice) -> str:
    """Say what was chosen for a group, among what."""
    name = describe(choice.group) or "all"
    metric = study.tuning.metric if study.tuning else ""
    scores = "; ".join(f"{describe(tried)}: {_shown(s, '.4f')}" for tried, s in choice.scores)
    chosen = describe(choice.chosen) if choice.chosen is not None else "nothing, all failed"
    return f"tuned for {name}: {chosen} (validation {metric}: {scores})"


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


def _plus_minus(mean: float | None, half_width: float | None, *, sign: str = "") -> str:
    """Write a mean with its half-width."""
    if mean is None:
        return _ABSENT
    return f"{mean:{sign}.4f}" + (f" ± {half_width:.4f}" if half_width is not None else "")


def _shown(value: float | None, form: str) -> str:
    """Write a number, or that there is none."""
    return _ABSENT if value is None else f"{value:{form}}"


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Write a table."""
    rows = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(_cell(value) for value in row)} |" for row in rows)


def _cell(value: str) -> str:
    """Keep a value within one cell of a Markdown table."""
    return " ".join(value.split()).replace("|", "\\|")
