"""Rounds that train one factor: what rests keeps every bit, what trains does as ever."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_samples import line
from training_samples import make_adapted, make_examples

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.data.encoded import example_set
from fedpeft_app.data.tasks.text_classification import TextClassification
from fedpeft_app.errors import AdapterMismatchError, TrainingError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.training.fit import FitSettings
from fedpeft_app.training.partial import resting, trained_part
from fedpeft_app.training.worker import Worker

SETTINGS = FitSettings(
    batch_size=8, learning_rate=0.01, head_learning_rate=0.01, weight_decay=0.1, rounds=2
)


@pytest.fixture(scope="module")
def adapted(tiny_model: Path) -> AdaptedModel:
    return make_adapted(tiny_model)


@pytest.fixture(scope="module")
def personal(tiny_model: Path) -> AdaptedModel:
    """The same with a head that stays."""
    return make_adapted(tiny_model, head="personal")


def drawn(adapted: AdaptedModel) -> AdapterState:
    """A state in which every tensor has a gradient (LoRA's B is not zero)."""
    vector = 0.05 * np.random.default_rng(0).standard_normal(adapted.spec.size)
    return AdapterState(spec=adapted.spec, vector=vector.astype(np.float32))


def worker_of(adapted: AdaptedModel, **settings: Any) -> Worker:
    return Worker(
        adapted=adapted,
        task=TextClassification(),
        partition=3,
        train=make_examples(24),
        held_out=example_set([]),
        test=example_set([]),
        settings=replace(SETTINGS, **settings),
        evaluate_batch_size=4,
    )


def moved(adapted: AdaptedModel, start: AdapterState) -> set[str]:
    """Name the tensors that do not have the bits they started with."""
    before, after = start.tensors(), adapted.read().tensors()
    return {name for name in before if before[name].tobytes() != after[name].tobytes()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("part", ["", "a", "b"])
def test_what_rests_keeps_every_bit_and_the_rest_moves(
    adapted: AdaptedModel, part: str, optimizer: str
) -> None:
    start = drawn(adapted)
    fitted = worker_of(adapted, optimizer=optimizer).fit(start, 1, part=part)
    spec = trained_spec(adapted.spec, part)
    assert moved(adapted, start) == {tensor.name for tensor in spec.tensors}
    assert fitted.delta.spec == spec
    after, before = adapted.read().tensors(), start.tensors()
    for name, delta in fitted.delta.tensors().items():
        np.testing.assert_array_equal(delta, after[name] - before[name])


@pytest.mark.parametrize(("part", "other"), [("a", "lora_B"), ("b", "lora_A")])
def test_head_and_one_factor_train(adapted: AdaptedModel, part: str, other: str) -> None:
    trained = trained_part(adapted, part)
    assert trained.spec == trained_spec(adapted.spec, part)
    assert trained.initial.spec == trained.spec
    left_out = {tensor.name for tensor in adapted.spec.tensors} - set(trained.initial.tensors())
    assert left_out == {tensor.name for tensor in adapted.spec.tensors if other in tensor.name}
    assert any(tensor.head for tensor in trained.spec.tensors)
    trained.pour(trained.initial)
    assert trained.read().vector.tobytes() == trained.initial.vector.tobytes()


def test_all_is_the_part_without_a_name(adapted: AdaptedModel) -> None:
    assert trained_part(adapted) is adapted.shared


def test_b_trains_as_it_does_where_a_never_trains(tiny_model: Path, adapted: AdaptedModel) -> None:
    fixed = make_adapted(tiny_model, method="lora-fa")
    expected = worker_of(fixed).fit(fixed.initial, 1).delta
    found = worker_of(adapted).fit(adapted.initial, 1, part="b").delta
    assert [tensor.name for tensor in found.spec.tensors] == [
        tensor.name for tensor in expected.spec.tensors
    ]
    np.testing.assert_array_equal(found.vector, expected.vector)


def test_a_has_no_gradient_while_b_is_zero(personal: AdaptedModel) -> None:
    """So a first round of A alone, with a head that is not sent, is a round of nothing."""
    with pytest.raises(TrainingError, match="left every trainable tensor unchanged"):
        worker_of(personal, weight_decay=0.0).fit(
            personal.initial, 1, personal=personal.personal.initial, part="a"
        )


def test_at_no_loss_at_all_there_is_nothing_to_learn(adapted: AdaptedModel) -> None:
    """A node whose examples all have one label, and a head that is as sure of it as can be."""
    examples, start = make_examples(24), drawn(adapted)
    (label,), alike = examples.labels[:1], np.flatnonzero(examples.labels == examples.labels[0])
    (bias,) = (one for one in start.tensors().values() if one.shape == (3,))
    bias[label] = 1e4
    worker = worker_of(adapted, weight_decay=0.0)
    fitted = replace(worker, train=examples.select(alike)).fit(start, 1)
    assert fitted.report.loss == 0.0
    assert not fitted.delta.vector.any()


def test_a_personal_head_trains_whatever_rests(personal: AdaptedModel) -> None:
    first = personal.personal.initial
    fitted = worker_of(personal).fit(drawn(personal), 1, personal=first, part="b", proximal=1e3)
    assert fitted.personal.vector.tobytes() != first.vector.tobytes()


def test_a_personal_head_is_never_pulled(personal: AdaptedModel) -> None:
    """Where all that is shared is held by an endless pull, the head learns as if alone."""
    worker = worker_of(personal, max_grad_norm=0.0, optimizer="sgd", learning_rate=1e-9)
    fits = [
        worker.fit(drawn(personal), 1, personal=personal.personal.initial, proximal=strength)
        for strength in (0.0, 100.0)
    ]
    np.testing.assert_allclose(fits[0].personal.vector, fits[1].personal.vector, rtol=0, atol=1e-6)
    assert fits[0].personal.vector.tobytes() != personal.personal.initial.vector.tobytes()


def test_corrections_are_of_the_part_that_trains(adapted: AdaptedModel) -> None:
    worker, start = worker_of(adapted, batch_size=24, max_grad_norm=0.0), drawn(adapted)
    spec = trained_spec(adapted.spec, "b")
    zeros = AdapterState(spec=spec, vector=np.zeros(spec.size, dtype=np.float32))
    fitted = worker.fit(start, 1, part="b", proximal=0.5, control=zeros)
    assert fitted.control is not None
    assert fitted.control.spec == spec
    assert fitted.control.vector.any()
    # That is B's part of what a round of everything measures: the first step's gradient.
    whole = worker.fit(start, 1, control=AdapterState(spec=start.spec, vector=0 * start.vector))
    assert whole.control is not None
    for name, gradient in fitted.control.tensors().items():
        np.testing.assert_allclose(gradient, whole.control.tensors()[name], rtol=0, atol=1e-6)


def test_a_control_of_another_part_is_refused(adapted: AdaptedModel) -> None:
    with pytest.raises(AdapterMismatchError, match="different make"):
        worker_of(adapted).fit(adapted.initial, 1, part="b", control=adapted.initial)


def test_an_unknown_part_is_refused(adapted: AdaptedModel) -> None:
    with pytest.raises(AdapterMismatchError, match="Expected a part"):
        worker_of(adapted).fit(adapted.initial, 1, part="c")


# ------------------------------------------------------------------ afterwards, and frozen


def grounded(adapted: AdaptedModel) -> list[bool]:
    return [parameter.requires_grad for parameter in adapted.model.parameters()]


def test_afterwards_all_trains_again(adapted: AdaptedModel) -> None:
    before, start = grounded(adapted), drawn(adapted)
    worker = worker_of(adapted)
    expected = worker.fit(start, 1).delta
    worker.fit(start, 1, part="a")
    assert grounded(adapted) == before
    assert worker.fit(start, 1).delta.vector.tobytes() == expected.vector.tobytes()


def test_a_fit_that_fails_lets_all_train_again(adapted: AdaptedModel) -> None:
    class Failing(TextClassification):
        def loss(self, model: Any, batch: Any) -> Any:
            raise RuntimeError("out of memory")

    before = grounded(adapted)
    worker = replace(worker_of(adapted), task=Failing())
    with pytest.raises(RuntimeError, match="out of memory"):
        worker.fit(adapted.initial, 1, part="a")
    assert grounded(adapted) == before


def test_what_is_frozen_neither_trains_nor_is_sent(tiny_model: Path) -> None:
    adapted = make_adapted(tiny_model)
    first, *others = adapted.spec.tensors
    spec = replace(adapted.spec, tensors=(replace(first, frozen=True), *others))
    adapted.shared.parameters[0].requires_grad_(False)
    initial = AdapterState(spec=spec, vector=adapted.initial.vector)
    frozen = replace(adapted, shared=replace(adapted.shared, spec=spec, initial=initial))
    start = drawn(frozen)
    fitted = worker_of(frozen).fit(start, 1)
    assert [tensor.name for tensor in fitted.delta.spec.tensors] == [
        tensor.name for tensor in others
    ]
    assert moved(frozen, start) == {tensor.name for tensor in others}
    assert not frozen.shared.parameters[0].requires_grad


def test_what_never_trained_is_not_woken() -> None:
    adapted = line()
    adapted.shared.parameters[0].requires_grad_(False)
    with resting(adapted, adapted.personal):
        assert not adapted.shared.parameters[0].requires_grad
        assert adapted.personal.parameters[0].requires_grad
    assert not adapted.shared.parameters[0].requires_grad
