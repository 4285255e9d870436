"""Nodes whose adapters have another rank than the run's."""

from collections.abc import Sequence

from fedpeft_app.adapters import AdapterSpec
from fedpeft_app.errors import RollCallError
from fedpeft_app.strategies.strategy import Member, Strategy


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


def rank_objection(
    strategy: Strategy, spec: AdapterSpec, member: Member, *, highest: int, exact_downlink: bool
) -> str:
    """Say why a node cannot take part in the rank that it states; empty if it can.

    Args:
        strategy: Of the run.
        spec: The run's adapter.
        member: The node.
        highest: The run's rank.
        exact_downlink: Whether nodes are sent whole states, not increments to a common one.
    """
    if not 0 <= member.rank <= highest:
        return f"states rank {member.rank}, expected none above method.rank = {highest}"
    if member.rank == 0:
        return ""
    if not exact_downlink:
        return (
            f"has rank {member.rank}, but wire.downlink brings all nodes from one state to the "
            f"next. Use wire.downlink = 'float32', or one rank"
        )
    try:
        strategy.prepare(spec, [member])
    except RollCallError as error:
        return str(error)
    return ""
