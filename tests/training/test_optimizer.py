"""The client optimizer: rates by part, decay by shape."""

from typing import Any

import numpy as np
import pytest
import torch

from fedpeft_app.adapters import AdapterSpec, TensorSpec
from fedpeft_app.methods.adapted import AdaptedModel, Part
from fedpeft_app.training.optimizer import make_optimizer, set_rate

SHAPES = (
    TensorSpec(name="body.matrix", shape=(2, 2)),
    TensorSpec(name="body.vector", shape=(2,)),
    TensorSpec(name="head.matrix", shape=(2, 2), head=True),
    TensorSpec(name="head.vector", shape=(2,), head=True),
)


@pytest.fixture
def ones() -> AdaptedModel:
    """A model of a matrix and a vector in body and head, all ones; the head is personal."""
    nothing: Any = None
    return AdaptedModel(
        model=nothing,
        method=nothing,
        adaptation=nothing,
        backbone=nothing,
        shared=part(SHAPES[:2]),
        personal=part(SHAPES[2:]),
        drawn={},
    )


def part(shapes: tuple[TensorSpec, ...]) -> Part:
    """Tensors of ones."""
    nothing: Any = None
    return Part(
        spec=AdapterSpec(method="full", backbone="0", tensors=shapes, ranks={}),
        parameters=tuple(torch.nn.Parameter(torch.ones(tensor.shape)) for tensor in shapes),
        initial=nothing,
    )


def optimizer_of(ones: AdaptedModel, name: str) -> torch.optim.Optimizer:
    """Make an optimizer with rate 0.5 in the body, 0.25 in the head, decay 0.1."""
    return make_optimizer(
        ones, name=name, learning_rate=0.5, head_learning_rate=0.25, weight_decay=0.1
    )


def step(ones: AdaptedModel, optimizer: torch.optim.Optimizer, gradient: float) -> list[float]:
    """Step once with the same gradient everywhere, and give one value of each tensor."""
    for parameter in ones.trainable:
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()
    return [float(parameter.detach().reshape(-1)[0]) for parameter in ones.trainable]


def test_decay_shrinks_matrices_only(ones: AdaptedModel) -> None:
    # AdamW without a gradient: w ← w (1 − rate · decay).
    values = step(ones, optimizer_of(ones, "adamw"), 0.0)
    assert values == pytest.approx([1 - 0.05, 1.0, 1 - 0.025, 1.0])


def test_sgd_steps_by_the_rate_of_the_part(ones: AdaptedModel) -> None:
    # w ← w − rate · (gradient + decay · w), decay on matrices only.
    values = step(ones, optimizer_of(ones, "sgd"), 1.0)
    assert values == pytest.approx([1 - 0.5 * 1.1, 0.5, 1 - 0.25 * 1.1, 0.75])


def test_sgd_has_momentum(ones: AdaptedModel) -> None:
    optimizer = optimizer_of(ones, "sgd")
    step(ones, optimizer, 1.0)
    assert step(ones, optimizer, 0.0)[1] == pytest.approx(1 - 0.5 - 0.5 * 0.9)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_every_tensor_is_in_one_group(ones: AdaptedModel, name: str) -> None:
    groups = optimizer_of(ones, name).param_groups
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(map(id, ones.trainable))


def test_rates_are_shares_of_the_peak(ones: AdaptedModel) -> None:
    optimizer = optimizer_of(ones, "sgd")
    for factor in (0.5, 0.1):  # not compounded
        set_rate(optimizer, factor)
    rates = [group["lr"] for group in optimizer.param_groups]
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.025, 0.025])


def test_an_unknown_optimizer_is_refused(ones: AdaptedModel) -> None:
    with pytest.raises(ValueError, match="Unknown optimizer 'adam'. Known: adamw, sgd"):
        optimizer_of(ones, "adam")
