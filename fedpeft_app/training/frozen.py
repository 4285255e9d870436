"""Frozen layers run once per example: later passes and rounds start at the first trained layer.

What they give is kept on the machine's disk for all of its processes and runs (`data.activations`),
in the arithmetic of the run: bfloat16 under "bf16", which rounds what layers pass on to one
another, else float32. Dropout in frozen layers is off by that.

Covered: training without privacy, and evaluation that is repeated. Not covered: training with
privacy, where nothing that was computed of other examples may be in an example's gradient, not
even in its last bits; inputs that training varies; methods that change the first layer, or what
stands before it (prompts).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fedpeft_app.data.activations import Activations, Rows, Shape, activations
from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.tasks.task import Task
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.training.batches import sorted_batches
from fedpeft_app.training.cut import Cut, find_cut, varies
from fedpeft_app.training.precision import arithmetic, autocast, placed

Positions = npt.NDArray[np.int64]

AT_ONCE = 16  # examples per forward pass; part of what the last bits depend on, so it is fixed
_TOLD: set[str] = set()
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where in the model a pass over examples starts.

    Attributes:
        layers: Layers that are not run; 0 = it starts at its beginning.
        at: Says which examples the model runs on next, by their positions.
    """

    layers: int
    at: Callable[[Positions], None]


@contextmanager
def frozen_skipped(
    adapted: AdaptedModel,
    task: Task,
    examples: ExampleSet,
    *,
    precision: str,
    limit_bytes: int,
    augmented: bool = False,
) -> Iterator[Start]:
    """Let a model start at its first trained layer, if it can.

    Args:
        adapted: The model.
        task: Collation, and how the model is run.
        examples: What it runs on meanwhile.
        precision: "fp32", "bf16" or "fp16", resolved.
        limit_bytes: What activations may take on this machine's disk together; 0 = none.
        augmented: Whether the task may vary the examples.

    Yields:
        Where it starts. Before each forward pass it must be told what the pass is of.

    Guarantee:
        The model gives what it gives without, but for rounding.
    """
    cut = _useful_cut(adapted, task, examples, augmented=augmented) if limit_bytes else None
    kept = _kept(cut, adapted, task, examples, precision, limit_bytes) if cut else None
    if cut is None or kept is None:
        yield Start(layers=0, at=lambda positions: None)
        return
    where = adapted.trainable[0].device
    with cut.started_from(adapted.model) as given:
        yield Start(
            layers=cut.layers,
            at=lambda positions: given.give(_loaded(kept.batch(positions)).to(where)),
        )


def _useful_cut(
    adapted: AdaptedModel, task: Task, examples: ExampleSet, *, augmented: bool
) -> Cut | None:
    """Find where a model may start on examples that lie in a store; None if that is no help."""
    if not examples.source or not len(examples):
        return None
    cut = find_cut(adapted, task, examples)
    if augmented and varies(task, examples):
        cut = "training varies its examples (task.options)"
    if isinstance(cut, str):
        _tell(f"All layers run in every pass: {cut}.")
        return None
    _tell(f"{cut.layers} of {cut.of} layers are frozen, and run once per example.")
    return cut


def _kept(
    cut: Cut,
    adapted: AdaptedModel,
    task: Task,
    examples: ExampleSet,
    precision: str,
    limit_bytes: int,
) -> Activations | None:
    """Open what frozen layers make of examples, or compute it; None if there is no room."""
    own, where = arithmetic(adapted.model, precision), adapted.trainable[0].device
    machine = (own, where.type, torch.__version__, torch.get_num_threads())  # decide the last bits
    shape = Shape(
        rows=np.full(len(examples), cut.rows, np.int64) if cut.rows else examples.lengths,
        width=cut.width,
        dtype="uint16" if own == "bf16" and not cut.head else "float32",
    )
    return activations(
        (adapted.spec.backbone, cut.digest, cut.layers, *machine),
        examples,
        shape,
        lambda empty: _fill(empty, cut, adapted, task, examples, own),
        limit_bytes,
    )


def _fill(
    empty: Activations,
    cut: Cut,
    adapted: AdaptedModel,
    task: Task,
    examples: ExampleSet,
    precision: str,
) -> None:
    """Run the frozen layers over all examples."""
    where = adapted.trainable[0].device
    adapted.model.eval()
    with torch.inference_mode(), autocast(precision, where):
        for positions in sorted_batches(examples.lengths, AT_ONCE):
            batch = placed(task.collate(examples, positions), where)
            rows = cut.compute(adapted.model, task, batch).cpu()
            empty.put(positions, _stored(rows, str(empty.values.dtype)))


def _stored(rows: torch.Tensor, dtype: str) -> Rows:
    """Give rows as they are stored."""
    if dtype == "uint16":
        return rows.to(torch.bfloat16).view(torch.uint16).numpy()
    return rows.float().numpy()


def _loaded(rows: Rows) -> torch.Tensor:
    """Give stored rows as a tensor."""
    tensor = torch.from_numpy(rows)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def _tell(what: str) -> None:
    """Log something once per process."""
    if what not in _TOLD:
        _TOLD.add(what)
        _log.info(what)
