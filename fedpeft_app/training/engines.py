"""Which engine computes the per-sample gradients of a model, found out once per process."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch

from fedpeft_app.backbone.masks import masks_always_built
from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.tasks.task import Batch, Task
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.privacy.per_sample import Engine, Losses, PerSample, hooked, trained, vmapped
from fedpeft_app.privacy.soundness import choose
from fedpeft_app.training.made_up import probes
from fedpeft_app.training.precision import arithmetic, autocast

# Shares of a tensor's largest gradient. By rounding alone float32 gave up to 1.2e-5, as the
# processor has it; layers and losses that mix examples give 1e-3 at the least.
_TOLERANCE = {"fp32": 1e-4, "bf16": 0.05, "fp16": 0.05}
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
