"""The ClientApp: decode, train or evaluate, encode. Imports nothing heavy before it must."""

from functools import lru_cache
from typing import TYPE_CHECKING

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedpeft_app.config import RunConfig, parse
from fedpeft_app.errors import BudgetSpentError
from fedpeft_app.wire import record

if TYPE_CHECKING:
    from fedpeft_app.participation import Participation

app = ClientApp()


@app.query("roll_call")
def roll_call(message: Message, context: Context) -> Message:
    """Say who this node is and what it has; warms the process up."""
    from fedpeft_app.assembly import make_presence

    presence = make_presence(_config(context), context.node_config)
    return Message(record.write_facts(presence.to_facts()), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train from the global state and send the delta."""
    try:
        content = record.write_update(_participation(message, context).train())
    except BudgetSpentError as error:
        content = record.write_refusal(str(error))
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Judge the global state on what this node holds out."""
    participation = _participation(message, context)
    metrics = participation.evaluate(_config(context).evaluate.personal_steps)
    numbers = {**metrics, "num-examples": len(participation.worker.held_out)}
    return Message(record.write_facts({}, numbers), reply_to=message)


def _participation(message: Message, context: Context) -> "Participation":
    """Read an order, and find what this node needs to carry it out."""
    from fedpeft_app.assembly import make_participation

    return make_participation(
        _config(context),
        context.node_config,
        lambda spec: record.read_order(message.content, spec),
    )


def _config(context: Context) -> RunConfig:
    """Parse the run's configuration, once per process and run."""
    return _parse(tuple(sorted(context.run_config.items())))


@lru_cache(maxsize=4)
def _parse(items: tuple[tuple[str, str | int | float | bool], ...]) -> RunConfig:
    return parse(dict(items))
