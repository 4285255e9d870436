"""Where the part of a model begins that training changes, and how to start from there.

Layers below the first adapted one give the same for an example in every pass. The model's own
forward pass is kept; while it starts from the cut, the layers before it give what is known of the
batch instead of computing it. Where only the head trains, and is given one row an example, nothing
but the head runs.

Nothing here knows an architecture. Gradients say where what changes begins: a made-up batch runs
with every tensor of the adapter asking for them, and what asks for none is before the cut. And
before a cut is used, the model must give on made-up batches what it gives without.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.tasks.task import Batch, Task
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.training.made_up import LENGTHS, probes
from fedpeft_app.training.precision import arithmetic, autocast

_TOLERANCE = {"fp32": 1e-4, "bf16": 0.05, "fp16": 0.05}  # of the largest output
_FOUND: WeakKeyDictionary[torch.nn.Module, dict[tuple[object, ...], "Cut | str"]] = (
    WeakKeyDictionary()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where a model's trained part begins.

    Attributes:
        layers: Layers that need not run, from 1.
        of: Layers that the model has.
        head: Whether nothing but the head has to run.
        rows: Rows of every example: patches of an image, or 1; 0 = one for each of its tokens.
        width: Numbers in a row.
        dtype: Type in which the model has them there.
        seen: The module whose output, or input, the rows are.
        skipped: Modules that give the rows, in the form of `gives`, instead of computing; none
            for the model itself, which a cut must not hold: it is what cuts are remembered by.
        gives: Rows of a batch → what a skipped module gives.
        digest: What the rows of made-up batches are, in sixteen hex digits.
    """

    layers: int
    of: int
    head: bool
    rows: int
    width: int
    dtype: torch.dtype
    seen: torch.nn.Module
    skipped: tuple[torch.nn.Module, ...]
    gives: Callable[[torch.Tensor], Any]
    digest: str = ""

    def compute(self, model: torch.nn.Module, task: Task, batch: Batch) -> torch.Tensor:
        """Run the model as far as the cut.

        Args:
            model: The model that was cut.
            task: Runs it.
            batch: What its `collate` gave, on the model's device.

        Returns:
            `(batch, longest, width)`.
        """
        found: list[torch.Tensor] = []

        def take(_: Any, inputs: tuple[Any, ...], output: Any = None) -> None:
            found.append(inputs[0] if self.head else _hidden(output))
            raise _Enough

        watch = (
            self.seen.register_forward_pre_hook if self.head else self.seen.register_forward_hook
        )
        handle = watch(take)
        try:
            with suppress(_Enough):
                task.outputs(model, batch)
        finally:
            handle.remove()
        return found[0].reshape(len(found[0]), -1, self.width)

    @contextmanager
    def started_from(self, model: torch.nn.Module) -> Iterator["Rows"]:
        """Let the model that was cut start there, with the rows that were given last."""
        given = Rows(dtype=self.dtype, flat=self.head)
        skipped = self.skipped or (model,)

        def forward(*_: Any, **__: Any) -> Any:
            return self.gives(given.now)

        # As attributes of the modules, which stand before the methods of their classes.
        own = [vars(module).get("forward") for module in skipped]
        try:
            for module in skipped:
                vars(module)["forward"] = forward
            yield given
        finally:
            for module, before in zip(skipped, own, strict=True):
                if before is None:
                    vars(module).pop("forward", None)
                else:
                    vars(module)["forward"] = before


@dataclass(slots=True, kw_only=True)
class Rows:
    """The rows of the batch that a model runs on next.

    Attributes:
        dtype: Type in which the model has them.
        flat: Whether an example has but one row, and no dimension for it.
    """

    dtype: torch.dtype
    flat: bool
    now: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def give(self, rows: torch.Tensor) -> None:
        """Say what the next batch is.

        Args:
            rows: `(batch, longest, width)`, on the model's device.
        """
        self.now = rows[:, 0].to(self.dtype) if self.flat else rows.to(self.dtype)


def find_cut(adapted: AdaptedModel, task: Task, examples: ExampleSet) -> Cut | str:
    """Find where the part of a model begins that training changes, once per process.

    Args:
        adapted: The model; it is in evaluation mode afterwards.
        task: What it is trained to do.
        examples: Examples whose kind, and nothing else, is looked at.

    Returns:
        The cut, or why there is none, as half a sentence.
    """
    known = _FOUND.setdefault(adapted.model, {})
    key = (type(task), bool(examples.shape))
    if key not in known:
        adapted.model.eval()  # what a method added is in training mode, and may have dropout
        try:
            known[key] = _found(adapted, task, examples)
        except Exception as error:  # noqa: BLE001  nobody's task has to stand what is made up
            known[key] = f"it fails on made-up batches ({type(error).__name__}: {error})"
    return known[key]


def varies(task: Task, examples: ExampleSet) -> bool:
    """Say whether training varies examples, as augmentation does: it draws random numbers.

    Args:
        task: What collates.
        examples: At least one example.
    """
    generator = np.random.default_rng(0)
    before = str(generator.bit_generator.state)
    task.collate(examples, np.zeros(1, np.int64), generator)
    return str(generator.bit_generator.state) != before


class _Enough(Exception):  # noqa: N818 - no error: it ends a forward pass whose rest is not needed
    """The cut is reached."""


@dataclass(slots=True, kw_only=True)
class _Trace:
    """What was seen of a forward pass.

    Attributes:
        layers: Which layer ran, and what it gave, in the order in which they ran.
        head: What the head was given and what it gave, each time that it ran.
        dropout: Whether there is dropout on what the head is given.
        model: What the model gave.
    """

    layers: list[tuple[int, Any]] = field(default_factory=list)
    head: list[tuple[Any, Any]] = field(default_factory=list)
    dropout: bool = False
    model: Any = None


def _found(adapted: AdaptedModel, task: Task, examples: ExampleSet) -> Cut | str:
    """Find the cut, and try it out."""
    layers = _layers(adapted.model)
    head = _smallest_around(adapted.model, adapted.trainable)
    batches = probes(adapted, task, examples)
    trace = _traced(adapted, task, batches[0], layers, head)
    if not layers or [index for index, _ in trace.layers] != list(range(len(layers))):
        return "it has no layers that run one after the other, once each"
    hidden = [_hidden(output) for _, output in trace.layers]
    still = [value is not None and not value.requires_grad for value in hidden]
    frozen = still.index(False) if False in still else len(still)
    if not frozen:
        return "its first layer is trained, or what stands before it"
    if frozen == len(layers) and _suffices(head, trace):
        cut: Cut | str = _before_head(head, trace, frozen)
    else:
        cut = _between_layers(layers, frozen, trace, None if examples.shape else batches[0])
    return cut if isinstance(cut, str) else _tried(cut, adapted, task, batches)


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Find the layers of a model: of its lists of modules, the one with most parameters."""
    lists = [list(one) for one in model.modules() if isinstance(one, torch.nn.ModuleList)]
    return max(lists, key=lambda layers: sum(map(_size, layers)), default=[])


def _smallest_around(
    model: torch.nn.Module, parameters: tuple[torch.nn.Parameter, ...]
) -> torch.nn.Module:
    """Find the smallest module that holds all of some parameters."""
    wanted = {id(value) for value in parameters}
    around = (one for one in model.modules() if wanted <= {id(own) for own in one.parameters()})
    return min(around, key=_size)


def _size(module: torch.nn.Module) -> int:
    """Count the parameters of a module."""
    return sum(value.numel() for value in module.parameters())


def _traced(
    adapted: AdaptedModel,
    task: Task,
    batch: Batch,
    layers: list[torch.nn.Module],
    head: torch.nn.Module,
) -> _Trace:
    """Run a batch, with all that may change asking for gradients, and note what passes by."""
    model, trace = adapted.model, _Trace()
    changing = (*adapted.shared.parameters, *adapted.personal.parameters)
    asked = [value.requires_grad for value in changing]

    def drops(*_: Any) -> None:
        trace.dropout |= len(trace.layers) == len(layers) and not trace.head

    def ends(_: Any, __: Any, output: Any) -> None:
        trace.model = output

    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            note = partial(_note_layer, trace, index)
            stack.callback(layer.register_forward_hook(note).remove)
        stack.callback(head.register_forward_hook(partial(_note_head, trace)).remove)
        for module in set(model.modules()) - set(head.modules()):
            if isinstance(module, torch.nn.Dropout) and module.p > 0:
                stack.callback(module.register_forward_hook(drops).remove)
        stack.callback(model.register_forward_hook(ends).remove)
        try:
            for value in changing:
                value.requires_grad_(True)
            with autocast(arithmetic(model, "fp32"), changing[0].device):
                task.outputs(model, batch)
        finally:
            for value, before in zip(changing, asked, strict=True):
                value.requires_grad_(before)
    return trace


def _note_layer(trace: _Trace, index: int, _: Any, __: Any, output: Any) -> None:
    """Note what a layer gave."""
    trace.layers.append((index, output))


def _note_head(trace: _Trace, _: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Note what the head was given, and what it gave."""
    trace.head.append((inputs[0] if len(inputs) == 1 else None, output))


def _suffices(head: torch.nn.Module, trace: _Trace) -> bool:
    """Say whether the head, given one row an example, gives just what the model gives."""
    if trace.dropout or len(trace.head) != 1:  # the rows would lack the dropout
        return False
    given, gave = trace.head[0]
    whole = getattr(trace.model, "logits", None)
    return torch.is_tensor(given) and given.dim() == 2 and whole is gave and gave is not None


def _before_head(head: torch.nn.Module, trace: _Trace, layers: int) -> Cut:
    """Cut a model so that nothing but the head runs."""
    given, form = trace.head[0][0], type(trace.model)
    return Cut(
        layers=layers,
        of=layers,
        head=True,
        rows=1,
        width=given.shape[1],
        dtype=given.dtype,
        seen=head,
        skipped=(),
        gives=lambda rows: form(logits=head(rows)),
    )


def _between_layers(
    layers: list[torch.nn.Module], frozen: int, trace: _Trace, tokens: Batch | None
) -> Cut | str:
    """Cut a model behind its last frozen layer; `tokens` is the batch, None for images."""
    output = trace.layers[frozen - 1][1]
    last = _hidden(output)
    if last.dim() != 3:
        return "its layers do not give a row of numbers for each token"
    if tokens is not None and "attention_mask" not in tokens:
        return "its batches do not say which tokens are padding"
    if tokens is not None and tokens["attention_mask"].sum(dim=1).tolist() != [*LENGTHS[0]]:
        return "its task adds tokens to examples, or leaves some out"
    if tokens is not None and last.shape[:2] != (len(LENGTHS[0]), max(LENGTHS[0])):
        return "its layers see other tokens than those of the batch's longest example"
    bare = torch.is_tensor(output)
    return Cut(
        layers=frozen,
        of=len(layers),
        head=False,
        rows=last.shape[1] if tokens is None else 0,
        width=last.shape[2],
        dtype=last.dtype,
        seen=layers[frozen - 1],
        skipped=tuple(layers[:frozen]),
        gives=lambda rows: rows if bare else (rows,),
    )


def _tried(cut: Cut, adapted: AdaptedModel, task: Task, batches: list[Batch]) -> Cut | str:
    """Compare what the model gives from the cut with what it gives from its start."""
    model, precision = adapted.model, arithmetic(adapted.model, "fp32")
    digest = hashlib.sha256()
    with torch.no_grad(), autocast(precision, adapted.trainable[0].device):
        for batch in batches:
            whole = task.outputs(model, batch)
            rows = cut.compute(model, task, batch)
            if not cut.rows:
                rows = _without_padding(rows, batch["attention_mask"].sum(dim=1))
            with cut.started_from(model) as given:
                given.give(rows)
                ours = task.outputs(model, batch)
            digest.update(rows.float().cpu().numpy().tobytes())
            most = _TOLERANCE[precision] * max(1.0, float(whole.abs().max()))
            if not float((ours - whole).abs().max()) <= most:  # also NaN
                return "it gives something else when it starts behind its frozen layers"
    return replace(cut, digest=digest.hexdigest()[:16])


def _without_padding(rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Keep the first rows of each example, as they are stored."""
    numbers = torch.arange(rows.shape[1], device=rows.device)
    return rows * (numbers[None, :] < lengths[:, None])[:, :, None].to(rows.dtype)


def _hidden(output: Any) -> Any:
    """Give the hidden states of what a layer gives; None if they are not all of it."""
    if isinstance(output, tuple) and len(output) == 1:
        output = output[0]
    return output if torch.is_tensor(output) else None
