"""Evaluation of a model on encoded examples."""

from collections.abc import Callable

import numpy as np
import torch

from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.tasks.task import Metrics, Outputs, Task
from fedpeft_app.errors import TrainingError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.training.batches import sorted_batches
from fedpeft_app.training.frozen import frozen_skipped
from fedpeft_app.training.precision import arithmetic, autocast, placed

Progress = Callable[[float], None]


def outputs(
    adapted: AdaptedModel,
    task: Task,
    examples: ExampleSet,
    *,
    batch_size: int,
    precision: str = "fp32",
    frozen_cache_bytes: int = 0,
    progress: Progress = lambda share: None,
) -> Outputs:
    """Run a model over examples.

    Args:
        adapted: The model, with its adapter poured in.
        task: Collation, and what to give for each example.
        examples: What to run on, at least one.
        batch_size: Examples per forward pass.
        precision: "fp32", "bf16" or "fp16".
        frozen_cache_bytes: As in `FitSettings`; for examples that come again.
        progress: Told the share done, in (0, 1], after every batch.

    Returns:
        One row of float32 outputs per example, in the order of the examples.

    Raises:
        ValueError: If there is no example.
        TrainingError: If an output is NaN or infinite, as those of a state that diverged.

    Guarantee:
        In "fp32", a stock library that loads the exported adapter computes the same.
    """
    model = adapted.model
    where = next(model.parameters()).device
    model.eval()
    rows: Outputs | None = None
    done = 0
    own = arithmetic(model, precision)
    skipping = frozen_skipped(
        adapted, task, examples, precision=own, limit_bytes=frozen_cache_bytes
    )
    with skipping as start, torch.inference_mode(), autocast(own, where):
        for positions in sorted_batches(examples.lengths, batch_size):
            batch = task.collate(examples, positions)
            start.at(positions)
            found = task.outputs(model, placed(batch, where)).float().cpu().numpy()
            if rows is None:
                rows = np.empty((len(examples), found.shape[1]), dtype=np.float32)
            rows[positions] = found
            done += len(positions)
            progress(done / len(examples))
    if rows is None:
        raise ValueError("Expected at least one example to evaluate, got none.")
    _require_finite(rows, precision)
    return rows


def _require_finite(rows: Outputs, precision: str) -> None:
    """Refuse outputs that say nothing, and name their cause: what was poured into the model."""
    if broken := int((~np.isfinite(rows)).any(axis=1).sum()):
        raise TrainingError(
            f"Expected finite outputs of the model, got NaN or infinity for {broken} of "
            f"{len(rows)} examples: the state that it was given has values too large for "
            f"{precision}, because training diverged or a node sent such. Lower "
            f"train.learning-rate, use train.precision = 'fp32', or take a strategy that bounds "
            f"what single nodes can do (docs/strategies.md)."
        )


def evaluate(
    adapted: AdaptedModel,
    task: Task,
    examples: ExampleSet,
    *,
    batch_size: int,
    precision: str = "fp32",
    frozen_cache_bytes: int = 0,
    progress: Progress = lambda share: None,
) -> Metrics:
    """Judge a model on examples; arguments as for `outputs`."""
    found = outputs(
        adapted,
        task,
        examples,
        batch_size=batch_size,
        precision=precision,
        frozen_cache_bytes=frozen_cache_bytes,
        progress=progress,
    )
    return task.metrics(found, examples.selected_labels)
