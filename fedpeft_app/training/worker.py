"""The warm worker: everything a node needs, loaded once per process, used every round."""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import difference, is_finite, norm
from fedpeft_app.adapters.parts import taken
from fedpeft_app.backbone.load import LOADS
from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.tasks.task import Metrics, Task
from fedpeft_app.errors import DataError, NodeStateError, TrainingError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.privacy.mechanism import Mechanism
from fedpeft_app.training.capacity import Share, Step, assigned, own_share, require_memory, within
from fedpeft_app.training.corrections import Control, Correction, Proximal
from fedpeft_app.training.engines import engine_of
from fedpeft_app.training.evaluate import evaluate
from fedpeft_app.training.fit import FitReport, FitSettings, fit, training_mode
from fedpeft_app.training.partial import resting, trained_part
from fedpeft_app.training.precision import arithmetic
from fedpeft_app.training.private import private_fit

_PROCESS = uuid.uuid4().hex[:12]  # a process id that does not say where the process runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What a round of training gives.

    Attributes:
        delta: Local − start, of the shared tensors that trained; what is sent.
        personal: The node's own parameters after it; often nothing.
        report: What was done.
        control: The node's next control variate of SCAFFOLD, for the tensors of `delta`; None
            if it was not asked for.
    """

    delta: AdapterState
    personal: AdapterState
    report: FitReport
    control: AdapterState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One node's view of a warm process.

    Attributes:
        adapted: The model, shared by all workers of the process.
        task: What it is trained to do.
        partition: The node's partition, from 0.
        train: The node's training examples.
        held_out: The node's own validation examples; may be empty.
        test: The node's own test examples; may be empty.
        settings: How to train.
        evaluate_batch_size: Examples per forward pass of evaluation.
    """

    adapted: AdaptedModel
    task: Task
    partition: int
    train: ExampleSet
    held_out: ExampleSet
    test: ExampleSet
    settings: FitSettings
    evaluate_batch_size: int

    def fit(
        self,
        start: AdapterState,
        round_number: int,
        *,
        personal: AdapterState | None = None,
        epochs: int = 0,
        part: str = "",
        proximal: float = 0.0,
        control: AdapterState | None = None,
        mechanism: Mechanism | None = None,
    ) -> Fitted:
        """Train from a state for one round.

        Args:
            start: The state to start from.
            round_number: Round, from 1.
            personal: The node's own parameters to start from; needed if the model has any.
            epochs: Passes over the data; 0 = as in the settings.
            part: What trains of what travels: "" for all, "a" or "b" for one factor of every
                low-rank module and all that belongs to none.
            proximal: FedProx's μ, from 0 = none.
            control: SCAFFOLD's c − c_i, for the tensors that train; None = none.
            mechanism: How examples are protected (DP-SGD); None = not at all.

        Returns:
            What moved, what is to be kept, and what was done.

        Raises:
            AdapterMismatchError: If a state is for another adapter, or the part is none of it.
            DataError: If the node holds no training examples.
            NodeStateError: If its own parameters are needed and not given.
            TrainingError: If nothing that travels moved, or something is not finite.
            ValueError: If μ is negative.

        Guarantee:
            What travels and does not train keeps every bit. With μ = 0, or a control of zeros,
            the delta has the bits of plain training.
        """
        if not len(self.train):
            raise DataError(f"Node {self.partition} holds no training examples.")
        settings = replace(self.settings, epochs=epochs) if epochs else self.settings
        self._pour(start, personal)
        trained = trained_part(self.adapted, part)
        steering = None if control is None else Control(trained, control)
        pull = Proximal(trained, proximal) if proximal else None
        corrections = [correction for correction in (steering, pull) if correction]
        with resting(self.adapted, trained):
            report = self._train(settings, round_number, corrections, mechanism)
        fitted = Fitted(
            delta=difference(trained.read(), taken(start, trained.spec)),
            personal=self.adapted.personal.read(),
            report=report,
            control=steering.mean() if steering else None,
        )
        _require_training(fitted, self.partition, round_number)
        return fitted

    def evaluate(
        self,
        state: AdapterState,
        round_number: int,
        *,
        personal: AdapterState | None = None,
        steps: int = 0,
    ) -> Metrics:
        """Judge a state on the examples this node holds out.

        Args:
            state: The state.
            round_number: The round it came of, from 1.
            personal: The node's own parameters; needed if the model has any.
            steps: Optimizer steps on the node's training examples first, at the constant peak
                rate; what they change is forgotten. 0 = none.

        Returns:
            Metric → value on the validation examples, which choose a round; and, where there
            are test examples, "test." and the metric → value on those.

        Raises:
            DataError: If it holds none out.
            AdapterMismatchError: If a state is for another adapter.
            NodeStateError: If its own parameters are needed and not given.
        """
        if not len(self.held_out):
            raise DataError(
                f"Node {self.partition} holds no validation examples. Set "
                f"data.node-validation-fraction above 0, or evaluate on the server only."
            )
        self._pour(state, personal)
        if steps:
            self._train(personalising(self.settings, steps, len(self.train)), round_number)
        measured = self._judge(self.held_out)
        if len(self.test):
            measured |= {f"test.{name}": value for name, value in self._judge(self.test).items()}
        return measured

    def require_sound_privacy(self) -> None:
        """Refuse a model whose examples cannot be protected one by one.

        Raises:
            PrivacyError: If nothing gives right per-sample gradients of it; says which tensor is
                off, and by how much.
        """
        precision = arithmetic(self.adapted.model, self.settings.precision)
        with training_mode(self.adapted.model, seed=0):
            engine_of(self.adapted, self.task, self.train, precision)

    def require_memory(self, length: int, *, private: bool) -> None:
        """Refuse to take part with a GPU, or a share of one, that does not hold a step.

        Args:
            length: Tokens of the longest example that the run's settings allow.
            private: Whether gradients of single examples are held.

        Raises:
            TrainingError: If it does not; says what to lower. Never on a CPU.
        """
        step = Step(
            batch_size=self.settings.batch_size,
            evaluate_batch_size=self.evaluate_batch_size if len(self.held_out) else 0,
            length=length,
            precision=self.settings.precision,
            private=private,
        )
        require_memory(self.adapted, self.task, self.train, step, self._share)

    def _judge(self, examples: ExampleSet) -> Metrics:
        """Judge what is in the model."""
        with within(self._share, "evaluation"):
            return evaluate(
                self.adapted,
                self.task,
                examples,
                batch_size=self.evaluate_batch_size,
                precision=self.settings.precision,
                frozen_cache_bytes=self.settings.frozen_cache_bytes,
            )

    def _pour(self, state: AdapterState, personal: AdapterState | None) -> None:
        """Fill the model: what all nodes share, and what is this node's own."""
        self.adapted.pour(state)
        if personal is not None:
            self.adapted.personal.pour(personal)
        elif self.adapted.personal.parameters:
            raise NodeStateError(
                "The order does not say which of its own parameters this node goes on from; "
                "the server runs another version of fedpeft, or another strategy loop."
            )

    def _train(
        self,
        settings: FitSettings,
        round_number: int,
        corrections: Sequence[Correction] = (),
        mechanism: Mechanism | None = None,
    ) -> FitReport:
        """Train what is in the model."""
        run = fit if mechanism is None else partial(private_fit, mechanism=mechanism)
        with within(self._share, "training"):
            return run(
                self.adapted,
                self.task,
                self.train,
                settings,
                round_number=round_number,
                partition=self.partition,
                corrections=corrections,
            )

    @property
    def _share(self) -> Share | None:
        """What this process may take of the GPU that holds the model; None on a CPU."""
        return own_share(self.adapted.trainable[0].device)


def personalising(settings: FitSettings, steps: int, examples: int) -> FitSettings:
    """Give the settings of a few steps for oneself, at a constant rate.

    Args:
        settings: The run's.
        steps: Optimizer steps, from 1.
        examples: Training examples of the node, from 1.
    """
    per_epoch = math.ceil(examples / (settings.batch_size * settings.accumulation))
    return replace(
        settings,
        epochs=math.ceil(steps / per_epoch),
        max_steps=steps,
        schedule="constant",
        warmup=0.0,
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
    if cpus := assigned("CPU", 1.0):
        torch.set_num_threads(max(1, int(cpus)))


def _require_training(fitted: Fitted, partition: int, round_number: int) -> None:
    """Refuse a round in which training did not happen."""
    where, report = f"Node {partition}, round {round_number}", fitted.report
    states = (fitted.delta, fitted.personal, fitted.control)
    if not all(is_finite(state) for state in states if state is not None):
        raise TrainingError(
            f"{where}: the trained adapter has values that are not finite (training loss "
            f"{report.loss:.4g}). Lower train.learning-rate, or use train.precision = 'fp32'."
        )
    if norm(fitted.delta) == 0.0 and report.loss != 0.0:  # at 0 there is nothing left to learn
        raise TrainingError(
            f"{where}: {report.steps} steps left every trainable tensor unchanged. "
            f"Check train.learning-rate and the method's settings; in fp16 steps that overflow "
            f"are passed over, maybe all: set train.precision = 'bf16' or 'fp32'."
        )
