"""Tables → texts and labels, with the row named when something is wrong."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedpeft_app.data.sources import Source
from fedpeft_app.data.tables import read_cardoso, read_hub, read_table
from fedpeft_app.errors import DataError

Ints = npt.NDArray[np.int64]
_FEWEST_LABELS = 2  # one label leaves nothing to learn
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns hold what.

    Attributes:
        text: Column of the text.
        label: Column of the label; blanks around a label do not count.
        group: Column whose values are natural nodes (a hospital, an author); "" = none.
        labels: Label names in order; empty = found in the data, sorted.
    """

    text: str = "text"
    label: str = "label"
    group: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """The examples of one split.

    Attributes:
        texts: One string per example.
        labels: Index into the label names, per example.
        groups: Natural node per example, or an empty list.
    """

    texts: list[str]
    labels: Ints
    groups: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """One split as strings, complete but with labels not yet looked up."""

    where: str
    texts: list[str]
    labels: list[str]
    groups: list[str]


def read(source: Source, columns: Columns) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """Read every split of a source.

    Args:
        source: What `find_source` found.
        columns: Column names (not used for pinned sources, which have fixed columns).

    Returns:
        Split → examples, and the label names in order.

    Raises:
        DataError: On a missing column, an empty text, label or group, a label outside the
            given names, or fewer than two labels; the message names file and row.

    Guarantee:
        The order of found label names depends on the names alone: numbers by value, other
        names by alphabet.
    """
    frames, columns = _frames(source, columns)
    splits = {
        split: _rows(frame, columns, str(source.files.get(split, source.name)))
        for split, frame in frames.items()
    }
    names = columns.labels or _label_names(
        label for rows in splits.values() for label in rows.labels
    )
    if len(names) < _FEWEST_LABELS:
        raise DataError(
            f"Classification needs at least two labels; column '{columns.label}' of "
            f"'{source.name}' has only {list(names)}."
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"data.labels names {', '.join(map(repr, twice))} more than once.")
    return {split: _examples(rows, names) for split, rows in splits.items()}, names


def _frames(source: Source, columns: Columns) -> tuple[dict[str, pd.DataFrame], Columns]:
    """Read a source's splits as tables, with the columns they have."""
    if source.kind == "cardoso":
        fixed = Columns(text="text", label="label", group="", labels=columns.labels)
        return {split: read_cardoso(path) for split, path in source.files.items()}, fixed
    if source.kind == "hub":
        return read_hub(source.name, columns.label), columns
    return {split: read_table(path) for split, path in source.files.items()}, columns


def _rows(frame: pd.DataFrame, columns: Columns, where: str) -> _Rows:
    """Take the wanted columns out of a table, every cell checked."""
    if frame.empty:
        raise DataError(f"{where} has no rows.")
    wanted = {
        "data.text-column": columns.text,
        "data.label-column": columns.label,
        "data.partition-column": columns.group,
    }
    for key, column in wanted.items():
        if column and column not in frame.columns:
            raise DataError(
                f"{where} has no column '{column}' ({key}). It has: "
                f"{', '.join(map(str, frame.columns))}."
            )
    return _Rows(
        where=where,
        texts=_cells(frame, columns.text, where).tolist(),
        labels=_cells(frame, columns.label, where).str.strip().tolist(),
        groups=_cells(frame, columns.group, where).str.strip().tolist() if columns.group else [],
    )


def _cells(frame: pd.DataFrame, column: str, where: str) -> "pd.Series[str]":
    """Give a column as strings, refusing cells that are empty or hold more than one value."""
    cells = frame[column]
    if cells.dtype == object:
        nested = cells.map(lambda cell: isinstance(cell, list | dict | tuple | np.ndarray))
        if nested.any():
            kind = type(cells[nested].iloc[0]).__name__
            raise DataError(
                f"{where}, row {_row(nested)}: column '{column}' holds a {kind}, "
                f"expected a text or a number."
            )
    strings: pd.Series[str] = cells.astype(str)
    empty = cells.isna() | (strings.str.strip() == "")
    if empty.any():
        raise DataError(f"{where}, row {_row(empty)}: column '{column}' is empty.")
    return strings


def _label_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Collect the labels that occur: numbers by value, names by alphabet."""
    names = set(labels)
    if all(_NUMBER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))


def _examples(rows: _Rows, names: tuple[str, ...]) -> Examples:
    """Look labels up by name."""
    index: Mapping[str, int] = {name: position for position, name in enumerate(names)}
    for number, label in enumerate(rows.labels, start=1):
        if label not in index:
            raise DataError(
                f"{rows.where}, row {number}: label '{label}' is not one of {list(names)}."
            )
    labels = np.array([index[label] for label in rows.labels], dtype=np.int64)
    return Examples(texts=rows.texts, labels=labels, groups=rows.groups)


def _row(mask: "pd.Series[bool]") -> int:
    """Number the first marked row, from 1, headers not counted."""
    return int(np.argmax(mask.to_numpy())) + 1
