"""Evaluation of a model on tokenised examples."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.tasks.task import Metrics, Task
from fedpeft_app.training.batches import sorted_batches
from fedpeft_app.training.precision import arithmetic, autocast

Progress = Callable[[float], None]


def logits(
    model: torch.nn.Module,
    task: Task,
    examples: ExampleSet,
    *,
    pad: int,
    batch_size: int,
    precision: str = "fp32",
    progress: Progress = lambda share: None,
) -> npt.NDArray[np.float32]:
    """Run a model over examples.

    Args:
        model: The torch module, with its adapter poured in.
        task: Collation.
        examples: What to run on, at least one.
        pad: Padding token id.
        batch_size: Examples per forward pass.
        precision: "fp32", "bf16" or "fp16".
        progress: Told the share done, in (0, 1], after every batch.

    Returns:
        One row of float32 outputs per example, in the order of the examples.

    Raises:
        ValueError: If there is no example.

    Guarantee:
        In "fp32", a stock library that loads the exported adapter computes the same.
    """
    where = next(model.parameters()).device
    model.eval()
    rows: npt.NDArray[np.float32] | None = None
    done = 0
    with torch.inference_mode(), autocast(arithmetic(model, precision), where):
        for positions in sorted_batches(examples.lengths, batch_size):
            batch = task.collate(examples, positions, pad)
            inputs = {key: value.to(where) for key, value in batch.items() if key != "labels"}
            outputs = model(**inputs).logits.float().cpu().numpy()
            if rows is None:
                rows = np.empty((len(examples), outputs.shape[1]), dtype=np.float32)
            rows[positions] = outputs
            done += len(positions)
            progress(done / len(examples))
    if rows is None:
        raise ValueError("Expected at least one example to evaluate, got none.")
    return rows


def evaluate(
    model: torch.nn.Module,
    task: Task,
    examples: ExampleSet,
    *,
    pad: int,
    batch_size: int,
    precision: str = "fp32",
    progress: Progress = lambda share: None,
) -> Metrics:
    """Judge a model on examples; arguments as for `logits`."""
    outputs = logits(
        model,
        task,
        examples,
        pad=pad,
        batch_size=batch_size,
        precision=precision,
        progress=progress,
    )
    return task.metrics(outputs, examples.selected_labels)
