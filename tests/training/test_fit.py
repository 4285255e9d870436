"""Local training: reproducible, counted right, equal to textbook steps."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_samples import make_adapted, make_examples

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import difference, norm
from fedpeft_app.backbone.load import load_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.data.encoded import ExampleSet, example_set
from fedpeft_app.data.tasks.causal_lm import CausalLM
from fedpeft_app.data.tasks.task import Batch
from fedpeft_app.data.tasks.text_classification import TextClassification
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.lora import Lora
from fedpeft_app.methods.method import MethodSettings
from fedpeft_app.training.evaluate import evaluate
from fedpeft_app.training.fit import FitReport, FitSettings, fit, training_mode

TASK = TextClassification()
PLAIN = FitSettings(
    batch_size=8,
    learning_rate=0.1,
    head_learning_rate=0.1,
    optimizer="sgd",
    schedule="constant",
    max_grad_norm=0.0,
)


@pytest.fixture(scope="module")
def adapted(tiny_model: Path) -> AdaptedModel:
    return make_adapted(tiny_model)


@pytest.fixture
def start(adapted: AdaptedModel) -> AdapterState:
    """A state in which every tensor has a gradient (LoRA's B is not zero)."""
    vector = 0.05 * np.random.default_rng(0).standard_normal(adapted.spec.size)
    return AdapterState(spec=adapted.spec, vector=vector.astype(np.float32))


def train(
    adapted: AdaptedModel,
    start: AdapterState,
    examples: ExampleSet,
    settings: FitSettings,
    *,
    round_number: int = 1,
    partition: int = 0,
) -> tuple[AdapterState, FitReport]:
    """Fit from a state; give the state after it and the report."""
    adapted.pour(start)
    report = fit(
        adapted,
        TASK,
        examples,
        settings,
        round_number=round_number,
        partition=partition,
    )
    return adapted.read(), report


def test_seed_round_and_partition_decide_every_bit(tiny_model: Path) -> None:
    adapted, examples = make_adapted(tiny_model, dropout=0.2), make_examples(24)
    start, settings = adapted.read(), FitSettings(batch_size=8, rounds=3)
    same = [
        train(adapted, start, examples, settings, round_number=2, partition=5)[0] for _ in range(2)
    ]
    assert same[0].vector.tobytes() == same[1].vector.tobytes()
    others = [
        train(adapted, start, examples, settings, round_number=2, partition=4)[0],
        train(adapted, start, examples, settings, round_number=1, partition=5)[0],
        train(adapted, start, examples, replace(settings, seed=1), round_number=2, partition=5)[0],
    ]
    assert len({state.vector.tobytes() for state in [same[0], *others]}) == 4


@pytest.mark.parametrize(
    ("count", "settings", "steps", "examples"),
    [
        (10, FitSettings(batch_size=4), 3, 10),  # batches of 4, 4, 2
        (10, FitSettings(batch_size=4, epochs=2), 6, 20),
        (10, FitSettings(batch_size=4, accumulation=2), 2, 10),  # 4 + 4, 2 in some order
        (10, FitSettings(batch_size=4, accumulation=4, epochs=2), 2, 20),  # over the epochs' border
        (10, FitSettings(batch_size=16, accumulation=3), 1, 10),
        (8, FitSettings(batch_size=4, max_steps=1), 1, 4),
        (8, FitSettings(batch_size=4, max_steps=3, epochs=9), 3, 12),
        (8, FitSettings(batch_size=4, max_steps=5), 2, 8),  # a cap, not a goal
        (1, FitSettings(batch_size=4), 1, 1),
    ],
)
def test_steps_and_examples_are_counted(
    adapted: AdaptedModel,
    start: AdapterState,
    count: int,
    settings: FitSettings,
    steps: int,
    examples: int,
) -> None:
    _, report = train(adapted, start, make_examples(count), settings)
    assert (report.steps, report.examples) == (steps, examples)


@pytest.mark.parametrize(("count", "whole"), [(8, 8), (6, 6), (5, 8)])
def test_accumulated_batches_equal_one_large_batch(
    adapted: AdaptedModel, start: AdapterState, count: int, whole: int
) -> None:
    # One SGD step; of 6 and 5 examples the second batch is the smaller one.
    examples = make_examples(count, words=5)
    parts, _ = train(adapted, start, examples, replace(PLAIN, batch_size=4, accumulation=2))
    at_once, report = train(adapted, start, examples, replace(PLAIN, batch_size=whole))
    assert report.steps == 1
    np.testing.assert_allclose(parts.vector, at_once.vector, rtol=0, atol=1e-6)


def test_accumulated_batches_of_unequal_answers_equal_one_batch(tiny_llama: Path) -> None:
    # Of one text 2 tokens are learnt, of the other 6 (~9 is given, not learnt): one SGD step.
    backbone = load_model(locate(str(tiny_llama), ""), kind="causal-lm", labels=())
    llama = adapt(backbone, Lora(), MethodSettings(rank=2, alpha=4.0), seed=0)
    vector = 0.05 * np.random.default_rng(0).standard_normal(llama.spec.size)
    begin = AdapterState(spec=llama.spec, vector=vector.astype(np.float32))
    examples = example_set([[~2, ~9, 10, 3], [~2, 11, 12, 13, 14, 15, 3]])
    results = []
    for settings in (PLAIN, replace(PLAIN, batch_size=1, accumulation=2)):
        llama.pour(begin)
        report = fit(llama, CausalLM(), examples, settings, round_number=1, partition=0)
        results.append((llama.read().vector, report))
    (at_once, whole), (parts, accumulated) = results
    assert whole.steps == accumulated.steps == 1
    np.testing.assert_allclose(parts, at_once, rtol=0, atol=1e-6)
    assert accumulated.loss == pytest.approx(whole.loss, rel=1e-6)


def test_padding_does_not_change_a_step(adapted: AdaptedModel, start: AdapterState) -> None:
    # Examples of 3 to 11 words: singly (no padding) or as one padded batch.
    examples = make_examples(8)
    single, _ = train(adapted, start, examples, replace(PLAIN, batch_size=1, accumulation=8))
    padded, _ = train(adapted, start, examples, PLAIN)
    np.testing.assert_allclose(single.vector, padded.vector, rtol=0, atol=1e-6)


def test_clipping_bounds_the_step(adapted: AdaptedModel, start: AdapterState) -> None:
    # The first SGD step at rate 1 is the gradient itself.
    settings = replace(PLAIN, learning_rate=1.0, head_learning_rate=1.0)
    free, _ = train(adapted, start, make_examples(8), settings)
    clipped, _ = train(adapted, start, make_examples(8), replace(settings, max_grad_norm=0.01))
    gradient, bounded = difference(free, start), difference(clipped, start)
    assert norm(gradient) > 0.1
    assert norm(bounded) == pytest.approx(0.01, rel=1e-3)
    direction = gradient.vector * (norm(bounded) / norm(gradient))
    np.testing.assert_allclose(bounded.vector, direction, rtol=0, atol=1e-6)


def test_a_small_gradient_is_not_stretched(adapted: AdaptedModel, start: AdapterState) -> None:
    free, _ = train(adapted, start, make_examples(8), PLAIN)
    clipped, _ = train(adapted, start, make_examples(8), replace(PLAIN, max_grad_norm=1e6))
    assert free.vector.tobytes() == clipped.vector.tobytes()


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 0.03), ("sgd", 0.3)])
def test_loss_falls_on_learnable_data(
    adapted: AdaptedModel, start: AdapterState, optimizer: str, rate: float
) -> None:
    settings = FitSettings(
        batch_size=8, optimizer=optimizer, learning_rate=rate, head_learning_rate=rate, rounds=4
    )
    state, losses = start, []
    for round_number in range(1, 5):
        state, report = train(
            adapted, state, make_examples(48), settings, round_number=round_number
        )
        losses.append(report.loss)
    assert losses[-1] < 0.5 * losses[0]


def test_the_reported_loss_is_the_mean_over_examples(
    adapted: AdaptedModel, start: AdapterState
) -> None:
    # At rate 0 the model stays, so the mean over batches of 8, 8 and 4 is the loss on all 20.
    examples = make_examples(20)
    still = replace(PLAIN, learning_rate=0.0, head_learning_rate=0.0)
    state, report = train(adapted, start, examples, still)
    judged = evaluate(adapted, TASK, examples, batch_size=20)
    assert state.vector.tobytes() == start.vector.tobytes()
    assert report.loss == pytest.approx(judged["loss"], rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_every_trainable_tensor_moves_and_no_other(
    adapted: AdaptedModel, start: AdapterState, optimizer: str
) -> None:
    frozen = {
        name: parameter.detach().clone()
        for name, parameter in adapted.model.named_parameters()
        if not parameter.requires_grad
    }
    end, _ = train(adapted, start, make_examples(24), replace(PLAIN, optimizer=optimizer))
    still = [name for name, delta in difference(end, start).tensors().items() if not delta.any()]
    assert still == []
    now = dict(adapted.model.named_parameters())
    assert frozen
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())


def test_global_generators_are_left_alone(tiny_model: Path) -> None:
    adapted = make_adapted(tiny_model, dropout=0.5)
    legacy = np.random.get_state  # the one under test
    before = torch.get_rng_state(), legacy()[1].tolist(), random.getstate()
    train(adapted, adapted.read(), make_examples(8), FitSettings(batch_size=4))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (legacy()[1].tolist(), random.getstate())


def test_global_generators_do_not_matter(tiny_model: Path) -> None:
    adapted = make_adapted(tiny_model, dropout=0.5)
    start, found = adapted.read(), []
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(train(adapted, start, make_examples(8), FitSettings())[0])
    assert found[0].vector.tobytes() == found[1].vector.tobytes()


def test_the_model_is_left_in_evaluation_mode(adapted: AdaptedModel, start: AdapterState) -> None:
    train(adapted, start, make_examples(4), FitSettings())
    assert not any(module.training for module in adapted.model.modules())


def test_a_fit_that_failed_leaves_nothing_behind(
    adapted: AdaptedModel, start: AdapterState
) -> None:
    clean, _ = train(adapted, start, make_examples(8), PLAIN)
    for parameter in adapted.trainable:  # as after running out of memory between two batches
        parameter.grad = torch.ones_like(parameter)
    after, _ = train(adapted, start, make_examples(8), PLAIN)
    assert after.vector.tobytes() == clean.vector.tobytes()


def test_a_round_of_one_step_learns_while_warming_up(
    adapted: AdaptedModel, start: AdapterState
) -> None:
    settings = replace(PLAIN, warmup=0.5, rounds=10)
    end, report = train(adapted, start, make_examples(4), settings)
    assert report.steps == 1
    assert norm(difference(end, start)) > 0.0


def test_bf16_trains_float32_weights(adapted: AdaptedModel, start: AdapterState) -> None:
    exact, _ = train(adapted, start, make_examples(8), PLAIN)
    rough, _ = train(adapted, start, make_examples(8), replace(PLAIN, precision="bf16"))
    step, error = norm(difference(exact, start)), norm(difference(rough, exact))
    assert rough.vector.dtype == np.float32
    assert 0.0 < error < 0.1 * step


def test_running_statistics_stay_as_the_checkpoint_has_them() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.5)).eval()
    before = model[0].running_mean.clone()
    with training_mode(model, seed=0):
        model(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        assert model[1].training  # the rest is in training
    assert torch.equal(model[0].running_mean, before)


class Overflowing:
    """A task whose loss leaves the range of numbers from some batch on, as in fp16 may happen."""

    def __init__(self, sound: int) -> None:
        self._sound = sound
        self.collate, self.weight = TASK.collate, TASK.weight

    def loss(self, model: Any, batch: Batch) -> torch.Tensor:
        self._sound -= 1
        loss = TASK.loss(model, batch)
        return loss if self._sound >= 0 else loss * 1e30 * 1e30


@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_in_fp16_steps_that_overflow_are_passed_over(
    adapted: AdaptedModel, start: AdapterState, max_norm: float
) -> None:
    examples = make_examples(24)
    half = replace(PLAIN, precision="fp16", max_grad_norm=max_norm)
    ends = []
    for sound, steps in ((1, 3), (1, 1)):
        adapted.pour(start)
        task: Any = Overflowing(sound)
        settings = replace(half, max_steps=steps)
        fit(adapted, task, examples, settings, round_number=1, partition=0)
        ends.append(adapted.read().vector)
    assert np.isfinite(ends[0]).all()
    assert (ends[0] != start.vector).any()
    assert (ends[0] == ends[1]).all()  # as if the first step had been the only one


def test_how_far_losses_are_scaled_is_forgotten_after_a_round(
    adapted: AdaptedModel, start: AdapterState
) -> None:
    half = replace(PLAIN, precision="fp16")
    first, _ = train(adapted, start, make_examples(16), half)
    overflowing: Any = Overflowing(0)
    fit(adapted, overflowing, make_examples(16), half, round_number=1, partition=1)
    again, _ = train(adapted, start, make_examples(16), half)
    assert (first.vector == again.vector).all()
