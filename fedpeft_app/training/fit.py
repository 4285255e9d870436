"""Local training: a plain loop over length-grouped batches."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.tasks.task import Task
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.seeds import derive_seed, numpy_generator
from fedpeft_app.training.batches import grouped_batches
from fedpeft_app.training.corrections import Correction
from fedpeft_app.training.frozen import Start, frozen_skipped
from fedpeft_app.training.optimizer import make_optimizer, set_rate
from fedpeft_app.training.precision import arithmetic, autocast, placed
from fedpeft_app.training.schedule import learning_rate_factor

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How every node trains, for the whole run.

    Attributes:
        epochs: Passes over the data per round.
        max_steps: Optimizer steps per round at most, 0 = no cap.
        batch_size: Examples per forward pass.
        accumulation: Forward passes per optimizer step.
        optimizer: "adamw" or "sgd".
        learning_rate: Peak rate of the body.
        head_learning_rate: Peak rate of the head.
        weight_decay: On matrices only.
        schedule: "linear", "cosine" or "constant".
        warmup: Share of the run, in [0, 1).
        max_grad_norm: Clip the global norm of the corrected gradient, 0 = never.
        precision: "fp32", "bf16" or "fp16", resolved.
        rounds: Rounds of the whole run.
        seed: The run's seed.
        frozen_cache_bytes: What the activations of frozen layers may take on a machine's disk;
            0 = frozen layers run in every pass.
    """

    epochs: int = 1
    max_steps: int = 0
    batch_size: int = 16
    accumulation: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    head_learning_rate: float = 1e-2
    weight_decay: float = 0.0
    schedule: str = "linear"
    warmup: float = 0.0
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    rounds: int = 1
    seed: int = 0
    frozen_cache_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What local training did.

    Attributes:
        examples: Examples processed, repeats counted.
        steps: Optimizer steps.
        loss: Mean training loss over what those examples have to learn (`Task.weight`); that
            of the task alone, without FedProx's term.
        seconds: Wall time of the loop.
        layers_skipped: Frozen layers that were not run, for it was known what they give.
    """

    examples: int
    steps: int
    loss: float
    seconds: float
    layers_skipped: int = 0


def fit(
    adapted: AdaptedModel,
    task: Task,
    examples: ExampleSet,
    settings: FitSettings,
    *,
    round_number: int,
    partition: int,
    corrections: Sequence[Correction] = (),
) -> FitReport:
    """Train the model on a node's examples for one round, in place.

    Args:
        adapted: The model, with the round's starting state poured in.
        task: Collation and loss.
        examples: The node's training examples, at least one.
        settings: The run's training settings.
        round_number: Round, from 1; decides where in the schedule this is.
        partition: The node's partition, from 0; with seed and round it decides batches
            and dropout.
        corrections: What changes the gradients of every step, in this order.

    Returns:
        What was done.
    """
    started = time.perf_counter()
    groups = step_groups(examples.lengths, settings, round_number, partition)
    optimizer = fresh_optimizer(adapted, settings)
    where = adapted.trainable[0].device
    precision = arithmetic(adapted.model, settings.precision)
    scaler = torch.amp.GradScaler(where.type, enabled=precision == "fp16")
    losses: list[torch.Tensor] = []  # read once, after the loop: no synchronisation per step
    weights: list[float] = []
    dropout = derive_seed(settings.seed, "dropout", round_number=round_number, partition=partition)
    variation = numpy_generator(
        settings.seed, "augmentation", round_number=round_number, partition=partition
    )
    skipping = _frozen_skipped(adapted, task, examples, settings, precision)
    with skipping as start, training_mode(adapted.model, dropout):
        for step, group in enumerate(groups):
            set_rate(optimizer, rate_factor(settings, round_number, step, len(groups)))
            batches = [task.collate(examples, positions, variation) for positions in group]
            parts = [task.weight(batch) for batch in batches]
            for positions, batch, part in zip(group, batches, parts, strict=True):
                start.at(positions)
                with autocast(precision, where):
                    loss = task.loss(adapted.model, placed(batch, where))
                scaler.scale(loss * (part / sum(parts))).backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach())
            weights += parts
            _step(adapted, optimizer, scaler, corrections, settings.max_grad_norm)
    return FitReport(
        examples=sum(len(positions) for group in groups for positions in group),
        steps=len(groups),
        loss=_mean_loss(losses, weights),
        seconds=time.perf_counter() - started,
        layers_skipped=start.layers,
    )


def _frozen_skipped(
    adapted: AdaptedModel, task: Task, examples: ExampleSet, settings: FitSettings, precision: str
) -> AbstractContextManager[Start]:
    """Start behind frozen layers, where it pays to keep what they give."""
    return frozen_skipped(
        adapted,
        task,
        examples,
        precision=precision,
        limit_bytes=settings.frozen_cache_bytes if examples_come_again(settings) else 0,
        augmented=True,
    )


def examples_come_again(settings: FitSettings) -> bool:
    """Say whether all of a node's examples come more than once in a run, if it always takes part.

    Args:
        settings: The run's training settings.
    """
    return settings.epochs * settings.rounds > 1 and not settings.max_steps


def rate_factor(settings: FitSettings, round_number: int, step: int, steps: int) -> float:
    """Give the share of the peak rate of one step.

    Args:
        settings: The run's training settings.
        round_number: Round, from 1.
        step: Step of the round, from 0.
        steps: Steps of the round.

    Returns:
        The schedule's factor where the step begins; while warming up, where it ends, since
        the run's first step would otherwise have rate 0 and a one-step round learn nothing.
    """
    begin, end = ((round_number - 1 + at / steps) / settings.rounds for at in (step, step + 1))
    at = begin if begin >= settings.warmup else min(end, settings.warmup)
    return learning_rate_factor(settings.schedule, at, settings.warmup)


def _mean_loss(losses: list[torch.Tensor], weights: list[float]) -> float:
    """Average the batches' losses by what each is the mean of."""
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return float(torch.stack(losses).cpu().double() @ shares)


def step_groups(
    lengths: Positions, settings: FitSettings, round_number: int, partition: int
) -> list[list[Positions]]:
    """List the batches of the round, grouped by optimizer step.

    Args:
        lengths: Tokens of each example of the node, at least one.
        settings: The run's training settings.
        round_number: Round, from 1.
        partition: The node's partition, from 0.
    """
    generator = numpy_generator(
        settings.seed, "batches", round_number=round_number, partition=partition
    )
    batches: Iterator[Positions] = (
        batch
        for _ in range(settings.epochs)
        for batch in grouped_batches(lengths, settings.batch_size, generator)
    )
    per_epoch = math.ceil(len(lengths) / settings.batch_size)
    steps = math.ceil(settings.epochs * per_epoch / settings.accumulation)
    if settings.max_steps:
        steps = min(steps, settings.max_steps)
    return [list(islice(batches, settings.accumulation)) for _ in range(steps)]


def fresh_optimizer(adapted: AdaptedModel, settings: FitSettings) -> torch.optim.Optimizer:
    """Make the optimizer of the settings, and forget what gradients there are.

    Args:
        adapted: The model.
        settings: The run's training settings.
    """
    optimizer = make_optimizer(
        adapted,
        name=settings.optimizer,
        learning_rate=settings.learning_rate,
        head_learning_rate=settings.head_learning_rate,
        weight_decay=settings.weight_decay,
    )
    optimizer.zero_grad(set_to_none=True)  # a fit that failed half-way left its gradients
    return optimizer


@contextmanager
def training_mode(model: torch.nn.Module, seed: int) -> Iterator[None]:
    """Enter training mode with seeded dropout, leaving the global generators as they were.

    Running statistics (BatchNorm's) stay as the checkpoint has them: they are no parameters,
    so they would neither travel nor be reset before the next node trains in this process.

    Args:
        model: The model; it is in evaluation mode afterwards.
        seed: Decides the dropout.
    """
    # Of all GPUs by default, which would make a context on each.
    used = {value.device for value in model.parameters() if value.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(used, key=str)):
        torch.manual_seed(seed)
        model.train()
        for module in model.modules():
            if getattr(module, "track_running_stats", False):
                module.eval()
        try:
            yield
        finally:
            model.eval()


def _step(
    adapted: AdaptedModel,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    corrections: Sequence[Correction],
    max_norm: float,
) -> None:
    """Correct, clip, step, and forget the gradients."""
    scaler.unscale_(optimizer)
    for correct in corrections:
        correct()
    if max_norm > 0:
        torch.nn.utils.clip_grad_norm_(adapted.trainable, max_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
