"""Rows of tokens → a rectangle."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]


def padded_width(longest: int, multiple: int, limit: int) -> int:
    """Say to how many tokens a batch is filled up.

    Args:
        longest: Tokens of its longest example, from 1 to `limit`.
        multiple: Of how many tokens it is to be a multiple, from 1.
        limit: Tokens that no example exceeds; no more are made up either.
    """
    return min(math.ceil(longest / multiple) * multiple, limit)


def padding_token(tokenizer: Any) -> int:
    """Give the token that fills batches up; decoders find a text's end by it.

    Args:
        tokenizer: The model's.

    Returns:
        Its padding token; 0 where it has none, since padding is masked.
    """
    pad = tokenizer.pad_token_id
    return 0 if pad is None else int(pad)


def padded(rows: Sequence[npt.NDArray[np.integer[Any]]], fill: int, width: int = 0) -> Tokens:
    """Fill rows up on the right to the longest of them.

    Args:
        rows: `(tokens,)` each, at least one.
        fill: What to fill with.
        width: Tokens at least.

    Returns:
        `(rows, longest)`, int64.
    """
    filled = np.full((len(rows), max(width, *map(len, rows))), fill, dtype=np.int64)
    for index, row in enumerate(rows):
        filled[index, : len(row)] = row
    return filled
