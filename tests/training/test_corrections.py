"""FedProx and SCAFFOLD on a node: gradients by hand, and laws on real models."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from line_samples import Squares, line, points, state_of
from training_samples import make_adapted, make_examples

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import difference, norm
from fedpeft_app.data.tasks.text_classification import TextClassification
from fedpeft_app.errors import AdapterMismatchError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.training.corrections import Control, Correction, Proximal
from fedpeft_app.training.fit import FitReport, FitSettings, fit

PLAIN = FitSettings(
    batch_size=1,
    epochs=2,
    learning_rate=0.1,
    head_learning_rate=0.1,
    optimizer="sgd",  # with momentum 0.9: m ← 0.9 m + g, w ← w − 0.1 m
    schedule="constant",
    max_grad_norm=0.0,
)
POINT = points((1, 2, 3))  # at w = 0 and v = 0 the error is −3, the gradient (−3, −6 | −3)


def train(
    adapted: AdaptedModel,
    settings: FitSettings,
    *corrections: Correction,
    examples: Any = POINT,
    task: Any = None,
) -> FitReport:
    return fit(
        adapted,
        task or Squares(),
        examples,
        settings,
        round_number=1,
        partition=0,
        corrections=corrections,
    )


def values(adapted: AdaptedModel) -> list[float]:
    """Give w₁, w₂, v."""
    return [*adapted.read().vector.tolist(), *adapted.personal.read().vector.tolist()]


# ------------------------------------------------------------------ two steps by hand
# The first step leads to w = (0.3, 0.6), v = 0.3, where the error is −1.2.


def test_plain_steps() -> None:
    adapted = line()
    train(adapted, PLAIN)
    # m = 0.9·(−3, −6 | −3) + (−1.2, −2.4 | −1.2) = (−3.9, −7.8 | −3.9)
    assert values(adapted) == pytest.approx([0.69, 1.38, 0.69])


def test_the_proximal_term_pulls_what_is_shared_to_its_start() -> None:
    adapted = line()
    train(adapted, PLAIN, Proximal(adapted.shared, 10.0))
    # g = (−1.2, −2.4) + 10·(0.3, 0.6) = (1.8, 3.6), m = (−0.9, −1.8); v as without
    assert values(adapted) == pytest.approx([0.39, 0.78, 0.69])


def test_the_reported_loss_is_without_the_proximal_term() -> None:
    adapted = line()
    report = train(adapted, PLAIN, Proximal(adapted.shared, 10.0))
    assert report.loss == pytest.approx((9 / 2 + 1.2**2 / 2) / 2)


def test_the_pull_is_to_the_start_of_the_round() -> None:
    adapted = line()
    adapted.pour(state_of(adapted.spec, [1.0, 1.0]))  # error 0: only the pull could move it
    train(adapted, PLAIN, Proximal(adapted.shared, 10.0))
    assert values(adapted) == [1.0, 1.0, 0.0]


def test_control_corrects_and_measures_what_is_shared() -> None:
    adapted = line()
    control = Control(adapted.shared, state_of(adapted.spec, [1.0, -1.0]))
    train(adapted, PLAIN, control)
    # g = (−2, −7 | −3), w = (0.2, 0.7), v = 0.3: the error is −1.1
    # g = (−0.1, −3.2 | −1.1), m = (−1.9, −9.5 | −3.8)
    assert values(adapted) == pytest.approx([0.39, 1.65, 0.68])
    # the mean of (−3, −6) and (−1.1, −2.2)
    assert control.mean().vector.tolist() == pytest.approx([-2.05, -4.1])
    assert control.mean().spec == adapted.spec


def test_control_measures_before_the_proximal_term() -> None:
    adapted = line()
    control = Control(adapted.shared, state_of(adapted.spec, [1.0, -1.0]))
    train(adapted, PLAIN, control, Proximal(adapted.shared, 10.0))
    # g = (−0.1, −3.2) + 10·(0.2, 0.7) = (1.9, 3.8), m = 0.9·(−2, −7) + g = (0.1, −2.5)
    assert values(adapted) == pytest.approx([0.19, 0.95, 0.68])
    assert control.mean().vector.tolist() == pytest.approx([-2.05, -4.1])


def test_what_is_clipped_is_corrected_and_what_is_measured_is_not_clipped() -> None:
    adapted = line()
    control = Control(adapted.shared, state_of(adapted.spec, [1.0, -1.0]))
    train(adapted, replace(PLAIN, epochs=1, max_grad_norm=1.0), control)
    # (−2, −7 | −3) has the norm √62
    assert values(adapted) == pytest.approx([number / 62**0.5 for number in (0.2, 0.7, 0.3)])
    assert control.mean().vector.tolist() == [-3.0, -6.0]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_of_many_batches_is_one_gradient(precision: str) -> None:
    adapted = line()
    control = Control(adapted.shared, state_of(adapted.spec, [1.0, -1.0]))
    settings = replace(PLAIN, epochs=1, accumulation=2, precision=precision)
    train(adapted, settings, control, examples=points((1, 2, 3), (1, 0, 1)))
    # (−3, −6) and (−1, 0): their mean is measured, and corrected once; v has −3 and −1
    assert control.mean().vector.tolist() == pytest.approx([-2.0, -3.0])
    assert values(adapted) == pytest.approx([0.1, 0.4, 0.2])


@pytest.mark.parametrize("max_norm", [0.0, 1e6])
def test_gradients_are_unscaled_before_they_are_corrected(max_norm: float) -> None:
    adapted = line()
    control = Control(adapted.shared, state_of(adapted.spec, [1.0, -1.0]))
    settings = replace(PLAIN, precision="fp16", max_grad_norm=max_norm)
    train(adapted, settings, control, Proximal(adapted.shared, 10.0))
    assert values(adapted) == pytest.approx([0.19, 0.95, 0.68])
    assert control.mean().vector.tolist() == pytest.approx([-2.05, -4.1])


# ------------------------------------------------------------------ edges


def test_a_step_that_overflowed_is_not_in_the_mean() -> None:
    adapted = line()
    control, (w,) = Control(adapted.shared, adapted.initial), adapted.shared.parameters
    for gradient in ([1.0, float("inf")], [2.0, 4.0], [float("nan"), 1.0], [4.0, 0.0]):
        w.grad = torch.tensor(gradient)
        control()
    assert control.mean().vector.tolist() == [3.0, 2.0]


def test_no_step_has_a_mean_of_zero() -> None:
    adapted = line()
    control, (w,) = Control(adapted.shared, adapted.initial), adapted.shared.parameters
    assert not control.mean().vector.any()
    w.grad = torch.tensor([1.0, float("inf")])
    control()
    assert control.mean().vector.tolist() == [0.0, 0.0]


def test_a_tensor_without_a_gradient_gets_none() -> None:
    adapted = line()
    adapted.pour(state_of(adapted.spec, [1.0, 1.0]))
    pull = Proximal(adapted.shared, 1.0)
    control = Control(adapted.shared, state_of(adapted.spec, [1.0, 1.0]))
    pull()
    control()
    assert adapted.shared.parameters[0].grad is None
    assert not control.mean().vector.any()


def test_a_mean_is_not_changed_by_what_comes_after() -> None:
    adapted = line()
    control, (w,) = Control(adapted.shared, adapted.initial), adapted.shared.parameters
    w.grad = torch.tensor([1.0, 2.0])
    control()
    mean = control.mean()
    control()
    control()
    assert mean.vector.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_a_pull_has_a_strength(strength: float) -> None:
    with pytest.raises(ValueError, match="Expected a proximal strength above 0"):
        Proximal(line().shared, strength)


def test_a_control_of_other_tensors_is_refused() -> None:
    adapted = line()
    with pytest.raises(AdapterMismatchError, match="different make"):
        Control(adapted.shared, adapted.personal.initial)


# ------------------------------------------------------------------ a transformer

TASK = TextClassification()
BERT = replace(PLAIN, batch_size=4, epochs=1)


@pytest.fixture(scope="module")
def bert(tiny_model: Path) -> AdaptedModel:
    return make_adapted(tiny_model)


@pytest.fixture
def start(bert: AdaptedModel) -> AdapterState:
    """A state in which every tensor has a gradient (LoRA's B is not zero)."""
    vector = 0.05 * np.random.default_rng(0).standard_normal(bert.spec.size)
    return AdapterState(spec=bert.spec, vector=vector.astype(np.float32))


def drawn(start: AdapterState, seed: int) -> AdapterState:
    """A control variate of the size of a gradient."""
    vector = 0.1 * np.random.default_rng(seed).standard_normal(start.spec.size)
    return AdapterState(spec=start.spec, vector=vector.astype(np.float32))


def plain_sgd(adapted: AdaptedModel, *, learning_rate: float, **_: Any) -> torch.optim.Optimizer:
    """SGD as in the papers, without momentum."""
    group = {"params": adapted.trainable, "lr": learning_rate, "peak": learning_rate}
    return torch.optim.SGD([group])


def test_the_mean_gradient_is_what_option_ii_reads_off_the_movement(
    bert: AdaptedModel, start: AdapterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedpeft_app.training.fit.make_optimizer", plain_sgd)
    server, own = drawn(start, 1), drawn(start, 2)
    bert.pour(start)
    control = Control(bert.shared, difference(server, own))
    report = train(bert, BERT, control, examples=make_examples(20), task=TASK)
    assert report.steps == 5
    movement = (start.vector - bert.read().vector) / (report.steps * BERT.learning_rate)
    option_ii = own.vector - server.vector + movement
    assert norm(control.mean()) > 0.1
    np.testing.assert_allclose(control.mean().vector, option_ii, rtol=0, atol=1e-5)


def test_the_opposite_of_the_gradient_stops_a_step(bert: AdaptedModel, start: AdapterState) -> None:
    once = partial(train, bert, replace(BERT, batch_size=8), examples=make_examples(8), task=TASK)
    bert.pour(start)
    measured = Control(bert.shared, state_of(bert.spec, np.zeros(bert.spec.size)))
    once(measured)
    assert norm(difference(bert.read(), start)) > 0.0
    bert.pour(start)
    opposite = AdapterState(spec=bert.spec, vector=-measured.mean().vector)
    once(Control(bert.shared, opposite))
    assert bert.read().vector.tobytes() == start.vector.tobytes()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_measuring_changes_no_bit(bert: AdaptedModel, start: AdapterState, optimizer: str) -> None:
    settings = replace(BERT, optimizer=optimizer, max_grad_norm=1.0, weight_decay=0.1)
    found = []
    for measures in (False, True):
        bert.pour(start)
        zeros = AdapterState(spec=bert.spec, vector=np.zeros_like(start.vector))
        controls = [Control(bert.shared, zeros)] if measures else []
        train(bert, settings, *controls, examples=make_examples(20), task=TASK)
        found.append(bert.read().vector.tobytes())
    assert found[0] == found[1]


def test_the_stronger_the_pull_the_nearer_the_end(bert: AdaptedModel, start: AdapterState) -> None:
    distances = []
    for strength in (0.0, 0.1, 1.0, 10.0):
        bert.pour(start)
        pulls = [Proximal(bert.shared, strength)] if strength else []
        train(bert, replace(BERT, epochs=8), *pulls, examples=make_examples(20), task=TASK)
        distances.append(norm(difference(bert.read(), start)))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.1 * distances[0]


def test_adamw_under_a_huge_pull_stays_within_steps_of_the_start(
    bert: AdaptedModel, start: AdapterState
) -> None:
    """AdamW's steps have the length of the rate, whatever the pull: so far may it swing."""
    settings = replace(BERT, epochs=8, optimizer="adamw", learning_rate=0.01)
    settings, farthest = replace(settings, head_learning_rate=0.01, max_grad_norm=1.0), []
    for strength in (0.0, 1e6):
        bert.pour(start)
        pulls = [Proximal(bert.shared, strength)] if strength else []
        train(bert, settings, *pulls, examples=make_examples(20), task=TASK)
        farthest.append(float(np.abs(difference(bert.read(), start).vector).max()))
    assert farthest[0] > 0.1
    assert farthest[1] < 0.05
