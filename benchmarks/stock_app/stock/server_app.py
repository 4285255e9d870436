"""FedAvg of Flower over arrays of zeros, or over the LoRA weights of a model."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Timed(FedAvg):
    """Stock FedAvg that writes down when each round begins and ends."""

    def __init__(self, times: Path, **settings) -> None:
        super().__init__(**settings)
        self._times, self._began = times, 0.0

    def configure_train(self, *args):
        """Begin a round."""
        self._began = time.time()
        return super().configure_train(*args)

    def aggregate_train(self, server_round, replies):
        """End a round."""
        replies = list(replies)
        found = super().aggregate_train(server_round, replies)
        trained = [reply.content["metrics"]["seconds"] for reply in replies]
        took = time.time() - self._began
        row = {"began": self._began, "seconds": took, "trained": max(trained)}
        with self._times.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return found


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run some rounds."""
    config = context.run_config
    if config["train"]:
        from stock.model import lora_model, weights

        initial = ArrayRecord(weights(lora_model(config["model"])))
    else:
        initial = ArrayRecord([np.zeros(76_808, dtype=np.float32)])
    strategy = Timed(Path(config["times"]), fraction_evaluate=0.0)
    strategy.start(grid=grid, initial_arrays=initial, num_rounds=config["rounds"])
