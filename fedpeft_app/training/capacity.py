"""Whether what a client has of a GPU holds a step of training: tried, not reckoned.

Several clients may share a GPU (`--client-gpus 0.25`). Ray counts their shares and enforces
nothing, so each process takes no more than its own from PyTorch's allocator; and at the roll call
each tries one step on made-up examples of the run's batch size and length. What must not depend
on a node's data does not.

Covered: the model, activations and gradients of a step, the optimizer's state, a batch of
evaluation. Not covered: memory that breaks into pieces over many steps of different lengths, and
the server's own process, which has no share. Nothing here is done on a CPU.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import torch

from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.tasks.task import Batch, Task
from fedpeft_app.errors import CapacityError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.training.engines import engine_of, losses_of
from fedpeft_app.training.fit import training_mode
from fedpeft_app.training.made_up import made_up
from fedpeft_app.training.precision import arithmetic, autocast, placed

# What a process takes of a GPU besides the allocator: CUDA's context and its libraries'. A few
# hundred MiB in common reports; not measured by us.
_BESIDES_BYTES = 512 * 2**20
_GIB = 2**30
_TRIED: WeakKeyDictionary[torch.nn.Module, set[tuple[object, ...]]] = WeakKeyDictionary()
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How large what a client computes at once is.

    Attributes:
        batch_size: Examples per forward and backward pass.
        evaluate_batch_size: Examples per forward pass of evaluation; 0 = nodes judge nothing.
        length: Tokens of the longest example; not used for images.
        precision: "fp32", "bf16" or "fp16".
        private: Whether gradients of single examples are held.
    """

    batch_size: int
    evaluate_batch_size: int
    length: int
    precision: str
    private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What this process may take of a GPU.

    Attributes:
        fraction: Of the GPU, in (0, 1].
        total_bytes: Memory of the whole GPU.
    """

    fraction: float
    total_bytes: int

    @property
    def allowed_bytes(self) -> int:
        """Memory for PyTorch's allocator, from 0."""
        return max(0, int(self.fraction * self.total_bytes) - _BESIDES_BYTES)

    def __str__(self) -> str:
        return (
            f"{self.allowed_bytes / _GIB:.1f} GiB that this client may take (a share of "
            f"{self.fraction:g} of {self.total_bytes / _GIB:.1f} GiB)"
        )


def assigned(resource: str, usual: float = 0.0) -> float:
    """Say how much of a resource Ray assigned to this actor; 0 outside of one.

    Args:
        resource: "CPU" or "GPU".
        usual: What an actor has for which none was asked for.
    """
    if "RAY_JOB_ID" not in os.environ and "RAY_RAYLET_PID" not in os.environ:
        return 0.0
    import ray

    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return 0.0
    return float(ray.get_runtime_context().get_assigned_resources().get(resource, usual))


@cache
def own_share(where: torch.device) -> Share | None:
    """Find this process's share of its GPU, and keep to it from now on; None on a CPU.

    Raises:
        CapacityError: If the share is too small to hold anything.
    """
    if where.type != "cuda":
        return None
    total = torch.cuda.get_device_properties(where).total_memory
    share = Share(fraction=min(1.0, assigned("GPU") or 1.0), total_bytes=total)
    if not share.allowed_bytes:
        raise CapacityError(
            f"Expected a share of the GPU that holds CUDA itself ({_BESIDES_BYTES / _GIB:g} GiB), "
            f"got {share.fraction:g} of {total / _GIB:.1f} GiB. Raise --client-gpus, or start "
            f"fewer --trainers on a node."
        )
    if share.fraction < 1.0:
        index = where.index if where.index is not None else torch.cuda.current_device()
        torch.cuda.set_per_process_memory_fraction(share.allowed_bytes / total, index)
    return share


@contextlib.contextmanager
def within(share: Share | None, what: str) -> Iterator[None]:
    """Name what did not fit into memory, and what to do.

    Args:
        share: This process's; None where no GPU is used, and nothing is caught.
        what: What is computed, for the message.

    Raises:
        CapacityError: In place of PyTorch's error.
    """
    if share is None:
        yield
        return
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            f"Expected {what} to fit into the {share}, got out of memory. Lower train.batch-size, "
            f"evaluate.batch-size or data.max-length, set train.gradient-checkpointing = true, "
            f"take a smaller model.dtype or model.quantization, or give "
            f"this client more of the GPU (--client-gpus; fewer --trainers of a node's worker)."
        ) from error


def require_memory(
    adapted: AdaptedModel, task: Task, examples: ExampleSet, step: Step, share: Share | None
) -> None:
    """Try a step of training and a batch of evaluation, once per process and size.

    Args:
        adapted: The model, on its device. Afterwards it is as it was.
        task: Collation and loss.
        examples: Examples whose kind, and nothing else, is looked at.
        step: How large.
        share: This process's; None = there is no GPU, and nothing to try.

    Raises:
        CapacityError: If it does not fit.
    """
    if share is None:
        return
    tried = _TRIED.setdefault(adapted.model, set())
    key = (type(task), step, share)
    if key in tried:
        return
    made = made_up(adapted, task, examples, (step.length,) * step.batch_size)
    with within(share, f"a step of {step.batch_size} examples (train.batch-size)"):
        _train(adapted, task, examples, made, step)
    if step.evaluate_batch_size:
        sizes = (step.length,) * step.evaluate_batch_size
        made = made_up(adapted, task, examples, sizes)
        with within(share, f"{step.evaluate_batch_size} examples (evaluate.batch-size)"):
            _evaluate(adapted, task, made, step)
    tried.add(key)
    _log.info("A step fits into the %s.", share)


def _train(
    adapted: AdaptedModel, task: Task, examples: ExampleSet, batch: Batch, step: Step
) -> None:
    """Compute the gradients of a step beside what an optimizer holds; nothing moves."""
    precision = arithmetic(adapted.model, step.precision)
    where = adapted.trainable[0].device
    compute = _privately if step.private else _plainly
    held = [torch.zeros_like(value) for value in adapted.trainable for _ in range(2)]  # as AdamW
    with training_mode(adapted.model, seed=0):
        try:
            compute(adapted, task, examples, batch, precision, where)
        finally:
            for value in adapted.trainable:
                value.grad = None
    del held


def _plainly(
    adapted: AdaptedModel,
    task: Task,
    examples: ExampleSet,
    batch: Batch,
    precision: str,
    where: torch.device,
) -> None:
    """Go forward and backward as `fit` does."""
    with autocast(precision, where):
        loss = task.loss(adapted.model, placed(batch, where))
    loss.backward()  # type: ignore[no-untyped-call]


def _privately(
    adapted: AdaptedModel,
    task: Task,
    examples: ExampleSet,
    batch: Batch,
    precision: str,
    where: torch.device,
) -> None:
    """Go forward and backward as `private_fit` does, beside its sum in float64."""
    total = [torch.zeros_like(value, dtype=torch.float64) for value in adapted.trainable]
    engine = engine_of(adapted, task, examples, precision)
    with engine(adapted.model, losses_of(task, precision, where)) as gradients:
        gradients(placed(batch, where))
    del total


def _evaluate(adapted: AdaptedModel, task: Task, batch: Batch, step: Step) -> None:
    """Go forward as `evaluate` does."""
    where = adapted.trainable[0].device
    precision = arithmetic(adapted.model, step.precision)
    with torch.inference_mode(), autocast(precision, where):
        task.outputs(adapted.model, placed(batch, where))
