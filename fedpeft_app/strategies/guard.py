"""What a reply must be before it may touch the global state."""

import math

from flwr.app import Message

from fedpeft_app.adapters import AdapterSpec
from fedpeft_app.adapters.algebra import is_finite
from fedpeft_app.errors import AdapterMismatchError
from fedpeft_app.strategies.strategy import Member, Reply
from fedpeft_app.wire.record import read_update


def admit(message: Message, member: Member, spec: AdapterSpec, round_number: int) -> Reply | str:
    """Decode and check one reply.

    Args:
        message: What came back from the node.
        member: Who was asked.
        spec: The adapter of the run.
        round_number: The round it must answer.

    Returns:
        The reply, or the reason why it is rejected.
    """
    if message.has_error():
        return short_reason(message.error.reason)
    try:
        update = read_update(message.content, spec)
    except AdapterMismatchError as error:
        return str(error)
    weight = update.metrics.get("num-examples", 0.0)
    if update.round_number != round_number:
        return f"answers round {update.round_number} instead of {round_number}"
    if not (math.isfinite(weight) and weight > 0):
        return f"states {weight} training examples"
    if not is_finite(update.delta):
        return "sent values that are not finite"
    return Reply(member=member, delta=update.delta, weight=weight, metrics=update.metrics)


def short_reason(reason: str | None) -> str:
    """Cut Flower's wrapping off an error's text."""
    reason = reason or ""
    for wrapping in ("<class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'",):
        reason = reason.removeprefix(wrapping)
    lines = [line.strip() for line in reason.removesuffix("'>").splitlines() if line.strip()]
    last = lines[-1] if lines else "no reason given"
    marker = "ClientAppException: "
    raised = [index for index, line in enumerate(lines) if marker in line]
    if raised:
        return " ".join([lines[raised[-1]].split(marker, 1)[1], *lines[raised[-1] + 1 :]])
    return last
