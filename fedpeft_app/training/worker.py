"""The warm worker: everything a node needs, loaded once per process, used every round."""

import os
import uuid
from dataclasses import dataclass, replace

import torch

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import difference, is_finite, norm
from fedpeft_app.backbone.load import LOADS
from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.tasks.task import Metrics, Task
from fedpeft_app.errors import DataError, TrainingError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.training.evaluate import evaluate
from fedpeft_app.training.fit import FitReport, FitSettings, fit

_PROCESS = uuid.uuid4().hex[:12]  # a process id that does not say where the process runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One node's view of a warm process.

    Attributes:
        adapted: The model, shared by all workers of the process.
        task: What it is trained to do.
        pad: Padding token id.
        partition: The node's partition, from 0.
        train: The node's training examples.
        held_out: The node's own validation examples; may be empty.
        settings: How to train.
        evaluate_batch_size: Examples per forward pass of evaluation.
    """

    adapted: AdaptedModel
    task: Task
    pad: int
    partition: int
    train: ExampleSet
    held_out: ExampleSet
    settings: FitSettings
    evaluate_batch_size: int

    def fit(
        self, start: AdapterState, round_number: int, epochs: int = 0
    ) -> tuple[AdapterState, FitReport]:
        """Train from a state for one round.

        Args:
            start: The state to start from.
            round_number: Round, from 1.
            epochs: Passes over the data; 0 = as in the settings.

        Returns:
            The delta, local − start, and what was done.

        Raises:
            AdapterMismatchError: If the state is for another adapter.
            DataError: If the node holds no training examples.
            TrainingError: If nothing moved, or something is not finite.
        """
        if not len(self.train):
            raise DataError(f"Node {self.partition} holds no training examples.")
        settings = replace(self.settings, epochs=epochs) if epochs else self.settings
        self.adapted.pour(start)
        report = fit(
            self.adapted,
            self.task,
            self.train,
            settings,
            pad=self.pad,
            round_number=round_number,
            partition=self.partition,
        )
        delta = difference(self.adapted.read(), start)
        _require_training(delta, report, self.partition, round_number)
        return delta, report

    def evaluate(self, state: AdapterState) -> Metrics:
        """Judge a state on the examples this node holds out.

        Raises:
            DataError: If it holds none out.
        """
        if not len(self.held_out):
            raise DataError(
                f"Node {self.partition} holds no validation examples. Set "
                f"data.node-validation-fraction above 0, or evaluate on the server only."
            )
        self.adapted.pour(state)
        return evaluate(
            self.adapted.model,
            self.task,
            self.held_out,
            pad=self.pad,
            batch_size=self.evaluate_batch_size,
            precision=self.settings.precision,
        )


def process_facts() -> dict[str, str | int]:
    """Say which process this is and how often it loaded a backbone."""
    return {
        "process": _PROCESS,
        "backbone-loads": max(LOADS.values(), default=0),
        "threads": torch.get_num_threads(),
    }


def use_assigned_threads() -> None:
    """Use as many threads as the scheduler gave this process; others stay free."""
    if assigned := _assigned_cpus():
        torch.set_num_threads(assigned)


def _assigned_cpus() -> int:
    """Read how many CPUs Ray assigned to this actor; 0 outside of one."""
    if "RAY_JOB_ID" not in os.environ and "RAY_RAYLET_PID" not in os.environ:
        return 0
    import ray

    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return 0
    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1.0)
    return max(1, int(cpus))


def _require_training(
    delta: AdapterState, report: FitReport, partition: int, round_number: int
) -> None:
    """Refuse a round in which training did not happen."""
    where = f"Node {partition}, round {round_number}"
    if not is_finite(delta):
        raise TrainingError(
            f"{where}: the trained adapter has values that are not finite (training loss "
            f"{report.loss:.4g}). Lower train.learning-rate, or use train.precision = 'fp32'."
        )
    if norm(delta) == 0.0:
        raise TrainingError(
            f"{where}: {report.steps} steps left every trainable tensor unchanged. "
            f"Check train.learning-rate and the method's settings."
        )
