"""What a node answers to each kind of message; where the work is done, the model is loaded."""

from collections.abc import Mapping
from typing import Any

from flwr.app import RecordDict

from fedpeft_app.assembly import make_participation, make_presence
from fedpeft_app.config import RunConfig
from fedpeft_app.errors import BudgetSpentError, FedPeftError
from fedpeft_app.participation import Participation
from fedpeft_app.run_data import look_again
from fedpeft_app.wire import record

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
        if "data-path" in node_config:  # this process may have served a run before
            look_again()
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
