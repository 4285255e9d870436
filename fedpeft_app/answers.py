"""What a node answers to each kind of message; where the work is done, the model is loaded."""

import logging
from collections.abc import Mapping
from typing import Any

from flwr.app import RecordDict

from fedpeft_app.assembly import make_participation, make_presence
from fedpeft_app.config import RunConfig
from fedpeft_app.errors import WITHOUT_DATA, BudgetSpentError, FedPeftError
from fedpeft_app.mirrors import home
from fedpeft_app.participation import Participation
from fedpeft_app.wire import record

_log = logging.getLogger(__name__)
ROLL_CALL, TRAIN, EVALUATE = "roll_call", "train", "evaluate"


def answer(
    kind: str, content: RecordDict, config: RunConfig, node_config: Mapping[str, Any]
) -> RecordDict:
    """Do what a message asks.

    Args:
        kind: "roll_call", "train" or "evaluate".
        content: What the message carries.
        config: The run's configuration.
        node_config: The node's own.

    Returns:
        What the reply carries.

    Raises:
        FedPeftError: If it cannot be done.
    """
    if kind == ROLL_CALL:
        return record.write_facts(make_presence(config, node_config).to_facts())
    if kind == TRAIN:
        return _trained(_participation(content, config, node_config))
    if kind == EVALUATE:
        return _evaluated(_participation(content, config, node_config), config)
    raise FedPeftError(f"Expected {ROLL_CALL}, {TRAIN} or {EVALUATE}, got a message '{kind}'.")


def _trained(participation: Participation) -> RecordDict:
    """Train from the global state, and give the delta."""
    try:
        return record.write_update(participation.train())
    except BudgetSpentError as error:
        return record.write_refusal(str(error))


def _evaluated(participation: Participation, config: RunConfig) -> RecordDict:
    """Judge the global state on what this node holds out."""
    metrics = participation.evaluate(config.evaluate.personal_steps)
    numbers = {**metrics, "num-examples": len(participation.worker.held_out)}
    return record.write_facts({}, numbers)


def _participation(
    content: RecordDict, config: RunConfig, node_config: Mapping[str, Any]
) -> Participation:
    """Read an order, and find what this node needs to carry it out."""
    return make_participation(config, node_config, lambda spec: record.read_order(content, spec))


def said_of(error: Exception, node_config: Mapping[str, Any], *, discreet: bool) -> str:
    """Put an error into words that may leave the node.

    Args:
        error: What went wrong.
        node_config: The node's own configuration: a node that has a name says it.
        discreet: Whether they must carry nothing of its data; its own log has all of it.
    """
    name = str(node_config.get("name", ""))
    who = f"{name}: " if name else ""
    if not discreet:
        return f"{type(error)}:<'{who}{error}'>"  # as Flower does
    if isinstance(error, WITHOUT_DATA):
        return who + str(error).replace(str(home()), "$FEDPEFT_HOME")
    return (
        f"{who}{type(error).__name__}: what it says may tell of this node's data, which "
        f"privacy.mode hides; the node has it in its own log"
    )
