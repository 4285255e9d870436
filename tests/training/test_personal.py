"""What is a node's own, and the steps it takes for itself before it is judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training_samples import make_adapted, make_examples

from fedpeft_app.adapters import AdapterState
from fedpeft_app.data.encoded import example_set
from fedpeft_app.data.tasks.text_classification import TextClassification
from fedpeft_app.errors import AdapterMismatchError, NodeStateError, TrainingError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.training.evaluate import evaluate
from fedpeft_app.training.fit import FitSettings, fit
from fedpeft_app.training.worker import Worker, personalising

SETTINGS = FitSettings(
    batch_size=8, learning_rate=0.01, head_learning_rate=0.05, warmup=0.2, rounds=4
)


@pytest.fixture(scope="module")
def personal(tiny_model: Path) -> AdaptedModel:
    """The tiny BERT with a head that stays."""
    return make_adapted(tiny_model, head="personal")


@pytest.fixture(scope="module")
def shared(tiny_model: Path) -> AdaptedModel:
    """The same with a head that travels."""
    return make_adapted(tiny_model)


def worker_of(adapted: AdaptedModel, settings: FitSettings = SETTINGS) -> Worker:
    return Worker(
        adapted=adapted,
        task=TextClassification(),
        partition=1,
        train=make_examples(20),
        held_out=make_examples(9, seed=1),
        test=example_set([]),
        settings=settings,
        evaluate_batch_size=4,
    )


def bits(state: AdapterState) -> bytes:
    return state.vector.tobytes()


# ------------------------------------------------------------------ personal parameters


def test_a_round_gives_what_the_node_trained_for_itself(personal: AdaptedModel) -> None:
    first = personal.personal.initial
    fitted = worker_of(personal).fit(personal.initial, 1, personal=first)
    assert fitted.delta.spec == personal.spec
    assert not any(tensor.head for tensor in fitted.delta.spec.tensors)
    assert fitted.personal.spec == personal.personal.spec
    assert bits(fitted.personal) == bits(personal.personal.read()) != bits(first)


def test_a_round_goes_on_from_what_it_is_given(personal: AdaptedModel) -> None:
    """The loss of a round of one step is that of the parameters it starts from."""
    worker = replace(worker_of(personal), settings=replace(SETTINGS, batch_size=20))
    own, losses = personal.personal.initial, []
    for round_number in (1, 2):
        fitted = worker.fit(personal.initial, round_number, personal=own)
        assert fitted.report.steps == 1
        personal.pour(personal.initial)
        personal.personal.pour(own)
        measured = evaluate(personal, worker.task, worker.train, batch_size=20, precision="fp32")
        assert fitted.report.loss == pytest.approx(measured["loss"], rel=1e-5)
        losses.append(fitted.report.loss)
        own = fitted.personal
    assert losses[1] < losses[0]


def test_a_round_done_again_gives_the_same_bits(personal: AdaptedModel) -> None:
    worker = worker_of(personal)
    own = worker.fit(personal.initial, 1, personal=personal.personal.initial).personal
    lost, again = (worker.fit(personal.initial, 2, personal=own) for _ in range(2))
    assert bits(lost.delta) == bits(again.delta)
    assert bits(lost.personal) == bits(again.personal) != bits(own)


def test_two_nodes_of_a_process_do_not_share(personal: AdaptedModel) -> None:
    first, start = worker_of(personal), personal.personal.initial
    second = replace(first, partition=2, train=make_examples(20, seed=7))
    own = [worker.fit(personal.initial, 1, personal=start).personal for worker in (first, second)]
    assert bits(own[0]) != bits(own[1])
    again = first.fit(personal.initial, 1, personal=start).personal
    assert bits(again) == bits(own[0])


def test_a_node_is_judged_with_its_own_head(personal: AdaptedModel) -> None:
    # Features of nothing, and a bias that is sure of the first label: 3 of 9 are right.
    vector = np.zeros(personal.personal.spec.size, dtype=np.float32)
    names = [tensor.name for tensor in personal.personal.spec.tensors]
    assert names[0].endswith("classifier.modules_to_save.default.weight")
    vector[-3:] = (0.0, np.log(2.0), 0.0)  # softmax: 1/4, 1/2, 1/4
    own = AdapterState(spec=personal.personal.spec, vector=vector)
    metrics = worker_of(personal).evaluate(personal.initial, 1, personal=own)
    # Three of each label: −(6 · log 1/4 + 3 · log 1/2) / 9 = 15/9 · log 2
    assert metrics["loss"] == pytest.approx(15 / 9 * np.log(2.0), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(3 / 9)


def test_another_models_own_parameters_are_refused(
    personal: AdaptedModel, shared: AdaptedModel
) -> None:
    with pytest.raises(AdapterMismatchError, match="This state is for adapter"):
        worker_of(personal).fit(personal.initial, 1, personal=personal.initial)
    with pytest.raises(AdapterMismatchError, match="This state is for adapter"):
        worker_of(shared).evaluate(shared.initial, 1, personal=personal.personal.initial)


@pytest.mark.parametrize("kind", ["fit", "evaluate"])
def test_a_node_without_its_own_parameters_is_refused(personal: AdaptedModel, kind: str) -> None:
    with pytest.raises(NodeStateError, match="does not say which of its own parameters"):
        getattr(worker_of(personal), kind)(personal.initial, 1)


@pytest.mark.parametrize("rate", ["learning_rate", "head_learning_rate"])
def test_what_is_not_finite_is_refused(personal: AdaptedModel, rate: str) -> None:
    """After one step with a wild rate the other part is sound; the round fails all the same."""
    settings = replace(SETTINGS, optimizer="sgd", max_steps=1, max_grad_norm=0.0, warmup=0.0)
    wild = replace(settings, weight_decay=1e3, **{rate: 3e38})  # 3e38 · 1e3 · w overflows
    with pytest.raises(TrainingError, match="Node 1, round 1: .*not finite"):
        worker_of(personal, wild).fit(personal.initial, 1, personal=personal.personal.initial)
    sound = {"learning_rate": personal.personal, "head_learning_rate": personal.shared}[rate]
    assert np.isfinite(sound.read().vector).all()


# ------------------------------------------------------------------ steps for oneself


def test_steps_for_oneself_change_what_is_measured(shared: AdaptedModel) -> None:
    worker = worker_of(shared)
    losses = [worker.evaluate(shared.initial, 1, steps=steps)["loss"] for steps in (0, 1, 30)]
    assert len(set(losses)) == 3
    assert losses[2] < losses[0]


def test_steps_for_oneself_are_steps_of_the_optimizer(shared: AdaptedModel) -> None:
    worker = worker_of(shared)
    settings = replace(SETTINGS, epochs=2, max_steps=4, schedule="constant", warmup=0.0)
    shared.pour(shared.initial)
    fit(shared, worker.task, worker.train, settings, round_number=2, partition=1)
    expected = evaluate(shared.model, worker.task, worker.held_out, batch_size=4, precision="fp32")
    assert worker.evaluate(shared.initial, 2, steps=4) == expected


def test_steps_for_oneself_are_forgotten(shared: AdaptedModel) -> None:
    worker = worker_of(shared)
    expected = worker.fit(shared.initial, 2).delta
    judged = worker.evaluate(shared.initial, 1)
    worker.evaluate(shared.initial, 1, steps=5)
    found = worker.fit(shared.initial, 2).delta
    assert bits(found) == bits(expected)
    assert worker.evaluate(shared.initial, 1) == judged


def test_steps_for_oneself_leave_what_is_given_alone(personal: AdaptedModel) -> None:
    worker = worker_of(personal)
    own = worker.fit(personal.initial, 1, personal=personal.personal.initial).personal
    before = bits(own)
    judged = worker.evaluate(personal.initial, 1, personal=own)
    assert worker.evaluate(personal.initial, 1, personal=own, steps=5) != judged
    assert bits(own) == before
    assert worker.evaluate(personal.initial, 1, personal=own) == judged


@pytest.mark.parametrize(
    ("steps", "examples", "accumulation", "epochs"),
    [
        (1, 20, 1, 1),
        (3, 20, 1, 1),  # 20 examples in batches of 8 are 3 steps
        (4, 20, 1, 2),
        (7, 20, 1, 3),
        (4, 20, 2, 2),  # of 16 examples each, the last of fewer: 2 a pass
        (5, 3, 1, 5),
    ],
)
def test_enough_passes_are_made_for_the_steps(
    steps: int, examples: int, accumulation: int, epochs: int
) -> None:
    settings = replace(SETTINGS, accumulation=accumulation, max_steps=1, epochs=9)
    found = personalising(settings, steps, examples)
    assert (found.max_steps, found.epochs) == (steps, epochs)
    assert (found.schedule, found.warmup) == ("constant", 0.0)
    assert found.learning_rate == SETTINGS.learning_rate
