"""Which engine computes the per-sample gradients of a model, found out once per process."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import numpy as np
import torch

from fedpeft_app.backbone.masks import masks_always_built
from fedpeft_app.data.encoded import ExampleSet, example_set
from fedpeft_app.data.tasks.task import Batch, Task
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.privacy.per_sample import Engine, Losses, PerSample, hooked, trained, vmapped
from fedpeft_app.privacy.soundness import choose
from fedpeft_app.training.fit import placed
from fedpeft_app.training.precision import arithmetic, autocast

_TOLERANCE = {"fp32": 1e-5, "bf16": 0.05, "fp16": 0.05}  # frozen weights of half precision round
_LENGTHS = ((4, 7), (5, 3, 6))  # tokens of the made-up examples of two batches
_CHOSEN: WeakKeyDictionary[torch.nn.Module, dict[tuple[object, ...], str]] = WeakKeyDictionary()


@contextmanager
def _vmapped(model: torch.nn.Module, losses: Losses) -> Iterator[PerSample]:
    """Let vmap through the models of transformers."""
    with masks_always_built(), vmapped(model, losses) as gradients:
        yield gradients


ENGINES: Mapping[str, Engine] = {"hooks": hooked, "vmap": _vmapped}


def engine_of(adapted: AdaptedModel, task: Task, examples: ExampleSet, precision: str) -> Engine:
    """Find an engine that is right for what trains now.

    Args:
        adapted: The model, in training mode.
        task: What it is trained to do.
        examples: Examples whose kind, and nothing else, is looked at.
        precision: "fp32" or "bf16".

    Returns:
        The engine; tried out when a model is first seen.

    Raises:
        PrivacyError: If there is none.
    """
    model: torch.nn.Module = adapted.model
    known = _CHOSEN.setdefault(model, {})
    key = (type(task), precision, *trained(model))
    if key not in known:
        exactly = arithmetic(model, "fp32")
        known[key] = choose(
            ENGINES,
            model,
            losses_of(task, exactly, adapted.trainable[0].device),
            losses_of(task, precision, adapted.trainable[0].device),
            probes(adapted, task, examples),
            tolerance=_TOLERANCE[exactly],
        )
    return ENGINES[known[key]]


def losses_of(task: Task, precision: str, where: torch.device) -> Losses:
    """Give each example's loss as it is computed in a precision.

    Args:
        task: What the model is trained to do.
        precision: "fp32", "bf16" or "fp16".
        where: The model's device.
    """

    def losses(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        with autocast(precision, where):
            return task.losses(model, batch)

    return losses


def probes(adapted: AdaptedModel, task: Task, examples: ExampleSet) -> list[Batch]:
    """Make up two batches, of two examples and of three; token rows differ in length.

    Args:
        adapted: The model that they are for.
        task: What it is trained to do.
        examples: Examples of the same kind: pixels of a shape or tokens, one label or many.
    """
    where = adapted.trainable[0].device
    return [placed(made_up(adapted, task, examples, lengths), where) for lengths in _LENGTHS]


def made_up(
    adapted: AdaptedModel, task: Task, examples: ExampleSet, lengths: Sequence[int]
) -> Batch:
    """Make up a batch that says nothing of anybody's examples.

    Args:
        adapted: The model that it is for.
        task: What it is trained to do.
        examples: Examples of the same kind.
        lengths: Tokens of each; for images only how many there are counts.
    """
    generator = np.random.default_rng(len(lengths))
    labels = np.indices((len(lengths), *examples.labels.shape[1:])).sum(axis=0) % 2
    rows = [_row(adapted, examples, length, generator) for length in lengths]
    made = example_set(rows, labels.astype(examples.labels.dtype))
    return task.collate(made, np.arange(len(lengths)))


def _row(
    adapted: AdaptedModel, examples: ExampleSet, length: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw the pixels of an image, or tokens."""
    if examples.shape:
        return generator.integers(0, 256, examples.shape).astype(np.uint8)
    vocabulary = len(adapted.model.get_input_embeddings().weight)
    return generator.integers(0, vocabulary, length).astype(np.int32)
