"""Rows of tokens → a rectangle."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]


def padding_token(tokenizer: Any) -> int:
    """Give the token that fills batches up; decoders find a text's end by it.

    Args:
        tokenizer: The model's.

    Returns:
        Its padding token; 0 where it has none, since padding is masked.
    """
    pad = tokenizer.pad_token_id
    return 0 if pad is None else int(pad)


def padded(rows: Sequence[npt.NDArray[np.integer[Any]]], fill: int) -> Tokens:
    """Fill rows up on the right to the longest of them.

    Args:
        rows: `(tokens,)` each, at least one.
        fill: What to fill with.

    Returns:
        `(rows, longest)`, int64.
    """
    filled = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for index, row in enumerate(rows):
        filled[index, : len(row)] = row
    return filled
