"""Fields that stand for something else: what they mean, read."""

import json
from typing import Any


def needed_precision(dtype: str) -> str:
    """Give the only precision that a half-precision model runs in; empty for float32."""
    return {"bfloat16": "bf16", "float16": "fp16"}.get(dtype, "")


def planned_ranks(text: str, usual: int) -> list[int]:
    """Read `method.node-ranks`.

    Args:
        text: Ranks between commas, or nothing.
        usual: The run's rank.

    Returns:
        The ranks of nodes, in turns; at least one.

    Raises:
        ValueError: If one is no whole number from 1 to the run's rank.
    """
    ranks = [int(part) for part in text.split(",")] if text.strip() else [usual]
    if not all(1 <= rank <= usual for rank in ranks):
        raise ValueError(f"expected ranks from 1 to method.rank = {usual}")
    return ranks


def options(text: str) -> dict[str, Any]:
    """Read a field of free-form options.

    Args:
        text: JSON text that `RunConfig` has checked.

    Returns:
        The object's items, ready to be keyword arguments.
    """
    value: dict[str, Any] = json.loads(text)
    return value
