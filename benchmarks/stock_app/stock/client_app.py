"""Adds a constant; or loads model and data, trains, and sends the weights, every time."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Take part in a round."""
    arrays, seconds = message.content["arrays"], 0.0
    if context.run_config["train"]:
        from stock.model import batches_of, fine_tune, lora_model, pour, weights

        model = lora_model(context.run_config["model"])
        pour(model, arrays.to_torch_state_dict())
        batches = batches_of(
            context.run_config["model"],
            table_of(context),
            context.run_config["length"],
            "max_length" if context.run_config["pad-to-length"] else "do_not_pad",
        )
        began = time.time()
        fine_tune(model, batches, context.run_config["max-steps"])
        seconds = time.time() - began
        arrays = ArrayRecord(weights(model))
    else:
        arrays = ArrayRecord([one + np.float32(1e-3) for one in arrays.to_numpy_ndarrays()])
    metrics = MetricRecord({"num-examples": 1, "seconds": seconds})
    content = RecordDict({"arrays": arrays, "metrics": metrics})
    return Message(content=content, reply_to=message)


def table_of(context: Context) -> str:
    """Give the path of this node's table."""
    if folder := context.run_config["data"]:
        return f"{folder}/{context.node_config['partition-id']}.csv"
    return context.node_config["data-path"]
