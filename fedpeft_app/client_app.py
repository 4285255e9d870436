"""The ClientApp: decode, train or evaluate, encode. Imports nothing heavy before it must."""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedpeft_app.admission import require_allowed
from fedpeft_app.config import RunConfig, parse
from fedpeft_app.errors import WITHOUT_DATA, BudgetSpentError
from fedpeft_app.mirrors import home
from fedpeft_app.wire import record

if TYPE_CHECKING:
    from fedpeft_app.participation import Participation

app = ClientApp()
_APP_FAILED = 2  # Flower's code for an exception in a ClientApp
_log = logging.getLogger(__name__)


@app.query("roll_call")
def roll_call(message: Message, context: Context) -> Message:
    """Say who this node is and what it has; warms the process up."""
    from fedpeft_app.assembly import make_presence

    def content() -> RecordDict:
        presence = make_presence(_config(context), context.node_config)
        return record.write_facts(presence.to_facts())

    return _reply(message, context, content)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train from the global state and send the delta."""

    def content() -> RecordDict:
        try:
            return record.write_update(_participation(message, context).train())
        except BudgetSpentError as error:
            return record.write_refusal(str(error))

    return _reply(message, context, content)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Judge the global state on what this node holds out."""

    def content() -> RecordDict:
        participation = _participation(message, context)
        metrics = participation.evaluate(_config(context).evaluate.personal_steps)
        numbers = {**metrics, "num-examples": len(participation.worker.held_out)}
        return record.write_facts({}, numbers)

    return _reply(message, context, content)


def _reply(message: Message, context: Context, content: Callable[[], RecordDict]) -> Message:
    """Answer; under privacy, what goes wrong is told in words that carry nothing of the data."""
    discreet = _config(context).privacy.mode != "none"
    try:
        require_allowed(_config(context), context.node_config, message.metadata.message_type)
        return Message(content(), reply_to=message)
    except Exception as error:
        if not discreet:
            raise  # Flower sends the text, in simulation with the whole traceback
        _log.exception("This node failed (%s)", message.metadata.message_type)
        return Message(Error(code=_APP_FAILED, reason=_said_of(error)), reply_to=message)


def _said_of(error: Exception) -> str:
    """Put an error into words that may leave the node; its own log has whole paths."""
    if isinstance(error, WITHOUT_DATA):
        return str(error).replace(str(home()), "$FEDPEFT_HOME")
    return (
        f"{type(error).__name__}: what it says may tell of this node's data, which privacy.mode "
        f"hides; the node has it in its own log"
    )


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
