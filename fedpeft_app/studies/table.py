"""Records → the numbers of one table, and CSV for programs."""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from fedpeft_app.studies.conduct import Slot, Standing
from fedpeft_app.studies.intervals import interval, paired
from fedpeft_app.studies.metrics import CLIENT_METRICS
from fedpeft_app.studies.record import Record
from fedpeft_app.studies.study import Study

_FEWEST_SEEDS = 3  # for a row to be called the best
_ROUNDING = 1e-9  # of means; intervals below it have no width


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One field of the table in full; None where nothing was measured.

    Attributes:
        row: Its row.
        column: Its column; empty where there is one.
        group: What its row learns from, where rows differ in that; empty where they do not.
        series: Its row's name without that.
        planned: Runs that the study asks for.
        runs: Runs that were measured.
        mean: Mean of the metric over the runs' seeds.
        half_width: Of its 95 % interval.
        difference: Mean difference to the baseline, seed by seed.
        difference_half_width: Of its 95 % interval.
        trainable: Parameters that train.
        examples: Training examples processed, mean over the runs; None where nodes do not tell.
        bytes_per_message: Mean over the runs; None where no message would travel.
        run_bytes: Of all messages of a run, both directions, mean over the runs; None where
            nothing but the roll call travels, or where it is secret.
        times_fewer: Bytes of a message of full fine-tuning, as this study measured them, over
            these.
        seconds: Mean over the runs.
        best: Whether it is better than every other field of its column and group with the same
            seeds: by the 95 % intervals of the differences, seed by seed.
    """

    row: str
    column: str
    group: str
    series: str
    planned: int
    runs: int
    mean: float | None
    half_width: float | None
    difference: float | None
    difference_half_width: float | None
    trainable: int | None
    examples: float | None
    bytes_per_message: float | None
    run_bytes: float | None
    times_fewer: float | None
    seconds: float | None
    best: bool


def lines(study: Study, standing: Standing) -> list[Line]:
    """Sum every field of the table up.

    Args:
        study: What the file says.
        standing: How the study stands.
    """
    placed: dict[tuple[str, str], list[Slot]] = {}
    for slot in standing.slots:
        placed.setdefault((slot.entry.row, slot.entry.column), []).append(slot)
    found = {place: _values(study, slots) for place, slots in placed.items()}
    seeds = {place: {slot.seed for slot in slots} for place, slots in placed.items()}
    peers: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for place, slots in placed.items():
        peers.setdefault((slots[0].entry.group, place[1]), []).append(place)
    return [
        _line(
            study,
            placed[place],
            peers=[slot for other in alike for slot in placed[other]],
            others=[
                found[other] for other in alike if other != place and seeds[other] == seeds[place]
            ],
        )
        for place, alike in (
            (place, peers[slots[0].entry.group, place[1]]) for place, slots in placed.items()
        )
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


def missing(study: Study, standing: Standing) -> list[str]:
    """Say of the runs without the metric why they have none, those of a field together.

    Args:
        study: What the file says.
        standing: How the study stands.
    """
    seeds: dict[tuple[str, str], list[str]] = {}
    for slot in standing.slots:
        if reason := _absence(study, slot):
            seeds.setdefault((slot.entry.name, reason), []).append(str(slot.seed))
    return [
        f"{name}, seed{'s' * (len(of) > 1)} {', '.join(of)}: {reason}"
        for (name, reason), of in seeds.items()
    ]


# ------------------------------------------------------------------ numbers


def _line(
    study: Study,
    slots: Sequence[Slot],
    *,
    peers: Sequence[Slot],
    others: Sequence[Mapping[int, float]],
) -> Line:
    """Sum one field up, given the runs of its column and group, its own among them."""
    values, entry, name = _values(study, slots), slots[0].entry, study.layout.baseline
    baseline = [slot for slot in peers if name and slot.entry.row == name]
    baseline = baseline or [slot for slot in peers if name and slot.entry.series == name]
    finished = [slot.record for slot in slots if slot.seed in values and slot.record]
    measured = [record.measured for record in finished if record.measured]
    against = _values(study, baseline) if slots[0] not in baseline else {}
    level, difference = interval(list(values.values())), paired(values, against)
    message, full_message = _message_bytes(finished), _message_bytes(_full_runs(peers))
    return Line(
        row=entry.row,
        column=entry.column,
        group=entry.group,
        series=entry.series,
        planned=len(slots),
        runs=len(values),
        mean=level.mean if level else None,
        half_width=level.half_width if level else None,
        difference=difference.mean if difference else None,
        difference_half_width=difference.half_width if difference else None,
        trainable=measured[0].trainable if measured else None,
        examples=_mean(run.examples for run in measured if run.examples is not None),
        bytes_per_message=message,
        run_bytes=_run_bytes(finished),
        times_fewer=full_message / message if full_message and message else None,
        seconds=_mean(run.seconds for run in measured),
        best=_is_best(values, others, lower_is_better=study.layout.lower_is_better),
    )


def _is_best(
    values: Mapping[int, float], others: Sequence[Mapping[int, float]], *, lower_is_better: bool
) -> bool:
    """Say whether values are better than all others, and surely so.

    Each comparison stands at 95 %; as all of them must hold, their number needs no correction.
    Nothing is sure that was not measured on all seeds, on fewer than three, or that differs by the
    same on each, as small test sets have it.
    """
    if len(values) < _FEWEST_SEEDS or any(other.keys() != values.keys() for other in others):
        return False
    sign = -1 if lower_is_better else 1
    gaps = [paired(values, other) for other in others]
    return bool(gaps) and all(
        gap is not None and gap.half_width and sign * gap.mean > gap.half_width > _ROUNDING
        for gap in gaps
    )


def _values(study: Study, slots: Iterable[Slot]) -> dict[int, float]:
    """Collect the metric by seed, where it was measured."""
    values = {}
    for slot in slots:
        measured = slot.record.measured if slot.record else None
        value = measured.figure(study.layout.metric) if measured else None
        if value is not None:
            values[slot.seed] = value
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


def _run_bytes(records: Iterable[Record]) -> float | None:
    """Average the bytes of whole federated runs."""
    measured = [record.measured for record in records if record.federated and record.measured]
    return _mean(
        run.down + run.up for run in measured if run.down is not None and run.up is not None
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
        return f"{slot.record.status}: {slot.record.reason}"
    measured, metric = slot.record.measured, study.layout.metric
    if measured.figure(metric) is not None:
        return ""
    known = [
        *measured.test,
        *(name for name in CLIENT_METRICS if measured.figure(name) is not None),
    ]
    return f"no {metric}, only: {', '.join(known) or 'nothing'}"
