"""A model of three weights, small enough to train by hand: w₁·x₁ + w₂·x₂ + v, with v personal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.data.encoded import ExampleSet, example_set
from fedpeft_app.data.tasks.task import Batch
from fedpeft_app.methods.adapted import AdaptedModel, Part


class Line(torch.nn.Module):
    """w·x + v, from zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2))
        self.v = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.w * x).sum(1) + self.v


class Squares:
    """Half the mean squared error: its gradient is error · (x₁, x₂, 1)."""

    def collate(self, examples: ExampleSet, positions: Any, *_: Any) -> Batch:
        rows = np.stack([examples.row(position) for position in positions])
        targets = examples.selected_labels[positions]
        return {"x": torch.tensor(rows).float(), "y": torch.tensor(targets).float()}

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return self.losses(model, batch).mean()

    def losses(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return 0.5 * (model(batch["x"]) - batch["y"]).square()

    def weight(self, batch: Batch) -> float:
        return len(batch["y"])


def line() -> AdaptedModel:
    """Three zeros; the third is a personal head."""
    model = Line()
    unused: Any = None
    return AdaptedModel(
        model=model,
        method=unused,
        adaptation=unused,
        backbone=unused,
        shared=part(TensorSpec(name="w", shape=(2,)), model.w),
        personal=part(TensorSpec(name="v", shape=(1,), head=True), model.v),
        drawn={},
    )


def part(tensor: TensorSpec, parameter: torch.nn.Parameter) -> Part:
    """One parameter, zero at first."""
    spec = AdapterSpec(method="line", backbone="0" * 16, tensors=(tensor,), ranks={})
    zeros = np.zeros(spec.size, dtype=np.float32)
    return Part(spec=spec, parameters=(parameter,), initial=AdapterState(spec=spec, vector=zeros))


def points(*rows: Sequence[int]) -> ExampleSet:
    """Examples (x₁, x₂, y)."""
    return example_set(
        [list(row[:2]) for row in rows], np.array([row[2] for row in rows], dtype=np.int64)
    )


def state_of(spec: AdapterSpec, values: Sequence[float]) -> AdapterState:
    return AdapterState(spec=spec, vector=np.array(values, dtype=np.float32))
