"""What a worker keeps for its node, and the steps it takes for itself before it is judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS
from training_samples import make_adapted, make_examples

from fedpeft_app.adapters import AdapterState
from fedpeft_app.backbone.load import load_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.data.encoded import example_set
from fedpeft_app.data.tasks.text_classification import TextClassification
from fedpeft_app.errors import NodeStateError, TrainingError
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.lora import Lora
from fedpeft_app.methods.method import MethodSettings
from fedpeft_app.node.memory import NodeMemory
from fedpeft_app.training.evaluate import evaluate
from fedpeft_app.training.fit import FitSettings, fit
from fedpeft_app.training.worker import Own, Worker, personalising

SETTINGS = FitSettings(
    batch_size=8, learning_rate=0.01, head_learning_rate=0.05, warmup=0.2, rounds=4
)


@pytest.fixture(scope="module")
def personal(tiny_model: Path) -> AdaptedModel:
    """The tiny BERT with a head that stays."""
    backbone = load_model(locate(str(tiny_model)), kind="sequence-classification", labels=LABELS)
    return adapt(backbone, Lora(), MethodSettings(rank=2, alpha=4.0), seed=0, head="personal")


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


def own_of(folder: Path, version: int) -> Own:
    return Own(memory=NodeMemory(folder=folder / "node"), version=version)


def bits(state: AdapterState) -> bytes:
    return state.vector.tobytes()


# ------------------------------------------------------------------ personal parameters


def test_a_round_keeps_what_the_node_trained_for_itself(
    personal: AdaptedModel, tmp_path: Path
) -> None:
    worker, own = worker_of(personal), own_of(tmp_path, 0)
    delta, _ = worker.fit(personal.initial, 1, own=own)
    assert delta.spec == personal.spec
    assert not any(tensor.head for tensor in delta.spec.tensors)
    kept = own.memory.recall(personal.personal.initial, 1)
    assert bits(kept) == bits(personal.personal.read()) != bits(personal.personal.initial)


def test_the_next_round_goes_on_from_what_was_kept(personal: AdaptedModel, tmp_path: Path) -> None:
    """The loss of a round of one step is that of the parameters it starts from."""
    worker = replace(worker_of(personal), settings=replace(SETTINGS, batch_size=20))
    losses = []
    for version in (0, 1):
        _, report = worker.fit(personal.initial, version + 1, own=own_of(tmp_path, version))
        assert report.steps == 1
        personal.pour(personal.initial)
        start = own_of(tmp_path, version).memory.recall(personal.personal.initial, version)
        personal.personal.pour(start)
        measured = evaluate(
            personal.model, worker.task, worker.train, batch_size=20, precision="fp32"
        )
        assert report.loss == pytest.approx(measured["loss"], rel=1e-5)
        losses.append(report.loss)
    assert losses[1] < losses[0]


def test_the_order_says_which_version_it_is(personal: AdaptedModel, tmp_path: Path) -> None:
    """A reply that did not count is done again from what was before it, to the bit."""
    worker = worker_of(personal)
    worker.fit(personal.initial, 1, own=own_of(tmp_path, 0))
    lost, _ = worker.fit(personal.initial, 2, own=own_of(tmp_path, 1))
    after = own_of(tmp_path, 0).memory.recall(personal.personal.initial, 2)
    again, _ = worker.fit(personal.initial, 2, own=own_of(tmp_path, 1))
    assert bits(lost) == bits(again)
    assert bits(own_of(tmp_path, 0).memory.recall(personal.personal.initial, 2)) == bits(after)


def test_two_nodes_of_a_process_do_not_share(personal: AdaptedModel, tmp_path: Path) -> None:
    first = worker_of(personal)
    second = replace(first, partition=2, train=make_examples(20, seed=7))
    for worker in (first, second):
        worker.fit(personal.initial, 1, own=own_of(tmp_path / str(worker.partition), 0))
    kept = [
        own_of(tmp_path / number, 1).memory.recall(personal.personal.initial, 1)
        for number in ("1", "2")
    ]
    assert bits(kept[0]) != bits(kept[1])


def test_a_node_is_judged_with_its_own_head(personal: AdaptedModel, tmp_path: Path) -> None:
    worker, own = worker_of(personal), own_of(tmp_path, 1)
    # Features of nothing, and a bias that is sure of the first label: 3 of 9 are right.
    vector = np.zeros(personal.personal.spec.size, dtype=np.float32)
    names = [tensor.name for tensor in personal.personal.spec.tensors]
    assert names[0].endswith("classifier.modules_to_save.default.weight")
    vector[-3:] = (0.0, np.log(2.0), 0.0)  # softmax: 1/4, 1/2, 1/4
    own.memory.keep(AdapterState(spec=personal.personal.spec, vector=vector), 1, base=0)
    metrics = worker.evaluate(personal.initial, 1, own=own)
    # Three of each label: −(6 · log 1/4 + 3 · log 1/2) / 9 = 15/9 · log 2
    assert metrics["loss"] == pytest.approx(15 / 9 * np.log(2.0), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(3 / 9)
    assert own.memory.rounds() == [1]


def test_a_lost_version_is_refused_before_training(personal: AdaptedModel, tmp_path: Path) -> None:
    with pytest.raises(NodeStateError, match="parameters of round 3 .*found versions: none"):
        worker_of(personal).fit(personal.initial, 4, own=own_of(tmp_path, 3))
    assert not (tmp_path / "node").exists()


@pytest.mark.parametrize("kind", ["fit", "evaluate"])
def test_an_order_that_names_no_version_is_refused(personal: AdaptedModel, kind: str) -> None:
    with pytest.raises(NodeStateError, match="does not say which of its own parameters"):
        getattr(worker_of(personal), kind)(personal.initial, 1)


@pytest.mark.parametrize("rate", ["learning_rate", "head_learning_rate"])
def test_what_is_not_finite_is_not_kept(personal: AdaptedModel, tmp_path: Path, rate: str) -> None:
    """After one step with a wild rate the other part is sound; the round fails all the same."""
    settings = replace(SETTINGS, optimizer="sgd", max_steps=1, max_grad_norm=0.0, warmup=0.0)
    wild = replace(settings, weight_decay=1e3, **{rate: 3e38})  # 3e38 · 1e3 · w overflows
    with pytest.raises(TrainingError, match="Node 1, round 1: .*not finite"):
        worker_of(personal, wild).fit(personal.initial, 1, own=own_of(tmp_path, 0))
    sound = {"learning_rate": personal.personal, "head_learning_rate": personal.shared}[rate]
    assert np.isfinite(sound.read().vector).all()
    assert own_of(tmp_path, 0).memory.rounds() == []


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
    expected, _ = worker.fit(shared.initial, 2)
    judged = worker.evaluate(shared.initial, 1)
    worker.evaluate(shared.initial, 1, steps=5)
    found, _ = worker.fit(shared.initial, 2)
    assert bits(found) == bits(expected)
    assert worker.evaluate(shared.initial, 1) == judged


def test_steps_for_oneself_leave_the_memory_alone(personal: AdaptedModel, tmp_path: Path) -> None:
    worker = worker_of(personal)
    worker.fit(personal.initial, 1, own=own_of(tmp_path, 0))
    kept = own_of(tmp_path, 1).memory.recall(personal.personal.initial, 1)
    worker.evaluate(personal.initial, 1, own=own_of(tmp_path, 1), steps=5)
    assert own_of(tmp_path, 1).memory.rounds() == [1]
    again = own_of(tmp_path, 1).memory.recall(personal.personal.initial, 1)
    assert bits(again) == bits(kept)


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
