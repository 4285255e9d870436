"""TOML → a study, with every fault of the file at once."""

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedpeft_app.config.flat import Scalar, join
from fedpeft_app.errors import Fault, SourceError
from fedpeft_app.registry import near_miss
from fedpeft_app.studies.study import (
    NODES,
    Condition,
    Extra,
    Layout,
    Override,
    Search,
    Settings,
    Study,
    Tuning,
    usual,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}")  # leaves room for an id in output.name
_FEWEST_ZIPPED = 2  # keys of a [[zip]]
_SECTIONS = {  # table → the keys it may have; None = configuration keys
    "config": None,
    "grid": None,
    "zip": None,
    "override": ("when", "set"),
    "exclude": ("when",),
    "cell": ("row", "set", "seeds"),
    "tune": ("metric", "seeds", "per", "config", "search"),
    "table": ("rows", "columns", "metric", "baseline"),
}
_OWN = {  # configuration keys that are the study's own business
    "seed": "a study has `seeds`.",
    "output.name": "a study names its runs itself.",
}


def read_study(path: Path) -> tuple[Study, list[Fault]]:
    """Read a study file.

    Args:
        path: TOML.

    Returns:
        The study, as far as it can be understood, and everything that is wrong with it.

    Raises:
        SourceError: If the file cannot be read, or is not TOML.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"Cannot read the study {path}: {error.strerror}.") from error
    except ValueError as error:  # TOML or UTF-8
        raise SourceError(f"The study {path} is not valid TOML: {error}") from error
    reader = _Reader()
    return reader.study(raw), reader.faults


@dataclass(slots=True)
class _Reader:
    """Understands what it can and collects what is wrong."""

    faults: list[Fault] = field(default_factory=list)

    def study(self, raw: Mapping[str, Any]) -> Study:
        """Read the whole file."""
        self._known(raw, ("name", NODES, "seeds", *_SECTIONS), "")
        grid = self._choices(raw.get("grid", {}), "grid")
        zipped = [self._zip(place, item) for place, item in self._tables(raw, "zip")]
        zips = []
        for number, choices in enumerate(zipped, 1):
            doubled = grid.keys() & choices.keys()
            for key in doubled:
                self._fault(f"zip[{number}].{key}", choices[key], "is in [grid] or [[zip]] twice.")
            if choices and not doubled:
                grid |= choices
                zips.append(tuple(choices))
        layout = self._layout(self._table(raw, "table"), grid, zips)
        return Study(
            name=self._name(raw.get("name")),
            seeds=self._seeds(raw.get("seeds", [0]), "seeds"),
            config={**self._settings(raw.get("config", {}), "config"), **self._nodes(raw)},
            grid=grid,
            zips=tuple(zips),
            overrides=tuple(
                Override(
                    when=self._condition(item.get("when", {}), f"{place}.when"),
                    settings=self._settings(item.get("set", {}), f"{place}.set"),
                )
                for place, item in self._tables(raw, "override")
            ),
            excludes=tuple(
                self._condition(item.get("when", {}), f"{place}.when")
                for place, item in self._tables(raw, "exclude")
            ),
            extras=tuple(self._extra(place, item) for place, item in self._tables(raw, "cell")),
            tuning=self._tuning(raw, (*layout.rows, *layout.columns)) if "tune" in raw else None,
            layout=layout,
        )

    def _nodes(self, raw: Mapping[str, Any]) -> Settings:
        """Read how many nodes all runs have, if the file says it."""
        return {NODES: raw[NODES]} if NODES in raw and self._value(NODES, raw[NODES], "") else {}

    def _zip(self, place: str, item: Mapping[str, Any]) -> dict[str, tuple[Scalar, ...]]:
        """Read a [[zip]]: keys whose first values go together, and their second ones, …."""
        choices = self._choices(item, place, twice=True)
        if len(join(item)) < _FEWEST_ZIPPED:
            self._fault(place, item, "needs at least two keys, which go together.")
        if len({len(values) for values in choices.values()}) > 1:
            lengths = ", ".join(f"{key} {len(values)}" for key, values in choices.items())
            self._fault(place, lengths, "needs as many values of each key.")
            return {}
        rows = list(zip(*choices.values(), strict=True))
        if len(set(rows)) < len(rows):
            self._fault(place, dict(item), "has a combination twice.")
        return choices

    def _extra(self, place: str, item: Mapping[str, Any]) -> Extra:
        """Read a [[cell]]."""
        row = self._text(item, "row", f"{place}.row", "")
        if not row:
            self._fault(f"{place}.row", row, "must name the row that the cell is in.")
        seeds = self._seeds(item["seeds"], f"{place}.seeds") if "seeds" in item else None
        settings = self._settings(item.get("set", {}), f"{place}.set")
        return Extra(row=row, settings=settings, seeds=seeds)

    def _tuning(self, raw: Mapping[str, Any], default: tuple[str, ...]) -> Tuning:
        """Read [tune]; entries are told apart by `default` where it does not say."""
        table = self._table(raw, "tune")
        searches = [
            Search(
                when=self._condition(item.get("when", {}), f"{place}.when"),
                values=self._choices(
                    {key: value for key, value in item.items() if key != "when"}, place
                ),
            )
            for place, item in self._tables(table, "search", "tune.")
        ]
        if not searches:
            self._fault("tune.search", [], "expected at least one [[tune.search]].")
        return Tuning(
            metric=self._text(table, "metric", "tune.metric", ""),
            seeds=self._seeds(table.get("seeds", [0]), "tune.seeds"),
            per=self._keys(table.get("per", list(default)), "tune.per"),
            settings=self._settings(table.get("config", {}), "tune.config"),
            searches=tuple(searches),
        )

    def _layout(
        self, table: Mapping[str, Any], grid: Mapping[str, Any], zips: Sequence[Sequence[str]]
    ) -> Layout:
        """Read [table]; rows are all keys of the grid that are no columns, of a zip the first."""
        columns = self._keys(table.get("columns", []), "table.columns")
        hidden = {key for keys in zips for key in keys[1:]}
        hidden |= {key for keys in zips if {*keys} & {*columns} for key in keys}
        rows = [key for key in grid if key not in {*columns, *hidden}]
        return Layout(
            rows=self._keys(table.get("rows", rows), "table.rows"),
            columns=columns,
            metric=self._text(table, "metric", "table.metric", ""),
            baseline=self._text(table, "baseline", "table.baseline", ""),
        )

    # -------------------------------------------------------------- pieces

    def _settings(self, value: Any, place: str) -> Settings:
        """Read keys with one value each."""
        return {
            key: item
            for key, item in self._configuration(value, place).items()
            if self._value(key, item, place)
        }

    def _choices(
        self, value: Any, place: str, *, twice: bool = False
    ) -> dict[str, tuple[Scalar, ...]]:
        """Read keys with a list of values each, different ones unless they may come twice."""
        choices: dict[str, tuple[Scalar, ...]] = {}
        for key, items in self._configuration(value, place).items():
            if not isinstance(items, list) or not items:
                self._fault(f"{place}.{key}", items, "must be a list of values, not empty.")
            elif all(self._value(key, item, place) for item in items):
                if len(set(items)) < len(items) and not twice:
                    self._fault(f"{place}.{key}", items, "has a value twice.")
                choices[key] = tuple(items if twice else dict.fromkeys(items))
        return choices

    def _condition(self, value: Any, place: str) -> Condition:
        """Read keys with one value or a list of values that fit."""
        wanted = {}
        for key, items in self._configuration(value, place).items():
            values = items if isinstance(items, list) else [items]
            if all(self._value(key, item, place) for item in values):
                wanted[key] = tuple(values)
        if not wanted and value == {}:
            self._fault(place, value, "must name a key and the values that fit.")
        return Condition(wanted=wanted)

    def _configuration(self, value: Any, place: str) -> dict[str, Any]:
        """Flatten a table of configuration keys, without those that a study may not set."""
        if not isinstance(value, dict):
            self._fault(place, value, "must be a table of configuration keys.")
            return {}
        flat = join(value)
        self._known(flat, usual(), f"{place}.")
        for key in _OWN.keys() & flat.keys():
            self._fault(f"{place}.{key}", flat[key], _OWN[key])
        return {key: item for key, item in flat.items() if key in usual() and key not in _OWN}

    def _keys(self, value: Any, place: str) -> tuple[str, ...]:
        """Read a configuration key, or a list of them."""
        keys = [value] if isinstance(value, str) else value
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            self._fault(place, value, "must be a configuration key or a list of them.")
            return ()
        for key in keys:
            if key not in usual():
                self._fault(place, key, f"unknown key.{near_miss(key, usual())}")
        return tuple(key for key in keys if key in usual())

    def _table(self, raw: Mapping[str, Any], name: str) -> dict[str, Any]:
        """Take a table with keys of a study's own."""
        table = raw.get(name, {})
        if not isinstance(table, dict):
            self._fault(name, table, "must be a table.")
            return {}
        self._known(table, _SECTIONS[name] or (), f"{name}.")
        return table

    def _tables(
        self, raw: Mapping[str, Any], name: str, prefix: str = ""
    ) -> list[tuple[str, dict[str, Any]]]:
        """Take an array of tables, each with its place."""
        tables = raw.get(name, [])
        if not isinstance(tables, list) or not all(isinstance(item, dict) for item in tables):
            self._fault(f"{prefix}{name}", tables, f"must be tables, each [[{prefix}{name}]].")
            return []
        placed = [(f"{prefix}{name}[{number}]", item) for number, item in enumerate(tables, 1)]
        for place, item in placed:
            if keys := _SECTIONS.get(name):
                self._known(item, keys, f"{place}.")
        return placed

    def _name(self, value: Any) -> str:
        """Read the study's name, which becomes part of file names."""
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            problem = "must be 1 to 50 letters, digits, '.', '_' or '-', no mark first."
            self._fault("name", value, problem)
            return "study"
        return value

    def _text(self, table: Mapping[str, Any], key: str, place: str, default: str) -> str:
        """Read text."""
        value = table.get(key, default)
        if not isinstance(value, str):
            self._fault(place, value, "must be text.")
            return default
        return value

    def _seeds(self, value: Any, place: str) -> tuple[int, ...]:
        """Read seeds."""
        whole = isinstance(value, list) and all(
            type(seed) is int and 0 <= seed < 2**63 for seed in value
        )
        if not whole or not value or len(set(value)) < len(value):
            self._fault(place, value, "must be a list of different whole numbers from 0.")
            return (0,)
        return tuple(value)

    def _value(self, key: str, value: Any, table: str) -> bool:
        """Say whether a value is one that a key of a table can have."""
        if key == NODES:
            fits, kind = type(value) is int and value > 0, "a whole number from 1."
        else:
            fits, kind = (
                isinstance(value, str | int | float | bool),
                "text, a number, true or false.",
            )
        if not fits:
            self._fault(f"{table}.{key}".lstrip("."), value, f"must be {kind}")
        return fits

    def _known(self, given: Mapping[str, Any], known: Collection[str], prefix: str) -> None:
        """Refuse unknown keys."""
        for key, value in given.items():
            if key not in known:
                self._fault(f"{prefix}{key}", value, f"unknown key.{near_miss(key, known)}")

    def _fault(self, key: str, value: object, problem: str) -> None:
        """Note what is wrong."""
        self.faults.append(Fault(key=key, value=value, problem=problem))
