"""A study as it stands → the plain data of its report."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import accumulate
from math import isfinite
from statistics import fmean
from typing import Any

from fedpeft_app.observe.report.study import Moment, Row, StudyRun, StudyStory
from fedpeft_app.studies.conduct import Slot, Standing
from fedpeft_app.studies.page import gaps, made_with, metric_title, notes
from fedpeft_app.studies.plan import Plan
from fedpeft_app.studies.record import Record
from fedpeft_app.studies.study import NODES, USUAL_NODES
from fedpeft_app.studies.table import Line, lines


def study_story(plan: Plan, now: Standing, *, command: str) -> StudyStory:
    """Collect what a study's report is made of.

    Args:
        plan: The study.
        now: How it stands: finished, failed in parts, or still under way.
        command: What to type to run it, or what is left of it.
    """
    study, layout = plan.study, plan.study.layout
    table = lines(study, now)
    placed: dict[tuple[str, str], list[Slot]] = {}
    for slot in now.slots:
        placed.setdefault((slot.entry.row, slot.entry.column), []).append(slot)
    split = _split(now, layout.metric)
    return StudyStory(
        name=study.name,
        metric=metric_title(study),
        curve_metric=f"{split} {layout.metric}" if split else "",
        row_title=", ".join(layout.rows) or "cell",
        column_title=", ".join(layout.columns),
        baseline=layout.baseline,
        nodes=sorted({int(slot.entry.settings.get(NODES, USUAL_NODES)) for slot in now.slots}),
        seeds=study.seeds,
        rows=[_row(line, placed[line.row, line.column], split, layout.metric) for line in table],
        runs=[
            *(_of_slot(slot, layout.metric) for slot in now.slots),
            *(_of_trial(cell.name, record) for cell, record in now.trials),
        ],
        notes=[*((one, ()) for one in notes(study, now, table)), *gaps(study, now, table)],
        settings={key: value for key, value in study.config.items() if key != NODES},
        varied=study.grid,
        environment=made_with(now),
        command=command,
        lower_is_better=layout.lower_is_better,
    )


def _row(line: Line, slots: Sequence[Slot], split: str, metric: str) -> Row:
    """Add to a line of the table what its runs measured round by round."""
    numbers: dict[str, Any] = {one.name: getattr(line, one.name) for one in fields(Line)}
    records = [slot.record for slot in slots if slot.record and slot.record.measured]
    return Row(**numbers, moments=_moments(records, split, metric) if split else ())


def _split(now: Standing, metric: str) -> str:
    """Choose what curves show: test data where rounds measured them, else validation data."""
    measured = [slot.record.measured for slot in now.slots if slot.record and slot.record.measured]
    for split in ("test", "validation"):
        if any(metric in (event.get(split) or {}) for run in measured for event in run.rounds):
            return split
    return ""


def _moments(runs: Sequence[Record], split: str, metric: str) -> list[Moment]:
    """Average runs, round by round, as long as all of them have a figure."""
    found: dict[int, list[tuple[float, float | None]]] = {}
    for run in runs:
        for event, bytes_ in _so_far(run):
            value = (event.get(split) or {}).get(metric)
            if value is not None and isfinite(value):
                found.setdefault(event["round"], []).append((value, bytes_))
    moments = []
    for number, values in sorted(found.items()):
        if len(values) < len(runs):  # a mean over fewer seeds would jump
            continue
        bytes_told = [sent for _, sent in values if sent is not None]
        whole = len(bytes_told) == len(values)
        moments.append(
            Moment(
                round=number,
                value=fmean(value for value, _ in values),
                sent=fmean(bytes_told) if whole else None,
            )
        )
    return moments


def _so_far(run: Record) -> list[tuple[Mapping[str, Any], float | None]]:
    """Give each round with the bytes until its end; None where one does not tell, or needs none."""
    rounds = run.measured.rounds if run.measured else ()
    if not run.federated or any(
        event.get(way) is None for event in rounds for way in ("down", "up")
    ):
        return [(event, None) for event in rounds]
    sums = accumulate(float(event["down"] + event["up"]) for event in rounds)
    return list(zip(rounds, sums, strict=True))


def _of_slot(slot: Slot, metric: str) -> StudyRun:
    """Sum one of the study's own runs up."""
    name = f"{slot.entry.name}, seed {slot.seed}"
    if slot.record is None:
        return StudyRun(name=name, status="left")
    measured = slot.record.measured
    return StudyRun(
        name=name,
        status=slot.record.status,
        value=measured.figure(metric) if measured else None,
        **_ended(slot.record),
    )


def _of_trial(name: str, record: Record | None) -> StudyRun:
    """Sum a run of tuning up; its figure is among the notes, on validation data."""
    if record is None:
        return StudyRun(name=name, status="left", tuning=True)
    return StudyRun(name=name, status=record.status, tuning=True, **_ended(record))


def _ended(record: Record) -> Mapping[str, Any]:
    """Give what is known of any run that ended."""
    measured, sent = record.measured, None
    if measured and record.federated and measured.down is not None and measured.up is not None:
        sent = measured.down + measured.up
    return {
        "seconds": measured.seconds if measured else None,
        "sent": sent,
        "run": record.run,
        "problem": record.reason,
    }
