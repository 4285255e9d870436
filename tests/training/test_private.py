"""Training with privacy: by hand on a line, and step by step on a tiny BERT."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from line_samples import Squares, line, points
from training_samples import make_adapted, make_examples

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import difference, norm
from fedpeft_app.data.encoded import ExampleSet, example_set
from fedpeft_app.data.tasks.text_classification import TextClassification
from fedpeft_app.errors import TrainingError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.privacy import dp_sgd
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.mechanism import Mechanism
from fedpeft_app.privacy.randomness import SeededRandomness, randomness
from fedpeft_app.training import engines, private
from fedpeft_app.training.corrections import Proximal
from fedpeft_app.training.evaluate import evaluate
from fedpeft_app.training.fit import FitReport, FitSettings, fit
from fedpeft_app.training.partial import resting
from fedpeft_app.training.private import private_fit, schedule

TASK = TextClassification()
PLAIN = FitSettings(
    batch_size=8,
    optimizer="sgd",
    learning_rate=0.1,
    head_learning_rate=0.1,
    schedule="constant",
    max_grad_norm=0.0,
)
WIDE = 1e6  # a clipping norm that clips nothing
SQUARES: Any = Squares()


@dataclass
class Told:
    """Randomness that draws samples as it is told, and whose noise is ones."""

    samples: list[list[float]]
    drawn: list[int] = field(default_factory=list)
    seeded: bool = False

    def uniform(self, size: int) -> np.ndarray:
        if not self.seeded:  # the seeds of dropout and variation
            self.seeded = True
            return np.full(size, 0.5)
        return np.array(self.samples.pop(0))

    def normal(self, size: int) -> np.ndarray:
        self.drawn.append(size)
        return np.ones(size)


def told(*samples: list[float], noise: float = 0.0, clipping_norm: float = WIDE) -> Mechanism:
    event = Event(noise_multiplier=noise, sampling=1.0, steps=1)
    return Mechanism(event=event, clipping_norm=clipping_norm, randomness=Told(list(samples)))


def seeded(noise: float = 0.0, clipping_norm: float = WIDE, seed: int = 0) -> Mechanism:
    event = Event(noise_multiplier=noise, sampling=1.0, steps=1)
    source = SeededRandomness(np.random.default_rng(seed))
    return Mechanism(event=event, clipping_norm=clipping_norm, randomness=source)


def scheduled(mechanism: Mechanism, examples: int, settings: FitSettings) -> Mechanism:
    """Give a mechanism the samples and steps of a round."""
    sampling, steps = schedule(examples, settings)
    return replace(mechanism, event=replace(mechanism.event, sampling=sampling, steps=steps))


@pytest.fixture
def a_line(monkeypatch: pytest.MonkeyPatch) -> AdaptedModel:
    """w·x + v from zeros; its probes are made by hand, for it has no vocabulary."""
    made = [SQUARES.collate(points((1, 2, 3), (4, 5, 6)), np.arange(2)) for _ in range(2)]
    monkeypatch.setattr(engines, "probes", lambda *_: made)
    return line()


@pytest.fixture(scope="module")
def adapted(tiny_model: Path) -> AdaptedModel:
    return make_adapted(tiny_model)


@pytest.fixture
def start(adapted: AdaptedModel) -> Iterator[AdapterState]:
    yield adapted.initial
    adapted.pour(adapted.initial)


def train(
    adapted: AdaptedModel,
    count: int,
    settings: FitSettings,
    mechanism: Mechanism,
    round_number: int = 1,
    **more: Any,
) -> tuple[AdapterState, FitReport]:
    adapted.pour(adapted.initial)
    report = private_fit(
        adapted,
        TASK,
        make_examples(count),
        settings,
        mechanism=scheduled(mechanism, count, settings),
        round_number=round_number,
        partition=0,
        **more,
    )
    return adapted.read(), report


def on_line(adapted: AdaptedModel, mechanism: Mechanism, **settings: Any) -> list[float]:
    """One round on two points, (1, 2) → 1 and (3, 4) → 10, at rate 1; gives (w₁, w₂, v)."""
    chosen = {"learning_rate": 1.0, "head_learning_rate": 1.0, "batch_size": 1, **settings}
    private_fit(
        adapted,
        SQUARES,
        points((1, 2, 1), (3, 4, 10)),
        replace(PLAIN, **chosen),
        mechanism=scheduled(mechanism, 2, replace(PLAIN, **chosen)),
        round_number=1,
        partition=0,
    )
    return [
        *adapted.shared.parameters[0].tolist(),
        *adapted.personal.parameters[0].tolist(),
    ]


# ------------------------------------------------------------------ by hand
# From zeros, ½ (w·x + v − y)² has the gradient −y (x₁, x₂, 1): (−1, −2, −1) and (−30, −40, −10).

NONE, FIRST, BOTH = [0.9, 0.9], [0.1, 0.9], [0.1, 0.1]  # drawn where below q = ½


def test_a_step_by_hand(a_line: AdaptedModel) -> None:
    assert on_line(a_line, told(BOTH), max_steps=1) == [31.0, 42.0, 11.0]  # divided by q n = 1


def test_the_divisor_is_the_size_of_an_average_sample(a_line: AdaptedModel) -> None:
    assert on_line(a_line, told(BOTH), batch_size=2) == [15.5, 21.0, 5.5]  # q = 1, so 2
    a_line.pour(a_line.initial)
    a_line.personal.pour(a_line.personal.initial)
    assert on_line(a_line, told(FIRST), max_steps=1) == [1.0, 2.0, 1.0]  # one came, 1 expected


def test_clipping_is_over_what_is_shared_and_what_is_personal_together(
    a_line: AdaptedModel,
) -> None:
    # ‖(−1, −2, −1)‖ = √6; shortened to 1 as a whole. Apart, v would move by 1.
    moved = on_line(a_line, told(FIRST, clipping_norm=1.0), max_steps=1)
    assert moved == pytest.approx([1 / 6**0.5, 2 / 6**0.5, 1 / 6**0.5], rel=1e-5)


def test_an_empty_sample_is_a_step_of_noise(a_line: AdaptedModel) -> None:
    # Noise of ones, z C = 2 · 3, divided by the one expected; the gradient is subtracted.
    mechanism = told(NONE, noise=2.0, clipping_norm=3.0)
    assert on_line(a_line, mechanism, max_steps=1) == [-6.0, -6.0, -6.0]
    assert isinstance(mechanism.randomness, Told)
    assert mechanism.randomness.drawn == [3]


def test_every_step_draws_noise_once_whatever_came(a_line: AdaptedModel) -> None:
    mechanism = told(NONE, BOTH, NONE, BOTH, noise=1.0, clipping_norm=1.0)
    on_line(a_line, mechanism, epochs=2)
    assert isinstance(mechanism.randomness, Told)
    assert mechanism.randomness.drawn == [3] * 4
    assert mechanism.randomness.samples == []  # and a sample each


def test_what_rests_is_neither_clipped_over_nor_given_noise(a_line: AdaptedModel) -> None:
    with resting(a_line, a_line.personal):
        moved = on_line(a_line, told(FIRST, noise=1.0, clipping_norm=1.0), max_steps=1)
    assert moved == pytest.approx([0.0, 0.0, 1.0 - 1.0], abs=1e-5)  # v: clipped to 1, noise 1


def test_corrections_see_the_noisy_gradient_and_come_after_it(a_line: AdaptedModel) -> None:
    # After a step from 0 to −1 on noise 1, FedProx with μ = ½ adds −½: 1 − ½ is the next.
    shared = a_line.shared
    settings = replace(PLAIN, learning_rate=1.0, head_learning_rate=1.0, batch_size=1, max_steps=2)
    private_fit(
        a_line,
        SQUARES,
        points((1, 2, 1), (3, 4, 10)),
        settings,
        mechanism=scheduled(told(NONE, NONE, noise=1.0, clipping_norm=1.0), 2, settings),
        round_number=1,
        partition=0,
        corrections=[Proximal(shared, 0.5)],
    )
    # With momentum 0.9: −1, then −1 − (0.9 · 1 + 0.5)
    assert shared.parameters[0].tolist() == pytest.approx([-2.4, -2.4])


@pytest.mark.parametrize(
    ("examples", "epochs", "most", "expected"),
    [
        (113, 1, 0, (16 / 113, 8)),
        (113, 2, 0, (16 / 113, 16)),
        (113, 1, 3, (16 / 113, 3)),
        (16, 1, 0, (1.0, 1)),
        (3, 2, 0, (1.0, 2)),  # fewer examples than a batch
        (1, 1, 0, (1.0, 1)),
    ],
)
def test_the_schedule_by_hand(
    examples: int, epochs: int, most: int, expected: tuple[float, int]
) -> None:
    settings = FitSettings(batch_size=4, accumulation=4, epochs=epochs, max_steps=most)
    assert schedule(examples, settings) == pytest.approx(expected)
    assert schedule(examples, replace(settings, epochs=7), epochs) == pytest.approx(expected)


# ------------------------------------------------------------------ on a model


def test_without_clipping_and_noise_a_step_on_all_is_a_plain_one(
    adapted: AdaptedModel, start: AdapterState
) -> None:
    settings = replace(PLAIN, batch_size=12)
    found, report = train(adapted, 12, settings, seeded())
    adapted.pour(start)
    fit(adapted, TASK, make_examples(12), settings, round_number=1, partition=0)
    expected = adapted.read()
    assert norm(difference(expected, start)) > 0.1
    np.testing.assert_allclose(found.vector, expected.vector, rtol=0, atol=1e-6)
    assert (report.steps, report.examples) == (1, 12)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_a_step_in_many_small_batches_is_the_same(
    adapted: AdaptedModel, start: AdapterState, count: int
) -> None:
    settings = replace(PLAIN, max_steps=2)
    whole, parts = (
        train(adapted, count, replace(settings, batch_size=size, accumulation=12 // size), one)[0]
        for size, one in ((12, seeded(0.5, 1.0)), (2, seeded(0.5, 1.0)))
    )
    assert norm(difference(whole, start)) > 0.1
    np.testing.assert_allclose(parts.vector, whole.vector, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "method", ["lora", "bias", "full", "head", "ia3", "dora", "bottleneck-shared", "prefix"]
)
def test_no_contribution_of_a_run_is_longer_than_the_norm(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    adapted, seen = make_adapted(tiny_model, method=method), []
    shorten = dp_sgd.shortening

    def watched(rows: Any, norm: float) -> torch.Tensor:
        factors = shorten(rows, norm)
        flat = torch.cat([tensor.flatten(1) for tensor in rows], dim=1).double()
        assert flat.shape[1] == sum(tensor.size for tensor in adapted.tensors)  # all of them
        seen.append((factors[:, None] * flat).norm(dim=1))
        return factors

    monkeypatch.setattr(dp_sgd, "shortening", watched)
    train(adapted, 24, replace(PLAIN, epochs=2, batch_size=6), seeded(0.5, 0.3))
    lengths = torch.cat(seen)
    assert len(lengths) > 20
    assert float(lengths.max()) <= 0.3
    assert float((lengths > 0.299).double().mean()) > 0.3  # and many had been longer


def test_the_same_in_half_precision(
    adapted: AdaptedModel, start: AdapterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = []
    shorten = dp_sgd.shortening

    def watched(rows: Any, norm: float) -> torch.Tensor:
        assert {tensor.dtype for tensor in rows} == {torch.float32}
        factors = shorten(rows, norm)
        flat = torch.cat([tensor.flatten(1) for tensor in rows], dim=1).double()
        longest.append(float((factors[:, None] * flat).norm(dim=1).max()))
        return factors

    monkeypatch.setattr(dp_sgd, "shortening", watched)
    settings = replace(PLAIN, batch_size=12, precision="bf16")
    rough, _ = train(adapted, 12, settings, seeded(0.0, 0.1))
    monkeypatch.undo()
    exact, _ = train(adapted, 12, replace(settings, precision="fp32"), seeded(0.0, 0.1))
    assert 0.0999 < max(longest) <= 0.1
    step = norm(difference(exact, start))
    assert 0.0 < norm(difference(rough, exact)) < 0.1 * step


def gradients_seen(
    adapted: AdaptedModel, examples: ExampleSet, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> set[bytes]:
    """Take one bf16 step on chosen examples; give each one's gradient, bit by bit."""
    seen: set[bytes] = set()
    shorten = dp_sgd.shortening

    def watched(rows: Any, norm: float) -> torch.Tensor:
        flat = torch.cat([tensor.flatten(1) for tensor in rows], dim=1)
        seen.update(row.numpy().tobytes() for row in flat)
        return shorten(rows, norm)

    monkeypatch.setattr(dp_sgd, "shortening", watched)
    lots = [0.0 if position in drawn else 1.0 for position in range(len(examples))]
    settings = replace(PLAIN, batch_size=4, max_steps=1, precision="bf16")
    adapted.pour(adapted.initial)
    told_so = scheduled(told(lots), len(examples), settings)
    private_fit(adapted, TASK, examples, settings, mechanism=told_so, round_number=1, partition=0)
    monkeypatch.undo()
    return seen


@pytest.mark.parametrize("length", [4, 20, 50])
def test_a_gradient_knows_neither_how_many_others_there_are_nor_how_long(
    adapted: AdaptedModel, start: AdapterState, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    short, other = make_examples(5, words=7), make_examples(1, seed=1, words=length)
    rows = [short.row(position).tolist() for position in range(5)] + [other.row(0).tolist()]
    examples = example_set(rows, np.array([0, 1, 2, 0, 1, 2]))
    without = gradients_seen(adapted, examples, [0, 1, 2, 3, 4], monkeypatch)
    assert len(without) == 5
    assert without < gradients_seen(adapted, examples, [0, 1, 2, 3, 4, 5], monkeypatch)
    monkeypatch.setattr(private, "_MULTIPLE", 1)  # as long as the longest of the batch: other bits
    assert without != gradients_seen(adapted, examples, [0, 1, 2, 3, 4], monkeypatch)


def test_noise_is_what_was_asked_for_on_every_tensor(
    adapted: AdaptedModel, start: AdapterState
) -> None:
    # One step at rate 1 on 6 of 6 examples, so noise on the mean is z C / 6 = 2 · 3 / 6.
    settings = replace(PLAIN, batch_size=6, learning_rate=1.0, head_learning_rate=1.0)
    quiet, loud = (train(adapted, 6, settings, seeded(z, 3.0))[0] for z in (0.0, 2.0))
    noise = difference(loud, quiet)
    assert float(noise.vector.std()) == pytest.approx(1.0, rel=0.1)
    for name, view in noise.tensors().items():
        assert float(np.abs(view).min()) > 0.0, name


def test_the_same_seed_gives_the_same_bits_and_the_system_never_does(
    adapted: AdaptedModel, start: AdapterState
) -> None:
    settings = replace(PLAIN, max_steps=2)
    secure = [replace(seeded(1.0, 1.0), randomness=randomness(-1, "t"))]
    found = [
        train(adapted, 12, settings, mechanism)[0].vector.tobytes()
        for mechanism in [seeded(1.0, 1.0), seeded(1.0, 1.0), *(secure * 2)]
    ]
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_dropout_is_drawn_from_what_nobody_knows(tiny_model: Path) -> None:
    # Neither the run's seed nor round nor partition decide it: whoever knew it could tell how
    # one example more changed the others' dropout.
    adapted = make_adapted(tiny_model, dropout=0.5)
    settings = replace(PLAIN, batch_size=6)
    same = [train(adapted, 6, replace(settings, seed=seed), seeded())[0] for seed in (0, 1)]
    other, _ = train(adapted, 6, settings, seeded(seed=1))
    assert same[0].vector.tobytes() == same[1].vector.tobytes()
    assert other.vector.tobytes() != same[0].vector.tobytes()


def test_the_report_tells_nothing_of_the_data(adapted: AdaptedModel, start: AdapterState) -> None:
    settings = replace(PLAIN, epochs=2)
    reports = [train(adapted, 20, settings, seeded(1.0, 1.0, seed))[1] for seed in range(3)]
    assert {(report.examples, report.steps) for report in reports} == {(48, 6)}  # 6 · 8
    assert all(math.isnan(report.loss) for report in reports)


def test_norms_are_not_clipped_twice(adapted: AdaptedModel, start: AdapterState) -> None:
    free, bounded = (
        train(adapted, 8, replace(PLAIN, max_grad_norm=most), seeded(1.0, 1.0))[0]
        for most in (0.0, 1e-3)
    )
    assert free.vector.tobytes() == bounded.vector.tobytes()


def test_rates_follow_the_schedule_of_the_run(adapted: AdaptedModel, start: AdapterState) -> None:
    # The last of two rounds of one step begins half-way down a line to 0.
    settings = replace(PLAIN, schedule="linear", rounds=2)
    first, second = (
        difference(train(adapted, 8, settings, seeded(), number)[0], start) for number in (1, 2)
    )
    np.testing.assert_allclose(second.vector, 0.5 * first.vector, rtol=1e-3, atol=1e-6)


def test_loss_falls_on_learnable_data(adapted: AdaptedModel, start: AdapterState) -> None:
    settings = replace(PLAIN, epochs=20, learning_rate=0.3, head_learning_rate=0.3)
    before = evaluate(adapted, TASK, make_examples(48), batch_size=48)["loss"]
    train(adapted, 48, settings, seeded(0.1, 1.0))
    after = evaluate(adapted, TASK, make_examples(48), batch_size=48)["loss"]
    assert after < 0.6 * before


def test_afterwards_training_without_privacy_has_the_same_bits(
    adapted: AdaptedModel, start: AdapterState
) -> None:
    found = []
    for _ in range(2):
        adapted.pour(start)
        fit(adapted, TASK, make_examples(8), PLAIN, round_number=1, partition=0)
        found.append(adapted.read().vector.tobytes())
        train(adapted, 8, PLAIN, seeded(1.0, 1.0))
        assert not any(module.training for module in adapted.model.modules())
        assert all(value.grad is None for value in adapted.trainable)
    assert found[0] == found[1]


def test_fp16_is_refused(adapted: AdaptedModel, start: AdapterState) -> None:
    with pytest.raises(TrainingError, match=r"Expected train.precision = 'bf16' or 'fp32'"):
        train(adapted, 4, replace(PLAIN, precision="fp16"), seeded())
