"""What a study's report is made of: plain data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A row of the table after a round, mean over its runs.

    Attributes:
        round: The round, from 1.
        value: Of the metric.
        sent: Bytes until then, both directions; None where that is secret or nothing travels.
    """

    round: int
    value: float
    sent: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One field of the study's table; None where nothing was measured.

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
        bytes_per_message: Mean over the runs.
        times_fewer: Bytes of a message of full fine-tuning over these.
        run_bytes: Of all messages of a run, mean over the runs.
        examples: Training examples processed, mean over the runs.
        seconds: Mean over the runs.
        best: Whether it is surely better than every other field of its column and group.
        moments: What its runs measured round by round.
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
    bytes_per_message: float | None
    times_fewer: float | None
    run_bytes: float | None
    examples: float | None
    seconds: float | None
    best: bool = False
    moments: Sequence[Moment] = ()

    @property
    def drawn(self) -> bool:
        """Whether there is a mean that a picture can show."""
        return self.mean is not None and math.isfinite(self.mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """One run of a study.

    Attributes:
        name: Row, column and seed.
        status: "finished", "failed", "crashed", or "left" for one that has not ended.
        value: Of the study's metric; None where it was not measured.
        seconds: How long it took; likewise.
        sent: Bytes, both directions; likewise.
        run: Name of its folder; empty if it has none.
        problem: Why it did not finish.
        tuning: Whether it only chose settings.
    """

    name: str
    status: str
    value: float | None = None
    seconds: float | None = None
    sent: float | None = None
    run: str = ""
    problem: str = ""
    tuning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStory:
    """A study, as plain data.

    Attributes:
        name: Its name.
        metric: What its table shows.
        lower_is_better: Whether less of it is better.
        curve_metric: What its rows measured round by round; empty if nothing.
        row_title: What tells rows apart.
        column_title: What tells columns apart; empty where there is one.
        baseline: The row that others are compared with; empty = none.
        nodes: Simulated nodes of its runs, rising.
        seeds: Its seeds.
        rows: The fields of its table.
        runs: Its runs, those of tuning too.
        notes: What the numbers are, each note with items below it.
        settings: What its file sets in every run.
        varied: What its file varies: key → values.
        environment: What made the numbers → how many runs.
        command: What to type to run what is left of it.
    """

    name: str
    metric: str
    curve_metric: str
    row_title: str
    column_title: str
    baseline: str
    nodes: Sequence[int]
    seeds: Sequence[int]
    rows: Sequence[Row]
    runs: Sequence[StudyRun]
    notes: Sequence[tuple[str, Sequence[str]]]
    settings: Mapping[str, Any]
    varied: Mapping[str, Sequence[Any]]
    environment: Mapping[str, int] = field(default_factory=dict)
    command: str = ""
    lower_is_better: bool = False
