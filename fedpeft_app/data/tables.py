"""Files → tables, each cell as the file has it; text stays text."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from fedpeft_app.errors import DataError

_CARDOSO_HEADER = 3  # lines: names, types, flags (Orange's tab format)


def read_table(path: Path) -> pd.DataFrame:
    """Read one local table.

    Args:
        path: A .csv, .json, .jsonl or .parquet file; text in UTF-8, with or without a
            byte-order mark.

    Returns:
        Its rows. Numbers of a csv file stay the text they were.

    Raises:
        DataError: If the file is empty, or not what its name says.
    """
    try:
        match path.suffix:
            case ".csv":
                return _read_csv(_text(path))
            case ".parquet":
                return pd.read_parquet(path)
            case suffix:
                text = _text(path)
                return _read_lines(text) if suffix == ".jsonl" else _read_json(text)
    except Exception as error:  # pandas and pyarrow raise many kinds
        reason = str(error).strip() or type(error).__name__
        raise DataError(
            f"Cannot read {path} as a {path.suffix} table: {reason.rstrip('.')}."
        ) from error


def read_cardoso(path: Path) -> pd.DataFrame:
    """Read "label<TAB>text" lines below three header lines.

    Args:
        path: A file of A. Cardoso Cachopo's splits, as the pinned sources hold them.

    Returns:
        A table with the columns "label" and "text".

    Raises:
        DataError: On a line without a tab.
    """
    lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would cut texts at U+0085
    rows = []
    for number, line in enumerate(lines[_CARDOSO_HEADER:], start=_CARDOSO_HEADER + 1):
        label, tab, text = line.partition("\t")
        if line and not tab:
            raise DataError(f"{path}, line {number}: expected 'label<TAB>text', found no tab.")
        if line:
            rows.append((label, text))
    return pd.DataFrame(rows, columns=["label", "text"])


def _text(path: Path) -> str:
    """Read a file in UTF-8, with or without a byte-order mark, naming the line that is not."""
    content = path.read_bytes()
    if not content.strip():
        raise DataError("the file is empty")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"line {line} is not in UTF-8; save the file as UTF-8") from error


def _read_csv(text: str) -> pd.DataFrame:
    """Read csv, checked first.

    pandas reads a quote that is not closed up to the next one, rows later, takes the first field
    for an index where rows are too wide, and counts the header and blank lines, as we do not.
    """
    _require_order(text)
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def _require_order(text: str) -> None:
    """Refuse csv by its first row, from 1, whose quotes or number of fields are out of order."""
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))  # a text may be long
    number, width = 0, 0
    try:
        for fields in csv.reader(io.StringIO(text, newline=""), strict=True):
            if len(fields) < 2 and not "".join(fields).strip():
                continue  # a blank line
            width = width or len(fields)
            if len(fields) > width:
                raise DataError(
                    f"row {number} has {len(fields)} fields, the header {width}; quote texts that "
                    f"hold commas"
                )
            number += 1
    except csv.Error as error:
        where = f"row {number}" if number else "the header"
        raise DataError(
            f"{where} opens a quote that does not end where its field does; close it, and write "
            f'a quote within quotes twice ("")'
        ) from error


def _read_lines(text: str) -> pd.DataFrame:
    """Read one JSON object a line; blank lines do not count."""
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return _objects(rows)


def _read_json(text: str) -> pd.DataFrame:
    """Read a JSON list of objects, or an object of columns."""
    value = json.loads(text)
    if isinstance(value, dict):
        return pd.DataFrame(value, dtype=object)
    return _objects(value)


def _objects(rows: Any) -> pd.DataFrame:
    """Make a table of objects, keeping every value as it is."""
    if not isinstance(rows, list):
        raise DataError(f"expected a list of objects, got {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"expected objects, got {type(row).__name__} in row {number}")
    return pd.DataFrame(rows, dtype=object)
