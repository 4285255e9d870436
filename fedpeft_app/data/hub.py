"""Data sets of the Hugging Face hub → tables, with no more columns than are needed."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedpeft_app.data.folders import SPLIT_NAMES
from fedpeft_app.errors import DataError


def read_hub(
    name: str, subset: str, needed: Callable[[str, Sequence[str]], Collection[str]], label: str
) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Load the splits of a hub data set.

    Args:
        name: The hub id.
        subset: Its configuration; "" = the default.
        needed: Chooses among the columns that a split has, or refuses them.
        label: The column of the label; class-label integers become their names.

    Returns:
        Split → table, for those of train, validation and test that there are (images as
        they are stored, not decoded), and the label names in the order the set declares;
        empty where it declares none.

    Raises:
        DataError: If the hub does not give it, or it has no training split.
    """
    import datasets

    try:
        loaded: Any = datasets.load_dataset(name, subset or None)
    except Exception as error:  # the hub's own errors, and those of four layers below it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"Cannot load '{name}' from the hub: {reason}. Check data.name, data.subset and the "
            f"connection, or give a local file."
        ) from error
    if "train" not in loaded:
        raise DataError(f"'{name}' has no split 'train'. It has: {', '.join(map(str, loaded))}.")
    names = _declared(loaded["train"].features.get(label))
    tables = {
        split: _table(loaded[split], needed(split, loaded[split].column_names), label, names)
        for split in SPLIT_NAMES
        if split in loaded
    }
    return tables, names


def _declared(feature: Any) -> tuple[str, ...]:
    """Give the names of a class label, or of a list of class labels."""
    single = getattr(feature, "feature", feature)
    return tuple(getattr(single, "names", None) or ())


def _table(data: Any, needed: Collection[str], label: str, names: tuple[str, ...]) -> pd.DataFrame:
    """Turn the needed columns of one split into a table."""
    import datasets

    data = data.select_columns(list(needed))
    for column in needed:
        if isinstance(data.features[column], datasets.Image):
            data = data.cast_column(column, datasets.Image(decode=False))
    frame: pd.DataFrame = data.to_pandas()
    if names and label in needed:
        frame[label] = [_named(cell, names) for cell in frame[label]]
    return frame


def _named(cell: Any, names: tuple[str, ...]) -> Any:
    """Turn class-label integers into names; -1, the hub's sign for none, becomes empty."""
    if isinstance(cell, list | np.ndarray):
        return [names[number] for number in cell]
    return names[cell] if cell >= 0 else None
