"""Sources → inputs and labels, with file and row named when something is wrong."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from fedpeft_app.data import cells
from fedpeft_app.data.columns import Columns, Reads
from fedpeft_app.data.examples import Examples, place_of
from fedpeft_app.data.folders import read_class_folder
from fedpeft_app.data.hub import read_hub
from fedpeft_app.data.idx import read_idx
from fedpeft_app.data.labels import label_names, several, single
from fedpeft_app.data.sources import Source
from fedpeft_app.data.tables import read_cardoso, read_table
from fedpeft_app.errors import DataError

Tables = dict[str, pd.DataFrame]


def read(
    source: Source, columns: Columns, reads: Reads
) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """Read every split of a source; images are found, not yet decoded.

    Args:
        source: What `find_source` found.
        columns: Column names; only tables and hub sets have columns to choose.
        reads: What the task needs.

    Returns:
        Split → examples, and the label names in order; no names where labels are optional.

    Raises:
        DataError: On a missing column, an empty cell, a label outside the given names, or
            fewer than two labels; the message names file and row.
    """
    tables, columns, declared = _tables(source, columns, reads)
    places = {split: str(source.files.get(split, source.name)) for split in tables}
    for split, table in tables.items():
        _require_rows(table, places[split])
    inputs = {
        split: _inputs(table, columns, reads, places[split]) for split, table in tables.items()
    }
    label_cells = {
        split: _label_cells(table, columns, reads, places[split]) for split, table in tables.items()
    }
    names = _names(label_cells, columns, declared, reads, source)
    look_up = several if reads.labels == "many" else single
    files = {split: _files(source, table) for split, table in tables.items()}
    splits = {
        split: Examples(
            where=places[split],
            inputs=inputs[split],
            labels=look_up(
                label_cells[split], names, partial(place_of, places[split], files[split])
            ),
            groups=_groups(table, _columns_of(split, columns), places[split]),
            files=files[split],
        )
        for split, table in tables.items()
    }
    return splits, () if reads.labels == "optional" else names


def _files(source: Source, table: pd.DataFrame) -> list[str]:
    """List the file of each example, where each has one."""
    return list(table.index) if source.kind == "classes" else []


def _tables(
    source: Source, columns: Columns, reads: Reads
) -> tuple[Tables, Columns, tuple[str, ...]]:
    """Read a source's splits as tables, with the columns they have and the labels declared."""
    if source.kind == "hub":
        tables, declared = read_hub(
            source.name,
            source.subset,
            lambda split, there: _needed(there, _columns_of(split, columns), reads, source.name),
            columns.label,
        )
        return tables, columns, declared
    if source.kind != "tables":
        columns = Columns(labels=columns.labels)  # these have columns of their own
    tables = {split: _local(source, split) for split in source.files}
    for split, table in tables.items():
        where = str(source.files[split])
        _require_rows(table, where)
        _needed(list(table.columns), _columns_of(split, columns), reads, where)
    return tables, columns, source.labels


def _columns_of(split: str, columns: Columns) -> Columns:
    """Leave out what a split is not asked for: only training examples are shared out."""
    return columns if split == "train" else replace(columns, group="")


def _local(source: Source, split: str) -> pd.DataFrame:
    """Read one split from this machine's disk."""
    path = source.files[split]
    if source.kind == "tables":
        return read_table(path)
    if source.kind == "cardoso":
        return read_cardoso(path)
    if source.kind == "idx":
        return read_idx(path, source.beside[split], source.labels)
    return read_class_folder(path)


def _require_rows(table: pd.DataFrame, where: str) -> None:
    """Refuse a split without examples."""
    if table.empty:
        raise DataError(f"{where} has no rows.")


def _needed(there: Sequence[str], columns: Columns, reads: Reads, where: str) -> list[str]:
    """Choose the columns to read, or say which are missing."""
    has = f"It has: {', '.join(map(str, there))}."
    form = _form(there, columns, reads)
    if form is None:
        if len(reads.inputs) == 1:
            raise DataError(f"{where} has no column {columns.described(*reads.inputs[0])}. {has}")
        forms = "; ".join(columns.described(*fields) for fields in reads.inputs)
        reason = f"{where} has the columns of no form of input: {forms}. {has}"
        raise DataError(f"{reason} {reads.otherwise}".rstrip())
    fields = [*form]
    if reads.labels != "optional" or columns.label in there:
        fields.append("label")
    if columns.group:
        fields.append("group")
    for field in fields:
        if columns.of(field) not in there:
            raise DataError(f"{where} has no column {columns.described(field)}. {has}")
    return [columns.of(field) for field in fields]


def _form(there: Sequence[str], columns: Columns, reads: Reads) -> tuple[str, ...] | None:
    """Choose the first form of input whose columns are there."""
    for fields in reads.inputs:
        if all(columns.of(field) in there for field in fields):
            return fields
    return None


def _inputs(table: pd.DataFrame, columns: Columns, reads: Reads, where: str) -> Sequence[Any]:
    """Take the inputs out of a table."""
    form = _form(list(table.columns), columns, reads)
    if form == ("messages",):
        return cells.conversations(table, columns.messages, where)
    if form == ("image",):
        return cells.pictures(table, columns.image, where, Path(where).parent)
    parts = [cells.texts(table, columns.of(field), where) for field in form or ()]
    return parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))


def _groups(table: pd.DataFrame, columns: Columns, where: str) -> list[str]:
    """Take the natural nodes out of a table."""
    if not columns.group:
        return []
    return cells.names(table, columns.group, where)


def _label_cells(table: pd.DataFrame, columns: Columns, reads: Reads, where: str) -> list[Any]:
    """Take the labels out of a table, not yet looked up."""
    if reads.labels == "many":
        return list(cells.lists(table, columns.label, reads.separator))
    if reads.labels == "optional" and columns.label not in table.columns:
        return [""] * len(table)
    return cells.names(table, columns.label, where)


def _names(
    label_cells: dict[str, list[Any]],
    columns: Columns,
    declared: tuple[str, ...],
    reads: Reads,
    source: Source,
) -> tuple[str, ...]:
    """Decide which labels there are: a label that is not trained on is a mistake, if not named."""
    if reads.labels == "optional":
        return tuple(sorted({cell for some in label_cells.values() for cell in some}))
    found = label_cells["train"]
    if reads.labels == "many":
        found = [label for cell in found for label in cell]
    where = f"column '{columns.label}' of '{source.name}'"
    return label_names(found, declared, columns.labels, where)
