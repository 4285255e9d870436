"""What a study file says, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedpeft_app.config import defaults
from fedpeft_app.config.flat import Scalar

NODES = "nodes"  # simulated nodes of a run: a key of studies, not of configurations
USUAL_NODES = 10
Settings = Mapping[str, Scalar]  # dotted configuration key, or NODES → value


def usual() -> dict[str, Scalar]:
    """Give every key that a study may vary, with its default."""
    return {**defaults(), NODES: USUAL_NODES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Which settings something applies to.

    Attributes:
        wanted: Key → the values that fit; all keys must fit, and none fits everything.
    """

    wanted: Mapping[str, tuple[Scalar, ...]]

    def fits(self, settings: Settings) -> bool:
        """Say whether settings meet the condition.

        Args:
            settings: Every key that the condition names, at least.
        """
        return all(settings[key] in values for key, values in self.wanted.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Settings of only some entries."""

    when: Condition
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """A row, or a field of one, beside the grid.

    Attributes:
        row: Its row's name.
        settings: What it sets; wins over overrides and tuned values.
        seeds: Its seeds; None = the study's.
    """

    row: str
    settings: Settings
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Values to choose among.

    Attributes:
        when: Which entries are tuned so.
        values: Key → values; several keys are tried in every combination.
    """

    when: Condition
    values: Mapping[str, tuple[Scalar, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How values are chosen before the study's own runs, by validation data alone.

    Attributes:
        metric: Validation metric that chooses, as for `evaluate.select-by`; empty = what
            chooses the best round of the tuning runs, settled when the study is planned.
        seeds: Seeds of the tuning runs.
        per: Keys; entries that agree in them are tuned together.
        settings: The budget: settings of the tuning runs alone, such as fewer rounds.
        searches: What is tried.
        lower_is_better: Whether less of the metric is better; settled with it.
    """

    metric: str
    seeds: tuple[int, ...]
    per: tuple[str, ...]
    settings: Settings
    searches: tuple[Search, ...]
    lower_is_better: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How results are laid out.

    Attributes:
        rows: Grid keys whose values make a row.
        columns: Grid keys whose values make a column.
        metric: A metric of the task, on the server's test set, or one of `CLIENT_METRICS`;
            empty = what all runs measure, settled when the study is planned.
        baseline: Row that the others are compared with; empty = none.
        node_metric: The metric of the task that `CLIENT_METRICS` are of; settled like `metric`.
        lower_is_better: Whether less of the metric is better; settled with it.
    """

    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    metric: str = ""
    baseline: str = ""
    node_metric: str = "accuracy"
    lower_is_better: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A grid of runs.

    Attributes:
        name: Part of the names of folders and runs.
        seeds: Seeds of every entry of the grid.
        config: Settings of every run.
        grid: Key → values; all combinations are run, but for keys that go together.
        zips: Keys of the grid that go together: the first value of each, the second, ….
        overrides: Settings of only some runs; later ones win.
        excludes: Combinations that are left out.
        extras: Runs beside the grid.
        tuning: How values are chosen; None = nothing is.
        layout: Rows, columns and metric of the table.
    """

    name: str
    seeds: tuple[int, ...]
    config: Settings = field(default_factory=dict)
    grid: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    zips: tuple[tuple[str, ...], ...] = ()
    overrides: tuple[Override, ...] = ()
    excludes: tuple[Condition, ...] = ()
    extras: tuple[Extra, ...] = ()
    tuning: Tuning | None = None
    layout: Layout = field(default_factory=Layout)
