"""Local training of which every step is differentially private: DP-SGD on Poisson samples."""

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.tasks.task import Batch, Task
from fedpeft_app.errors import TrainingError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.privacy.dp_sgd import NoisySum
from fedpeft_app.privacy.mechanism import Mechanism
from fedpeft_app.privacy.per_sample import trained
from fedpeft_app.training.batches import poisson_batches
from fedpeft_app.training.corrections import Correction
from fedpeft_app.training.engines import engine_of, losses_of
from fedpeft_app.training.fit import (
    FitReport,
    FitSettings,
    fresh_optimizer,
    rate_factor,
    training_mode,
)
from fedpeft_app.training.optimizer import set_rate
from fedpeft_app.training.precision import arithmetic, placed

_MULTIPLE = 32  # tokens: an example is padded to a multiple of so many
_SEEDS = 2**53  # a float64 in [0, 1) has 53 random bits


def private_fit(
    adapted: AdaptedModel,
    task: Task,
    examples: ExampleSet,
    settings: FitSettings,
    *,
    mechanism: Mechanism,
    round_number: int,
    partition: int,
    corrections: Sequence[Correction] = (),
) -> FitReport:
    """Train the model on a node's examples for one round, in place.

    Each step draws every example with the same probability, shortens its gradient over all
    tensors that train, adds noise to the sum, and divides by the number drawn on average; the
    mechanism's event says how likely, how much and how often. Optimizer and corrections see
    nothing else. `settings.max_grad_norm` is passed over: it would shorten noise.

    Args:
        adapted: The model, with the round's starting state poured in.
        task: Collation and losses.
        examples: The node's training examples, at least one.
        settings: The run's training settings; epochs and steps are the mechanism's.
        mechanism: What was written down of this round, and where noise and samples come from.
        round_number: Round, from 1; decides where in the schedule of rates this is.
        partition: Not used: what is random here comes from the mechanism alone.
        corrections: What changes the gradients of every step, by nothing private.

    Returns:
        What was done, without what would tell of the data: no loss (NaN), and of the examples
        how many are drawn on average.

    Raises:
        PrivacyError: If no engine gives right per-sample gradients of this model.
        TrainingError: In fp16.
    """
    started = time.perf_counter()
    precision = _precision(adapted, settings)
    where = adapted.trainable[0].device
    steps, expected = mechanism.event.steps, mechanism.event.sampling * len(examples)
    optimizer = fresh_optimizer(adapted, settings)
    dropout, variation = _secrets(mechanism)
    whole = precision == "bf16"
    sample = partial(_sample, task, examples, settings, mechanism, variation, whole=whole)
    with training_mode(adapted.model, dropout):
        engine = engine_of(adapted, task, examples, precision)
        with engine(adapted.model, losses_of(task, precision, where)) as gradients:
            total = NoisySum(list(trained(adapted.model).values()), mechanism)
            for step in range(steps):
                set_rate(optimizer, rate_factor(settings, round_number, step, steps))
                for batch, drawn in sample():
                    total.add([rows[:drawn] for rows in gradients(placed(batch, where))])
                total.release(expected)
                _step(optimizer, corrections)
    return FitReport(
        examples=round(steps * expected),
        steps=steps,
        loss=math.nan,
        seconds=time.perf_counter() - started,
    )


def schedule(examples: int, settings: FitSettings, epochs: int = 0) -> tuple[float, int]:
    """Say how often a round samples the examples, and how many of them.

    Args:
        examples: Training examples of the node, from 1.
        settings: The run's training settings.
        epochs: Passes over the data; 0 = as in the settings.

    Returns:
        Probability of each example to be in the sample of a step, such that on average as many
        are as an optimizer step has without privacy, or all; and steps.
    """
    batch = settings.batch_size * settings.accumulation
    steps = (epochs or settings.epochs) * math.ceil(examples / batch)
    return min(1.0, batch / examples), min(steps, settings.max_steps or steps)


def _precision(adapted: AdaptedModel, settings: FitSettings) -> str:
    """Resolve the arithmetic, and refuse one that looks at the data: fp16 leaves out steps."""
    precision = arithmetic(adapted.model, settings.precision)
    if precision == "fp16":
        raise TrainingError(
            "Expected train.precision = 'bf16' or 'fp32' with privacy.mode = 'sample', got fp16, "
            "which leaves out steps that overflow. Set one of the two, or model.dtype."
        )
    return precision


def _sample(
    task: Task,
    examples: ExampleSet,
    settings: FitSettings,
    mechanism: Mechanism,
    variation: np.random.Generator,
    *,
    whole: bool,
) -> Iterator[tuple[Batch, int]]:
    """Draw the sample of a step, in batches that fit into memory; there may be none.

    Each batch comes with how many of its first examples were drawn. Where `whole`, others fill
    it up: how coarse numbers are rounded may follow from a batch's shape, and so, without this,
    from how many were drawn.
    """
    size = settings.batch_size
    for positions in poisson_batches(
        examples.lengths, mechanism.event.sampling, size, mechanism.randomness, _MULTIPLE
    ):
        filled = np.resize(positions, size) if whole else positions
        yield task.collate(examples, filled, variation, _MULTIPLE), len(positions)


def _secrets(mechanism: Mechanism) -> tuple[int, np.random.Generator]:
    """Give a seed of dropout, and what varies examples, that nobody knows.

    Batches share one generator: an example more changes what the others get of it, and with it
    their gradients. Only to those who cannot tell is that no change.
    """
    dropout, variation = mechanism.randomness.uniform(2) * _SEEDS
    return int(dropout), np.random.default_rng(int(variation))


def _step(optimizer: torch.optim.Optimizer, corrections: Sequence[Correction]) -> None:
    """Correct, step, and forget the gradients."""
    for correct in corrections:
        correct()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
