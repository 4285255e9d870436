"""A study → the entries of its table, each a configuration to be run once per seed."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedpeft_app.config.flat import Scalar
from fedpeft_app.errors import Fault
from fedpeft_app.registry import near_miss
from fedpeft_app.studies.study import Condition, Search, Settings, Study, usual

_LEARNT = ("task", "data.")  # what a run learns from, and so how hard it is
_READ = frozenset({  # of these, how it is read, which is a choice like any other
    "data.image-size",
    "data.max-length",
    "data.node-test-fraction",
    "data.node-validation-fraction",
    "data.validation-fraction",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One field of the table.

    Attributes:
        row: Its row's name.
        column: Its column's name; empty where there is one column.
        settings: What the study sets, but for the seed and what is tuned.
        seeds: One run each.
        search: What is tuned first; None = nothing.
        group: What its row learns from, where rows differ in that; only rows of one group are
            compared with each other.
        series: Its row's name without the group.
    """

    row: str
    column: str
    settings: Settings
    seeds: tuple[int, ...]
    search: Search | None = None
    group: str = ""
    series: str = ""

    @property
    def name(self) -> str:
        """Row and column."""
        return f"{self.row} / {self.column}" if self.column else self.row


def expand(study: Study) -> tuple[Entry, ...]:
    """List the entries: the grid in the order it is written, then the extra cells.

    Args:
        study: The study. What is given for an entry itself, by the grid or in its own cell,
            wins over tuned values, those over overrides, and those over `config`.
    """
    inside = (
        _entry(study, point, _name(point, study.layout.rows), study.seeds)
        for point in _points(study)
        if not any(condition.fits(_full(study, point)) for condition in study.excludes)
    )
    beside = (
        _entry(study, extra.settings, extra.row, extra.seeds or study.seeds)
        for extra in study.extras
    )
    return (*inside, *beside)


def with_overrides(study: Study, given: Settings) -> dict[str, Scalar]:
    """Give an entry's settings, those that fit only some entries included.

    Args:
        study: The study.
        given: What is given for the entry itself.
    """
    full = _full(study, given)
    fitting = [override.settings for override in study.overrides if override.when.fits(full)]
    return {**study.config, **_merged(fitting), **given}


def find_search(study: Study, given: Settings) -> Search | None:
    """Find what is tuned for an entry; an entry that sets it itself is not tuned.

    Args:
        study: The study.
        given: What is given for the entry itself.
    """
    for search in study.tuning.searches if study.tuning else ():
        if search.when.fits(_full(study, given)):
            return None if given.keys() & search.values.keys() else search
    return None


def combinations(values: Mapping[str, Sequence[Scalar]]) -> Iterator[dict[str, Scalar]]:
    """Walk over all combinations, the last key fastest.

    Args:
        values: Key → its values.
    """
    for chosen in itertools.product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


def describe(settings: Settings) -> str:
    """Write settings for a person: `rounds = 3, method.name = lora`.

    Args:
        settings: Key → value.
    """
    return ", ".join(f"{key} = {shown(value)}" for key, value in settings.items())


def shown(value: Scalar) -> str:
    """Write a value, text without its quotes.

    Args:
        value: Of a key.
    """
    return value if isinstance(value, str) else json.dumps(value)


def grid_faults(study: Study, entries: Sequence[Entry]) -> list[Fault]:
    """List what is wrong with a study as a whole, each configuration apart.

    Args:
        study: The study.
        entries: Its entries.
    """
    return [
        *_overlaps(study),
        *_idle_conditions(study),
        *_rival_searches(study),
        *_nothing(entries),
        *_unplaced_keys(study),
        *_doubles(study, entries),
        *_baseline(study, entries),
    ]


def _points(study: Study) -> Iterator[dict[str, Scalar]]:
    """Walk over the grid, keys that go together at once; no grid has no points."""
    together = {key: keys for keys in study.zips for key in keys}
    groups = dict.fromkeys(together.get(key, (key,)) for key in study.grid)
    steps = [
        [
            dict(zip(keys, values, strict=True))
            for values in zip(*(study.grid[key] for key in keys), strict=True)
        ]
        for keys in groups
    ]
    for chosen in itertools.product(*steps) if steps else ():
        yield _merged(chosen)


def _entry(study: Study, given: Settings, row: str, seeds: tuple[int, ...]) -> Entry:
    """Complete what is given for an entry."""
    settings, grouping = with_overrides(study, given), _grouping(study)
    group = _name({**usual(), **settings}, grouping)
    series = row.removeprefix(f"{group}, ")
    if row == _name(given, study.layout.rows):
        series = _name(given, (key for key in study.layout.rows if key not in grouping))
    return Entry(
        row=row,
        column=_name({**usual(), **settings}, study.layout.columns),
        settings=settings,
        seeds=seeds,
        search=find_search(study, given),
        group=group,
        series=series,
    )


def _grouping(study: Study) -> tuple[str, ...]:
    """List the keys of rows that say what is learnt; none if rows have no others."""
    rows = study.layout.rows
    keys = tuple(key for key in rows if key.startswith(_LEARNT) and key not in _READ)
    return keys if len(keys) < len(rows) else ()


def _full(study: Study, given: Settings) -> dict[str, Scalar]:
    """Give every key that conditions look at."""
    return {**usual(), **study.config, **given}


def _name(settings: Settings, keys: Iterable[str]) -> str:
    """Join the values of keys."""
    return ", ".join(shown(settings[key]) for key in keys if key in settings)


def _merged(parts: Iterable[Settings]) -> dict[str, Scalar]:
    """Join settings; later ones win."""
    return {key: value for part in parts for key, value in part.items()}


def _overlaps(study: Study) -> Iterator[Fault]:
    """A key that the grid varies cannot be set beside it."""
    others = [("config", study.config)]
    others += [(f"override[{n}].set", o.settings) for n, o in enumerate(study.overrides, 1)]
    searches = study.tuning.searches if study.tuning else ()
    others += [
        (f"tune.search[{n}]", dict.fromkeys(s.values, "")) for n, s in enumerate(searches, 1)
    ]
    for place, settings in others:
        for key in settings.keys() & study.grid.keys():
            yield Fault(
                key=f"{place}.{key}",
                value=settings[key],
                problem="is in [grid], which would win. Take it out of one of the two.",
            )


def _idle_conditions(study: Study) -> Iterator[Fault]:
    """A condition that nothing fits is a slip of the pen."""
    grid = [_full(study, point) for point in _points(study)]
    given = [_full(study, extra.settings) for extra in study.extras]
    searches = study.tuning.searches if study.tuning else ()
    placed: list[tuple[str, Condition, list[dict[str, Scalar]]]] = [
        *((f"override[{n}]", o.when, grid + given) for n, o in enumerate(study.overrides, 1)),
        *((f"exclude[{n}]", condition, grid) for n, condition in enumerate(study.excludes, 1)),
        *((f"tune.search[{n}]", s.when, grid + given) for n, s in enumerate(searches, 1)),
    ]
    for place, condition, candidates in placed:
        if not any(condition.fits(candidate) for candidate in candidates):
            wanted = {key: list(values) for key, values in condition.wanted.items()}
            yield Fault(key=f"{place}.when", value=wanted, problem="fits no cell of the study.")


def _rival_searches(study: Study) -> Iterator[Fault]:
    """What is tuned must be plain."""
    given = [*_points(study), *(extra.settings for extra in study.extras)]
    for settings in given:
        searches = study.tuning.searches if study.tuning else ()
        if sum(search.when.fits(_full(study, settings)) for search in searches) > 1:
            problem = "several searches fit this cell; each may have one."
            yield Fault(key="tune.search", value=describe(settings), problem=problem)


def _nothing(entries: Sequence[Entry]) -> Iterator[Fault]:
    """A study has cells."""
    if not entries:
        yield Fault(key="grid", value={}, problem="there is no cell: give [grid] or [[cell]].")


def _unplaced_keys(study: Study) -> Iterator[Fault]:
    """Cells that differ only in a key that the table does not show would be averaged."""
    placed = {*study.layout.rows, *study.layout.columns}
    for keys in study.zips:
        shown = [study.grid[key] for key in keys if key in placed]
        if len(set(zip(*shown, strict=True))) == len(study.grid[keys[0]]):
            placed |= {*keys}  # what is shown of them tells them apart
    for key, values in study.grid.items():
        if key not in placed and len(values) > 1:
            yield Fault(
                key=f"grid.{key}",
                value=list(values),
                problem="is in neither table.rows nor table.columns. Add it to one of them.",
            )
    for key in study.layout.rows:
        if key not in study.grid:
            yield Fault(key="table.rows", value=key, problem="rows are made of keys in [grid].")


def _doubles(study: Study, entries: Sequence[Entry]) -> Iterator[Fault]:
    """A field of the table holds one configuration."""
    first = len(entries) - len(study.extras)
    names = [entry.name for entry in entries]
    for number, name in enumerate(names[first:], 1):
        if name in names[: first + number - 1]:
            problem = "another cell has this row and column. Give one of them another name."
            yield Fault(key=f"cell[{number}].row", value=name, problem=problem)
    called: dict[tuple[str, str], str] = {}
    for number, entry in enumerate(entries, 1 - first):
        other = called.setdefault((entry.group, entry.series), entry.row)
        if other != entry.row:
            problem = f"means {other!r}, which learns from the same. Give it another name."
            yield Fault(key=f"cell[{number}].row", value=entry.row, problem=problem)


def _baseline(study: Study, entries: Sequence[Entry]) -> Iterator[Fault]:
    """The baseline is one of the rows, or in every group one."""
    rows = list(dict.fromkeys(name for entry in entries for name in (entry.row, entry.series)))
    name = study.layout.baseline
    if name and name not in rows:
        known = ", ".join(rows)
        problem = f"is no row. Rows: {known}.{near_miss(name, rows)}"
        yield Fault(key="table.baseline", value=name, problem=problem)
