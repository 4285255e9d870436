"""Which engine gives per-sample gradients that are right, tried out on the model itself.

A list of what works would be wrong as soon as a library changed, and some failures are silent: a
prompt that is computed once a batch has the gradient of the whole batch as if of one example; a
loss that is a mean over the tokens of a batch weighs an example by how long the others are.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from fedpeft_app.errors import PrivacyError
from fedpeft_app.privacy.per_sample import Batch, Engine, Losses, Rows, one_by_one, trained

_EQUAL = 1e-5
_SHIFT = 0.05  # of tensors that start from zero, or no gradient would flow through them
_RATE = 0.1  # of the one step
_WIDTH = 300  # characters of a message: vmap's say what they mean late


def choose(
    engines: Mapping[str, Engine],
    model: torch.nn.Module,
    exact: Losses,
    losses: Losses,
    probes: Sequence[Batch],
    *,
    tolerance: float,
) -> str:
    """Find the first engine that is right: on the model without dropout, and able to train.

    Args:
        engines: What there is, by name; the first are preferred.
        model: The model, in training mode. Afterwards it is as it was, bit by bit.
        exact: Each example's own loss, as precisely as can be computed.
        losses: The same as training computes it.
        probes: Batches of at least two examples, of different sizes and with padding. They are
            made up: what is refused must not depend on private examples.
        tolerance: Largest difference from the gradients of single examples, as a share of a
            tensor's largest gradient; an absolute 1e-5 is allowed of all.

    Returns:
        Its name.

    Raises:
        PrivacyError: If none is right; says why for each.
    """
    faults = {}
    used = {value.device for value in model.parameters() if value.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(used, key=str)), _shifted(model):
        with _without_dropout(model):
            singly = [one_by_one(model, exact, probe) for probe in probes]
        for name, engine in engines.items():
            try:
                with _without_dropout(model):
                    for probe, expected in zip(probes, singly, strict=True):
                        _require_equal(engine, model, exact, probe, expected, tolerance)
                _require_a_step(engine, model, losses, probes[0])
            except Exception as error:  # noqa: BLE001  libraries fail in ways of their own
                faults[name] = " ".join(str(error).split())[:_WIDTH].rstrip(".")
            else:
                return name
    raise PrivacyError(
        f"Expected gradients of single examples that do not depend on the batch, got "
        f"{'; '.join(f'with {name}: {fault}' for name, fault in faults.items())}. "
        f"With privacy.mode = 'sample', take a method that docs/privacy.md says is exact: "
        f"lora and ln are on every model that was tried."
    )


def _require_equal(
    engine: Engine,
    model: torch.nn.Module,
    losses: Losses,
    probe: Batch,
    expected: Rows,
    tolerance: float,
) -> None:
    """Compare what an engine gives with the gradients of single examples."""
    with engine(model, losses) as gradients:
        found = gradients(probe)
    for name, rows, right in zip(trained(model), found, expected, strict=True):
        off = float((rows - right).abs().max())
        largest = float(right.abs().max())
        if not off <= max(_EQUAL, tolerance * largest):  # also NaN
            raise PrivacyError(f"'{name}' is off by {off:.1e} (largest gradient {largest:.1e})")


def _require_a_step(engine: Engine, model: torch.nn.Module, losses: Losses, probe: Batch) -> None:
    """Train one step as training does, without noise: what trains moves, nothing else does."""
    parameters = trained(model)
    before = {name: value.detach().clone() for name, value in parameters.items()}
    resting = _digest(model)
    with engine(model, losses) as gradients:
        for parameter, rows in zip(parameters.values(), gradients(probe), strict=True):
            parameter.grad = rows.sum(dim=0)
    optimizer = torch.optim.SGD(parameters.values(), lr=_RATE)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if all(torch.equal(value, before[name]) for name, value in parameters.items()):
        raise PrivacyError("a step moves nothing")
    if _digest(model) != resting:
        raise PrivacyError("a step moves frozen weights")


def _digest(model: torch.nn.Module) -> list[int]:
    """Add up the bytes of every tensor that does not train."""
    tensors = [*model.parameters(), *model.buffers()]
    return [
        int(value.detach().contiguous().view(-1).view(torch.uint8).sum())
        for value in tensors
        if not value.requires_grad
    ]


@contextmanager
def _shifted(model: torch.nn.Module) -> Iterator[None]:
    """Move what trains off zero, and back again."""
    parameters = trained(model).values()
    before = [value.detach().clone() for value in parameters]
    torch.manual_seed(0)  # of no private value; the caller's generators are restored
    try:
        with torch.no_grad():
            for value in parameters:
                value.add_(torch.randn_like(value), alpha=_SHIFT)
        yield
    finally:
        with torch.no_grad():
            for value, kept in zip(parameters, before, strict=True):
                value.copy_(kept)
                value.grad = None


@contextmanager
def _without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Leave training mode, except where hooks look: in modules of which something trains."""
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        module.training = any(value.requires_grad for value in module.parameters(recurse=False))
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
