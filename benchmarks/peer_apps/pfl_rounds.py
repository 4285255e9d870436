"""Rounds of pfl with users that do nothing: prints when each began, as JSON.

pfl simulates users one after the other in one process: nothing is serialised, sent or kept. So
this is what a loop over users costs, and no federation.

    python pfl_rounds.py CLIENTS ROUNDS VALUES
"""

import json
import sys
import time
from typing import Any

import numpy as np
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import ModelHyperParams
from pfl.metrics import Metrics
from pfl.model.base import StatefulModel
from pfl.stats import MappedVectorStatistics

NAME, STEP = "adapter", np.float32(1e-3)


class Vector(StatefulModel):
    """A model that is one vector."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.vector = np.zeros(values, dtype=np.float32)

    def get_parameters(self, placeholders: Any = None) -> MappedVectorStatistics:
        return MappedVectorStatistics({NAME: self.vector.copy()})

    def set_parameters(self, w: MappedVectorStatistics) -> None:
        self.vector = w[NAME].copy()

    def get_model_difference(self, other_parameters: Any, clone: Any = None) -> Any:
        return MappedVectorStatistics({NAME: self.vector - other_parameters[NAME]})

    def apply_model_update(self, statistics: MappedVectorStatistics) -> tuple[Any, Metrics]:
        self.vector = self.vector + statistics[NAME]
        return self, Metrics()

    def evaluate(self, dataset: Any, name_formatting_fn: Any, eval_params: Any = None) -> Metrics:
        return Metrics()

    def save(self, dir_path: str) -> None:
        raise NotImplementedError

    def load(self, dir_path: str) -> None:
        raise NotImplementedError


class Idle(FederatedAveraging):
    """FedAvg in which to train is to add a constant."""

    def train_one_user(
        self, initial_model_state: Any, model: Any, user_dataset: Any, central_context: Any
    ) -> tuple[Any, Metrics]:
        model.vector = model.vector + STEP
        return model.get_model_difference(initial_model_state), Metrics()


class Clock(TrainingProcessCallback):
    """Notes when rounds end, which is when the next ones begin."""

    def __init__(self) -> None:
        self.began = [time.time()]

    def after_central_iteration(
        self, aggregate_metrics: Any, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self.began.append(time.time())
        return False, Metrics()


def main() -> None:
    clients, rounds, values = map(int, sys.argv[1:4])
    nothing = {str(user): [np.zeros((1, 1), dtype=np.float32)] for user in range(clients)}
    users = FederatedDataset.from_slices(nothing, get_user_sampler("minimize_reuse", [*nothing]))
    clock = Clock()
    Idle().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds,
            train_cohort_size=clients,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=users, val_data=users),
        model=Vector(values),
        model_train_params=ModelHyperParams(),
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    print(json.dumps({"began": clock.began[:-1]}))


if __name__ == "__main__":
    main()
