"""Examples of a node: ε of DP-SGD holds against who sees every step; broken, it does not."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from audits import (
    CANARIES,
    CLIPPING,
    FEWER_RUNS,
    NOISE,
    RUNS,
    SILENCE,
    STEPS,
    TURNS,
    Adversary,
    Play,
    audit,
    in_turns,
    played,
    without_what_repeats,
)

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.data.encoded import ExampleSet, example_set
from fedpeft_app.data.tasks.task import Batch
from fedpeft_app.methods.adapted import AdaptedModel, Part
from fedpeft_app.privacy import dp_sgd
from fedpeft_app.privacy.dp_sgd import NoisySum, shortening
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.mechanism import Mechanism
from fedpeft_app.privacy.randomness import randomness
from fedpeft_app.training import private
from fedpeft_app.training.fit import FitSettings
from fedpeft_app.training.private import private_fit, schedule

TENSORS = 4
SETTINGS = FitSettings(
    batch_size=32, accumulation=CANARIES // TURNS // 32, epochs=STEPS // TURNS, optimizer="sgd"
)

Patch = pytest.MonkeyPatch


class Sums(torch.nn.Module):
    """Σ w·x over four w: every pixel pulls on a weight of its own in each tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(CANARIES, 1, bias=False) for _ in range(TENSORS)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([layer(x) for layer in self.layers]).sum(dim=(0, 2))


class Outputs:
    """A task whose loss is the output: the gradient of each tensor is the example's pixels."""

    def collate(self, examples: ExampleSet, positions: Any, *_: Any) -> Batch:
        rows = np.stack([examples.row(position) for position in positions])
        return {"x": torch.from_numpy(rows).float().flatten(1)}

    def losses(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return model(batch["x"])


OUTPUTS: Any = Outputs()


@pytest.fixture(scope="module")
def adapted() -> AdaptedModel:
    """Three tensors that travel, and one that is personal."""
    model = Sums()
    *first, last = model.parameters()
    unused: Any = None
    return AdaptedModel(
        model=model,
        method=unused,
        adaptation=unused,
        backbone=unused,
        shared=part(first),
        personal=part([last]),
        drawn={},
    )


def part(parameters: Sequence[torch.nn.Parameter]) -> Part:
    tensors = [
        TensorSpec(name=f"w{at}", shape=tuple(value.shape)) for at, value in enumerate(parameters)
    ]
    spec = AdapterSpec(method="sums", backbone="0" * 16, tensors=tuple(tensors), ranks={})
    initial = AdapterState(spec=spec, vector=np.zeros(spec.size, dtype=np.float32))
    return Part(spec=spec, parameters=tuple(parameters), initial=initial)


def canaries(there: np.ndarray) -> ExampleSet:
    """A pixel each, so that gradients have norm 510 ≫ C; who is not there has one of zeros."""
    return example_set([row[None] for row in np.diag(there).astype(np.uint8) * 255])


@pytest.fixture
def training(adapted: AdaptedModel) -> Play:
    def play(there: np.ndarray, run: int) -> tuple[np.ndarray, list[Event]]:
        seen: list[np.ndarray] = []

        def watch() -> None:  # corrections come after the noise
            total = torch.stack([value.grad for value in adapted.trainable]).double().sum(dim=0)
            seen.append(total.flatten().numpy())

        source = randomness(0, "audit", round_number=run)
        sampling, steps = schedule(CANARIES, SETTINGS)
        event = Event(noise_multiplier=NOISE, sampling=sampling, steps=steps)
        private_fit(
            adapted,
            OUTPUTS,
            canaries(there),
            SETTINGS,
            mechanism=Mechanism(event=event, clipping_norm=CLIPPING, randomness=source),
            round_number=1,
            partition=0,
            corrections=[watch],
        )
        unit = math.sqrt(TENSORS) * CLIPPING / (sampling * CANARIES)  # of C / q·n, in each tensor
        return np.stack(seen, axis=1) / unit, [event]

    return play


def test_training_leaks_no_more_than_it_says_and_more_than_half(training: Play) -> None:
    games = played(training, RUNS)
    assert games.claim == pytest.approx(1.515, abs=1e-3)
    assert 0.5 * games.claim < audit(games, Adversary()) <= games.claim


# ------------------------------------------------------------------ broken in many ways


def unclipped(patch: Patch) -> Adversary:
    patch.setattr(dp_sgd, "shortening", lambda rows, norm: torch.ones(len(rows[0])).double())
    return Adversary()


def clipped_tensor_by_tensor(patch: Patch) -> Adversary:
    def add(self: NoisySum, rows: Sequence[torch.Tensor]) -> None:
        for at, tensor in enumerate(rows):
            factors = shortening([tensor], self._mechanism.clipping_norm)
            self._sums[at] += torch.einsum("b,b...->...", factors, tensor.double())

    patch.setattr(NoisySum, "add", add)
    return Adversary()


def clipped_as_a_mean(patch: Patch) -> Adversary:
    def shorten(rows: Sequence[torch.Tensor], norm: float) -> torch.Tensor:
        mean = [tensor.mean(dim=0, keepdim=True) for tensor in rows]
        return shortening(mean, norm).expand(len(rows[0]))

    patch.setattr(dp_sgd, "shortening", shorten)
    return Adversary()


def half_the_noise(patch: Patch) -> Adversary:
    drawn = NoisySum._noise
    patch.setattr(NoisySum, "_noise", lambda self: [part / 2 for part in drawn(self)])
    return Adversary(noise=NOISE / 2)


def the_same_noise_in_every_step(patch: Patch) -> Adversary:
    drawn: dict[NoisySum, Any] = {}
    draw = NoisySum._noise
    patch.setattr(NoisySum, "_noise", lambda self: drawn.setdefault(self, draw(self)))
    return Adversary(noise=SILENCE, view=without_what_repeats)


def batches_in_turn(patch: Patch) -> Adversary:
    turns = itertools.cycle(np.arange(CANARIES).reshape(-1, TURNS).T)
    patch.setattr(private, "poisson_batches", lambda *_: [next(turns)])
    return in_turns(FEWER_RUNS)


@pytest.mark.parametrize(
    "fault",
    [
        unclipped,
        clipped_tensor_by_tensor,
        clipped_as_a_mean,
        half_the_noise,
        the_same_noise_in_every_step,
        batches_in_turn,
    ],
)
def test_training_that_is_broken_is_found_out(
    training: Play, monkeypatch: Patch, fault: Callable[[Patch], Adversary]
) -> None:
    adversary = fault(monkeypatch)
    games = played(training, FEWER_RUNS)
    assert audit(games, adversary) > 1.1 * games.claim
