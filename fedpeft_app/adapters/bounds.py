"""Values that no training reaches: whoever gets such a state refuses it."""

import math

import numpy as np

from fedpeft_app.adapters.state import AdapterState

LARGEST = 1e5  # of a value: see docs/wire-format.md, "What a server accepts"


def beyond(state: AdapterState) -> str:
    """Say that values are not finite, or that one is too large; empty if all are fine.

    No value is larger than the root of the sum of squares: one pass, where all is well.

    Args:
        state: What was received.
    """
    values = state.vector
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.vdot(values, values)
    if squares <= LARGEST**2:
        return ""
    largest = max(float(values.max()), -float(values.min()))  # NaN if one of them is
    if not math.isfinite(largest):
        return "values that are not finite"
    return "" if largest <= LARGEST else f"values up to {largest:.3g}, beyond {LARGEST:g}"
