"""Columns of a table → values of one kind, with the row named where a cell does not fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedpeft_app.data.images import Picture
from fedpeft_app.errors import DataError

Message = dict[str, str]
_LISTS = (list, tuple, np.ndarray)


def texts(frame: pd.DataFrame, column: str, where: str) -> list[str]:
    """Give a column as texts.

    Args:
        frame: The table.
        column: One of its columns.
        where: File or source, for messages.

    Raises:
        DataError: If a cell is empty, or holds more than one value.
    """
    cells = frame[column]
    if cells.dtype == object:
        nested = cells.map(lambda cell: isinstance(cell, (*_LISTS, dict)))
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
    return list(strings)


def names(frame: pd.DataFrame, column: str, where: str) -> list[str]:
    """Give a column as names, of labels or of nodes, blanks around each left out.

    Args:
        frame: The table.
        column: One of its columns.
        where: File or source, for messages.

    Returns:
        A name a row. Equal numbers have one name, "1" for 1 and for 1.0: JSON has one kind of
        number, and a column of whole numbers with a gap anywhere is one of floats. A csv file
        has texts, which stay as they are.

    Raises:
        DataError: As `texts`.
    """
    written = texts(frame, column, where)
    return [_name(cell, text) for cell, text in zip(frame[column], written, strict=True)]


def lists(frame: pd.DataFrame, column: str, separator: str) -> list[list[str]]:
    """Give a column as lists of texts, blanks around each left out.

    Args:
        frame: The table.
        column: One of its columns.
        separator: Between the parts of a cell of text.

    Returns:
        One list a row; empty for a cell that is empty.
    """
    return [_parts(cell, separator) for cell in frame[column]]


def conversations(frame: pd.DataFrame, column: str, where: str) -> list[list[Message]]:
    """Give a column as conversations, each a list of messages with "role" and "content".

    Args:
        frame: The table.
        column: One of its columns.
        where: File or source, for messages.

    Raises:
        DataError: If a cell is no such list.
    """
    found = []
    for row, cell in enumerate(frame[column], start=1):
        turns = list(cell) if isinstance(cell, _LISTS) else []
        if not turns or not all(map(_is_message, turns)):
            raise DataError(
                f"{where}, row {row}: expected in column '{column}' a list of messages such as "
                f'{{"role": "user", "content": "…"}}, got {type(cell).__name__}.'
            )
        found.append([{"role": turn["role"], "content": turn["content"]} for turn in turns])
    return found


def pictures(frame: pd.DataFrame, column: str, where: str, folder: Path) -> list[Picture]:
    """Give a column as images.

    Args:
        frame: The table.
        column: One of its columns: paths, encoded images, or what the hub has for one,
            {"bytes": …, "path": …}.
        where: File or source, for messages.
        folder: What paths are relative to.

    Raises:
        DataError: If a cell is none of these, or names no file.
    """
    return [
        _picture(cell, f"{where}, row {row}", column, folder)
        for row, cell in enumerate(frame[column], start=1)
    ]


def _picture(cell: Any, where: str, column: str, folder: Path) -> Picture:
    """Take one cell for an image."""
    if isinstance(cell, Picture):
        return cell
    content = cell
    if isinstance(cell, Mapping):
        content = cell.get("bytes") or cell.get("path")
    if isinstance(content, str) and content.strip():
        path = folder / content
        if not path.is_file():
            raise DataError(f"{where}: column '{column}' names '{path}', which does not exist.")
        return Picture(name=f"{path} ({where})", content=path)
    if not isinstance(content, bytes) or not content:
        raise DataError(
            f"{where}: expected in column '{column}' a path or the bytes of an image, got "
            f"{type(cell).__name__}."
        )
    return Picture(name=where, content=content)


def _parts(cell: Any, separator: str) -> list[str]:
    """Cut one cell into its parts."""
    if isinstance(cell, _LISTS):
        return [_name(part, str(part)) for part in cell]
    if pd.isna(cell):
        return []
    return [part.strip() for part in _name(cell, str(cell)).split(separator) if part.strip()]


def _name(cell: Any, text: str) -> str:
    """Name a whole number by its digits, whatever its type, and all else by its text."""
    whole = isinstance(cell, (float, np.floating)) and float(cell).is_integer()
    return str(int(cell)) if whole else text.strip()


def _is_message(turn: Any) -> bool:
    """Say whether a value is a message of plain text."""
    return isinstance(turn, Mapping) and all(
        isinstance(turn.get(key), str) for key in ("role", "content")
    )


def _row(mask: "pd.Series[bool]") -> int:
    """Number the first marked row, from 1, headers not counted."""
    return int(np.argmax(mask.to_numpy())) + 1
