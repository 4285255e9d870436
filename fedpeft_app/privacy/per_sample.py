"""The gradient of each example of a batch: two engines, and the loop that both must equal.

Opacus' hooks compute them layer by layer, from what went into a layer and the gradient of what
came out. They miss, or get wrong, what a layer does not do by itself: a parameter that another
module applies, rows of an embedding that are padding, images cut into windows. vmap differentiates
the whole model for all examples at once, at the same speed, wherever the model does not branch on
values. `soundness` finds out which is right.

Reference:
    Yousefpour et al. 2021, arXiv 2109.12298 (Opacus).
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch

from fedpeft_app.errors import PrivacyError

Batch = dict[str, torch.Tensor]  # inputs and labels, all `(batch, …)`
Losses = Callable[[Any, Batch], torch.Tensor]  # model, batch → each example's own, `(batch,)`
Rows = list[torch.Tensor]  # for each tensor that trains, a row an example: `(batch, *shape)`

_LEFT_ON_PARAMETERS = ("grad_sample", "_forward_counter", "_current_grad_sample")
_LEFT_ON_MODULES = ("activations", "max_batch_len", "ft_compute_sample_grad")


class PerSample(Protocol):
    """Differentiates the loss of each example of a batch."""

    def __call__(self, batch: Batch) -> Rows:
        """Give the gradients.

        Args:
            batch: At least one example.

        Returns:
            For every tensor that trains, in the model's order, `(batch, *shape)`, float32.

        Raises:
            PrivacyError: If there is not a gradient for every tensor and example.
        """
        ...


Engine = Callable[[torch.nn.Module, Losses], AbstractContextManager[PerSample]]


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Name what trains now, in the model's order."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def count(batch: Batch) -> int:
    """Count the examples of a batch."""
    return len(next(iter(batch.values())))


@contextmanager
def hooked(model: torch.nn.Module, losses: Losses) -> Iterator[PerSample]:
    """Have Opacus' hooks compute per-sample gradients; afterwards the model is as it was.

    Args:
        model: The model, in training mode. What trains stays the same meanwhile.
        losses: Each example's own loss.

    Raises:
        NotImplementedError: If a layer of which something trains has buffers.
    """
    parameters = trained(model)

    def gradients(batch: Batch) -> Rows:
        for parameter in parameters.values():
            parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
        losses(model, batch).sum().backward()  # type: ignore[no-untyped-call]
        return [_taken(name, value, count(batch)) for name, value in parameters.items()]

    try:
        # Where no input of a layer needs a gradient; what is used is that of its output.
        with _without_warning("Full backward hook is firing"):
            _opacus_hooks()(model, loss_reduction="sum")
            yield gradients
    finally:
        _unhook(model)


@contextmanager
def vmapped(model: torch.nn.Module, losses: Losses) -> Iterator[PerSample]:
    """Differentiate the whole model for all examples at once.

    Args:
        model: The model. What trains stays the same meanwhile.
        losses: Each example's own loss.
    """
    parameters = trained(model)

    def loss(values: Mapping[str, torch.Tensor], example: Batch) -> torch.Tensor:
        alone = {key: value.unsqueeze(0) for key, value in example.items()}
        with _replaced(model, {id(parameters[name]): value for name, value in values.items()}):
            return losses(model, alone).squeeze(0)

    # "different": each example has dropout of its own.
    rows = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0), randomness="different")

    def gradients(batch: Batch) -> Rows:
        found = rows({name: value.detach() for name, value in parameters.items()}, batch)
        return [
            _checked(name, value, found[name], count(batch)) for name, value in parameters.items()
        ]

    # Attention on a CPU, which then goes example by example, as everything without vmap would.
    with _without_warning("There is a performance drop"):
        yield gradients


def one_by_one(model: torch.nn.Module, losses: Losses, batch: Batch) -> Rows:
    """Differentiate the loss of one example after the other: slow, and right by definition.

    Args:
        model: The model.
        losses: Each example's own loss.
        batch: At least one example.

    Returns:
        As `PerSample`; zeros for a tensor that plays no part.
    """
    parameters = list(trained(model).values())
    found = []
    for at in range(count(batch)):
        alone = {key: value[at : at + 1] for key, value in batch.items()}
        loss = losses(model, alone).sum()
        found.append(
            torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        )
    return [torch.stack(rows).float() for rows in zip(*found, strict=True)]


def _taken(name: str, parameter: torch.nn.Parameter, examples: int) -> torch.Tensor:
    """Take what the hooks found for a parameter, and leave it without a gradient."""
    plays_no_part, rows = parameter.grad is None, parameter.grad_sample  # type: ignore[attr-defined]
    parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
    if plays_no_part:
        return torch.zeros_like(parameter).expand(examples, *parameter.shape)
    return _checked(name, parameter, rows, examples)


def _checked(
    name: str, parameter: torch.nn.Parameter, rows: torch.Tensor | None, examples: int
) -> torch.Tensor:
    """Refuse rows that are none; float32, for norms of half precision would be too small."""
    shape = (examples, *parameter.shape)
    if rows is None or not torch.is_tensor(rows) or tuple(rows.shape) != shape:
        found = "others" if torch.is_tensor(rows) else "none"  # how many is drawn in secret
        raise PrivacyError(
            f"Expected a gradient of '{name}', {tuple(parameter.shape)}, for each example of a "
            f"batch, got {found}. Take a method that docs/privacy.md says is exact."
        )
    return rows.detach().float()


@contextmanager
def _without_warning(message: str) -> Iterator[None]:
    """Keep to oneself what torch says to whoever calls it directly."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message)
        yield


def _opacus_hooks() -> Any:
    """Import Opacus, which sets up the root logger, and undo that."""
    before = list(logging.root.handlers)
    from opacus.grad_sample import GradSampleHooks

    logging.root.handlers[:] = before
    return GradSampleHooks


def _unhook(model: torch.nn.Module) -> None:
    """Take out what Opacus put in, however far it came; its own way needs all to have gone well."""
    for handle in model.__dict__.pop("autograd_grad_sample_hooks", ()):
        handle.remove()
    for module in model.modules():
        for name in _LEFT_ON_MODULES:
            module.__dict__.pop(name, None)
    for parameter in model.parameters():
        for name in _LEFT_ON_PARAMETERS:
            parameter.__dict__.pop(name, None)


@contextmanager
def _replaced(model: torch.nn.Module, values: Mapping[int, torch.Tensor]) -> Iterator[None]:
    """Put values in the places of parameters, by their id.

    torch.func.functional_call would do, but for modules with several parents: those it restores
    once and leaves as they were called otherwise.
    """
    places: list[tuple[dict[str, Any], str, torch.nn.Parameter]] = [
        (module._parameters, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and id(parameter) in values
    ]
    try:
        for held, name, parameter in places:
            held[name] = values[id(parameter)]
        yield
    finally:
        for held, name, parameter in places:
            held[name] = parameter
