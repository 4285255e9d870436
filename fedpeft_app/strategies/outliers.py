"""Updates that are far longer than those of the same round."""

from collections.abc import Sequence

import numpy as np

from fedpeft_app.adapters.algebra import norm
from fedpeft_app.strategies.strategy import Reply

_FEWEST = 3  # of two, neither can be more than twice the median


def too_long(good: Sequence[Reply], bound: float) -> dict[int, str]:
    """Find updates whose norm exceeds a multiple of the median of their round's.

    A crude net: whoever sends less than that passes, and robust strategies are for those. Each
    update is decoded, measured, and let go.

    Args:
        good: Replies that passed the guard.
        bound: The multiple, > 0; 0 = nothing is too long.

    Returns:
        Partition → reason. Nothing where fewer than three replies are there to compare, or most
        are zero.
    """
    if not bound or len(good) < _FEWEST:
        return {}
    norms = {reply.member.partition: norm(reply.update.decode()) for reply in good}
    median = float(np.median(list(norms.values())))
    if not median:
        return {}
    return {
        node: f"sent an update of norm {length:.3g}, more than {bound:g} times the median of the "
        f"round's, {median:.3g} (strategy.norm-bound)"
        for node, length in norms.items()
        if length > bound * median
    }
