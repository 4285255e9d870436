"""Orders addressed to nodes: who gets which message of a round."""

from collections.abc import Mapping, Sequence

from flwr.app import Message, RecordDict

from fedpeft_app.adapters import AdapterState
from fedpeft_app.strategies.strategy import Member, Strategy
from fedpeft_app.strategies.versions import Versions
from fedpeft_app.wire.record import Order, write_order


def train_messages(
    strategy: Strategy,
    round_number: int,
    state: AdapterState,
    cohort: Sequence[Member],
    versions: Versions,
) -> dict[Member, Message]:
    """Write the messages of a round: to whom of the cohort the strategy wants, with its options.

    Args:
        strategy: Who gets what.
        round_number: Round, from 1.
        state: The global state.
        cohort: The sampled nodes, by partition.
        versions: Which of its own parameters each node starts from.
    """
    options = strategy.configure(round_number, state, cohort)
    orders = {
        member: Order(
            state=state,
            round_number=round_number,
            options={**options[member.node_id], **versions.options(member)},
        )
        for member in cohort
        if member.node_id in options
    }
    return order_messages("train", orders)


def order_messages(kind: str, orders: Mapping[Member, Order]) -> dict[Member, Message]:
    """Address orders to their nodes; equal orders share one serialised content.

    Args:
        kind: Flower's message type, "train" or "evaluate".
        orders: Who gets what; all of one round and one state.
    """
    contents: dict[tuple[tuple[str, object], ...], RecordDict] = {}
    messages = {}
    for member, order in orders.items():
        key = tuple(sorted(order.options.items()))
        if key not in contents:
            contents[key] = write_order(order)
        messages[member] = Message(
            content=contents[key],
            dst_node_id=member.node_id,
            message_type=kind,
            group_id=str(order.round_number),
        )
    return messages
