"""The ClientApp: hands a message to the node's worker, or does the work itself. Stays thin."""

import logging
from functools import lru_cache

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedpeft_app.admission import require_allowed
from fedpeft_app.backbone.one_scan import scan_models_once
from fedpeft_app.config import RunConfig, parse
from fedpeft_app.uncollected import uncollected
from fedpeft_app.warm.door import NodeError, find_door
from fedpeft_app.warm.words import said_of
from fedpeft_app.wire.content import from_bytes, to_bytes

app = ClientApp()
_APP_FAILED = 2  # Flower's code for an exception in a ClientApp
_log = logging.getLogger(__name__)


@app.query("roll_call")
def roll_call(message: Message, context: Context) -> Message:
    """Say who this node is and what it has; warms up whatever process does the work."""
    return _reply("roll_call", message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train from the global state and send the delta."""
    return _reply("train", message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Judge the global state on what this node holds out."""
    return _reply("evaluate", message, context)


def _reply(kind: str, message: Message, context: Context) -> Message:
    """Answer; under privacy, what goes wrong is told in words that carry nothing of the data."""
    config = _config(context)
    try:
        require_allowed(config, context.node_config, message.metadata.message_type)
        return Message(_content(kind, message, context, config), reply_to=message)
    except NodeError as error:  # the worker has put it into words, and has all of it in its log
        _log.error("This node's worker failed (%s): %s", kind, error)
        return Message(Error(code=_APP_FAILED, reason=str(error)), reply_to=message)
    except Exception as error:
        discreet, node = config.privacy.mode != "none", context.node_config
        if not discreet and "name" not in node:
            raise  # Flower sends the text, in simulation with the whole traceback
        _log.exception("This node failed (%s)", kind)
        reason = said_of(error, node, discreet=discreet)
        return Message(Error(code=_APP_FAILED, reason=reason), reply_to=message)


def _content(kind: str, message: Message, context: Context, config: RunConfig) -> RecordDict:
    """Let the worker do the work; without one, this process loads the model and does it."""
    if (worker := find_door()) is not None:
        done = worker.ask(
            kind,
            to_bytes(message.content),
            run_config=context.run_config,
            node_config=context.node_config,
        )
        if done is not None:
            return from_bytes(done)
    with uncollected("fedpeft_app.answers"):
        scan_models_once()
        from fedpeft_app.answers import answer
    return answer(kind, message.content, config, context.node_config)


def _config(context: Context) -> RunConfig:
    """Parse the run's configuration, once per process and run."""
    return _parse(tuple(sorted(context.run_config.items())))


@lru_cache(maxsize=4)
def _parse(items: tuple[tuple[str, str | int | float | bool], ...]) -> RunConfig:
    return parse(dict(items))
