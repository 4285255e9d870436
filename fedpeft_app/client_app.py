"""The ClientApp: decode, train or evaluate, encode. Imports nothing heavy before it must."""

from functools import lru_cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedpeft_app.config import RunConfig, parse
from fedpeft_app.wire import record

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
    from fedpeft_app.assembly import make_worker, own_parameters
    from fedpeft_app.training.worker import process_facts

    worker = make_worker(_config(context), context.node_config)
    order = record.read_order(message.content, worker.adapted.spec)
    epochs, own = order.options.get("epochs", 0), own_parameters(order.options, worker)
    delta, report = worker.fit(order.state, order.round_number, own=own, epochs=int(epochs))
    update = record.Update(
        delta=delta,
        round_number=order.round_number,
        metrics={
            "num-examples": len(worker.train),
            "examples-trained": report.examples,
            "steps": report.steps,
            "loss": report.loss,
            "seconds": report.seconds,
        },
        facts=process_facts(),
    )
    return Message(record.write_update(update), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Judge the global state on what this node holds out."""
    from fedpeft_app.assembly import make_worker, own_parameters

    config = _config(context)
    worker = make_worker(config, context.node_config)
    order = record.read_order(message.content, worker.adapted.spec)
    own, steps = own_parameters(order.options, worker), config.evaluate.personal_steps
    metrics = worker.evaluate(order.state, order.round_number, own=own, steps=steps)
    numbers = {**metrics, "num-examples": len(worker.held_out)}
    return Message(record.write_facts({}, numbers), reply_to=message)


def _config(context: Context) -> RunConfig:
    """Parse the run's configuration, once per process and run."""
    return _parse(tuple(sorted(context.run_config.items())))


@lru_cache(maxsize=4)
def _parse(items: tuple[tuple[str, str | int | float | bool], ...]) -> RunConfig:
    return parse(dict(items))
