"""Nodes whose adapters have another rank than the run's."""

from collections.abc import Sequence

from fedpeft_app.errors import RollCallError
from fedpeft_app.strategies.strategy import Member


def require_one_rank(name: str, members: Sequence[Member]) -> None:
    """Refuse nodes of their own rank where all deltas are folded elementwise.

    Args:
        name: The strategy's name.
        members: Who takes part.

    Raises:
        RollCallError: If any node has a rank of its own; the message names all of them.
    """
    if own := {member.partition: member.rank for member in members if member.rank}:
        nodes = ", ".join(f"node {node} has rank {rank}" for node, rank in own.items())
        raise RollCallError(
            f"strategy.name = '{name}' folds adapters of one rank, but {nodes}. Use 'flexlora', "
            f"'hetlora' or 'flora', or start these nodes without a rank of their own."
        )
