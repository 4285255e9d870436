"""Files → texts and labels, with the row named when something is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedpeft_app.data.sources import Source
from fedpeft_app.errors import DataError

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns hold what.

    Attributes:
        text: Column of the text.
        label: Column of the label.
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


def read(source: Source, columns: Columns) -> tuple[dict[str, Examples], tuple[str, ...]]:
    """Read every split of a source.

    Args:
        source: What `find_source` found.
        columns: Column names (not used for pinned sources, which have fixed columns).

    Returns:
        Split → examples, and the label names in order.

    Raises:
        DataError: On a missing column, an empty text or label, a label outside the given
            names, or fewer than two labels; the message names file and row.
    """
    frames, columns = _frames(source, columns)
    for split, frame in frames.items():
        _require_columns(frame, columns, str(source.files.get(split, source.name)))
    names = columns.labels or _label_names([frame[columns.label] for frame in frames.values()])
    if len(names) < 2:
        raise DataError(
            f"Classification needs at least two labels; column '{columns.label}' of "
            f"'{source.name}' has only {list(names)}."
        )
    splits = {
        split: _examples(frame, columns, names, str(source.files.get(split, source.name)))
        for split, frame in frames.items()
    }
    return splits, names


def _frames(source: Source, columns: Columns) -> tuple[dict[str, pd.DataFrame], Columns]:
    """Read a source's splits as tables, with the columns they have."""
    if source.kind == "cardoso":
        fixed = Columns(text="text", label="label", group="", labels=columns.labels)
        return {split: _read_cardoso(path) for split, path in source.files.items()}, fixed
    if source.kind == "hub":
        return _read_hub(source.name, columns), columns
    return {split: _read_table(path) for split, path in source.files.items()}, columns


def _read_cardoso(path: Path) -> pd.DataFrame:
    """Read "label<TAB>text" lines below three header lines."""
    rows = [line.split("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()[3:]]
    rows = [row for row in rows if len(row) == 2]
    return pd.DataFrame(rows, columns=["label", "text"])


def _read_table(path: Path) -> pd.DataFrame:
    """Read one local table; text stays text."""
    try:
        match path.suffix:
            case ".csv":
                return pd.read_csv(path, dtype=str, keep_default_na=False)
            case ".parquet":
                return pd.read_parquet(path)
            case suffix:
                return pd.read_json(path, lines=suffix == ".jsonl", dtype=False)
    except (ValueError, OSError) as error:
        raise DataError(f"Cannot read {path}: {error}") from error


def _read_hub(name: str, columns: Columns) -> dict[str, pd.DataFrame]:
    """Load a hub data set; class-label integers become their names."""
    import datasets

    try:
        loaded: Any = datasets.load_dataset(name)
    except Exception as error:
        raise DataError(
            f"Cannot load '{name}' from the hub: {str(error).splitlines()[0]}. "
            f"Check the name and the connection, or give a local file."
        ) from error
    frames = {}
    for split, data in loaded.items():
        frame = data.to_pandas()
        feature = data.features.get(columns.label)
        if isinstance(feature, datasets.ClassLabel):
            frame[columns.label] = [feature.int2str(int(label)) for label in frame[columns.label]]
        frames[str(split)] = frame
    return {split: frames[split] for split in ("train", "validation", "test") if split in frames}


def _require_columns(frame: pd.DataFrame, columns: Columns, where: str) -> None:
    """Refuse a table that lacks a column or has no rows."""
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
    if frame.empty:
        raise DataError(f"{where} has no rows.")


def _label_names(columns: Sequence[pd.Series]) -> tuple[str, ...]:
    """Collect the labels that occur: numbers by value, names by alphabet."""
    names = {str(label) for column in columns for label in column.unique()}
    if all(name.lstrip("-").isdigit() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _examples(
    frame: pd.DataFrame, columns: Columns, names: tuple[str, ...], where: str
) -> Examples:
    """Turn a table into examples, row by row checked."""
    texts = frame[columns.text]
    empty = texts.isna() | (texts.astype(str).str.strip() == "")
    if empty.any():
        raise DataError(f"{where}, row {_row(empty)}: column '{columns.text}' is empty.")
    index: Mapping[str, int] = {name: position for position, name in enumerate(names)}
    labels = frame[columns.label].astype(str).map(index)
    if labels.isna().any():
        bad = frame[columns.label].astype(str)[labels.isna()].iloc[0]
        raise DataError(
            f"{where}, row {_row(labels.isna())}: label '{bad}' is not one of {list(names)}."
        )
    return Examples(
        texts=texts.astype(str).tolist(),
        labels=labels.to_numpy(dtype=np.int64),
        groups=frame[columns.group].astype(str).tolist() if columns.group else [],
    )


def _row(mask: "pd.Series[bool]") -> int:
    """Number the first marked row, from 1, headers not counted."""
    return int(np.argmax(mask.to_numpy())) + 1
