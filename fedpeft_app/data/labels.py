"""Cells of a label column → label names and indices, the same on every node."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpeft_app.errors import DataError

Place = Callable[[int], str]  # row, from 1 → where it stands, for messages
Labels = npt.NDArray[np.integer[Any]]
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_FEWEST = 2  # one label leaves nothing to learn


def label_names(
    found: Iterable[str], declared: tuple[str, ...], given: tuple[str, ...], where: str
) -> tuple[str, ...]:
    """Decide which labels there are, and their order.

    Args:
        found: Every label in the training data, repeats and all.
        declared: Those that the source says it has, in its order; may be empty.
        given: Those that the user says it has; empty = the declared ones, or, without any,
            those found: numbers by value, other names by alphabet.
        where: The column and its source, for messages.

    Raises:
        DataError: If there are fewer than two, or one is given twice; of given ones the message
            blames `data.labels`.

    Guarantee:
        The order depends on the names alone.
    """
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise DataError(f"data.labels names {', '.join(map(repr, twice))} more than once.")
    names = given or declared or _sorted(set(found))
    if len(names) < _FEWEST:
        place = "data.labels" if given else where
        raise DataError(
            f"Classification needs at least two labels; {place} has only {list(names)}."
        )
    return names


def single(cells: Sequence[str], names: Sequence[str], place: Place) -> Labels:
    """Look one label an example up.

    Args:
        cells: The label of each example.
        names: The label names.
        place: Says where a row stands.

    Returns:
        Index into `names` per example, `(examples,)`, int64.

    Raises:
        DataError: If a label is not one of the names.
    """
    index = _index(names)
    rows = [_find(index, cell, row, place) for row, cell in enumerate(cells, start=1)]
    return np.array(rows, dtype=np.int64)


def several(cells: Sequence[Sequence[str]], names: Sequence[str], place: Place) -> Labels:
    """Look any number of labels an example up.

    Args:
        cells: The labels of each example; may be none.
        names: The label names.
        place: Says where a row stands.

    Returns:
        1 where an example has a label, else 0: `(examples, labels)`, uint8.

    Raises:
        DataError: If a label is not one of the names.
    """
    index = _index(names)
    marks = np.zeros((len(cells), len(names)), dtype=np.uint8)
    for row, cell in enumerate(cells):
        for label in cell:
            marks[row, _find(index, label, row + 1, place)] = 1
    return marks


def _sorted(names: set[str]) -> tuple[str, ...]:
    """Sort numbers by value, other names by alphabet."""
    if all(_NUMBER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    return tuple(sorted(names))


def _index(names: Sequence[str]) -> dict[str, int]:
    """Map names to their places."""
    return {name: place for place, name in enumerate(names)}


def _find(index: dict[str, int], label: str, row: int, place: Place) -> int:
    """Look one label up, or name the row it stands in."""
    if label not in index:
        raise DataError(
            f"{place(row)}: label '{label}' is not one of {list(index)}. Correct it, or name "
            f"every label in data.labels."
        )
    return index[label]
