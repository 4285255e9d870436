"""The warm worker: deltas, refusals, and the threads it may use."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from line_samples import Squares, line, points, state_of
from training_samples import make_adapted, make_examples

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.algebra import norm
from fedpeft_app.data.encoded import example_set
from fedpeft_app.data.tasks.text_classification import TextClassification
from fedpeft_app.errors import AdapterMismatchError, DataError, TrainingError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.training.fit import FitSettings
from fedpeft_app.training.worker import Worker, process_facts, use_assigned_threads

SETTINGS = FitSettings(batch_size=8, learning_rate=0.01, head_learning_rate=0.01, rounds=2)


@pytest.fixture(scope="module")
def adapted(tiny_model: Path) -> AdaptedModel:
    return make_adapted(tiny_model)


@pytest.fixture
def start(adapted: AdaptedModel) -> AdapterState:
    vector = 0.05 * np.random.default_rng(0).standard_normal(adapted.spec.size)
    return AdapterState(spec=adapted.spec, vector=vector.astype(np.float32))


@pytest.fixture
def worker(adapted: AdaptedModel) -> Worker:
    return Worker(
        adapted=adapted,
        task=TextClassification(),
        partition=3,
        train=make_examples(16),
        held_out=make_examples(9, seed=1),
        test=example_set([]),
        settings=SETTINGS,
        evaluate_batch_size=4,
    )


def test_a_delta_is_local_minus_start(worker: Worker, start: AdapterState) -> None:
    fitted = worker.fit(start, round_number=1)
    local = worker.adapted.read()
    np.testing.assert_array_equal(fitted.delta.vector, local.vector - start.vector)
    assert norm(fitted.delta) > 0.0
    assert (fitted.report.steps, fitted.report.examples) == (2, 16)


def test_nothing_is_personal_or_measured_unless_asked_for(
    worker: Worker, start: AdapterState
) -> None:
    fitted = worker.fit(start, round_number=1)
    assert fitted.personal.spec.size == 0
    assert fitted.control is None
    again = worker.fit(start, round_number=1, personal=fitted.personal)
    assert again.delta.vector.tobytes() == fitted.delta.vector.tobytes()


def test_neither_a_pull_of_0_nor_a_control_of_zeros_changes_a_bit(
    worker: Worker, start: AdapterState
) -> None:
    zeros = AdapterState(spec=start.spec, vector=np.zeros_like(start.vector))
    plain = worker.fit(start, round_number=1).delta
    found = worker.fit(start, round_number=1, proximal=0.0, control=zeros)
    assert found.delta.vector.tobytes() == plain.vector.tobytes()
    assert found.control is not None
    assert norm(found.control) > 0.0


def test_pull_and_control_change_where_a_node_ends(worker: Worker, start: AdapterState) -> None:
    shift = AdapterState(spec=start.spec, vector=np.full_like(start.vector, 0.1))
    ends = {
        worker.fit(start, 1).delta.vector.tobytes(),
        worker.fit(start, 1, proximal=10.0).delta.vector.tobytes(),
        worker.fit(start, 1, control=shift).delta.vector.tobytes(),
        worker.fit(start, 1, proximal=10.0, control=shift).delta.vector.tobytes(),
    }
    assert len(ends) == 4


def test_the_pull_is_not_in_what_is_measured() -> None:
    """The two steps that `test_corrections` takes by hand, with both terms."""
    adapted = line()
    worker = Worker(
        adapted=adapted,
        task=Squares(),
        partition=0,
        train=points((1, 2, 3)),
        held_out=example_set([]),
        test=example_set([]),
        settings=replace(
            SETTINGS,
            batch_size=1,
            optimizer="sgd",
            learning_rate=0.1,
            head_learning_rate=0.1,
            schedule="constant",
            max_grad_norm=0.0,
        ),
        evaluate_batch_size=1,
    )
    fitted = worker.fit(
        adapted.initial,
        1,
        personal=adapted.personal.initial,
        epochs=2,
        proximal=10.0,
        control=state_of(adapted.spec, [1.0, -1.0]),
    )
    assert fitted.delta.vector.tolist() == pytest.approx([0.19, 0.95])
    assert fitted.personal.vector.tolist() == pytest.approx([0.68])
    assert fitted.control is not None
    assert fitted.control.vector.tolist() == pytest.approx([-2.05, -4.1])


def test_a_negative_pull_is_refused(worker: Worker, start: AdapterState) -> None:
    with pytest.raises(ValueError, match="Expected a proximal strength above 0"):
        worker.fit(start, 1, proximal=-0.1)


def test_what_ran_before_does_not_matter(worker: Worker, start: AdapterState) -> None:
    first = worker.fit(start, round_number=1).delta
    worker.fit(start, round_number=2)
    worker.evaluate(start, 1)
    again = worker.fit(start, round_number=1).delta
    assert first.vector.tobytes() == again.vector.tobytes()


def test_an_order_may_ask_for_more_epochs(worker: Worker, start: AdapterState) -> None:
    report = worker.fit(start, round_number=1, epochs=3).report
    assert (report.steps, report.examples) == (6, 48)


def test_values_that_are_not_finite_are_refused(worker: Worker, start: AdapterState) -> None:
    wild = replace(SETTINGS, optimizer="sgd", learning_rate=1e30, head_learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"Node 3, round 1: .*not finite.*learning-rate"):
        replace(worker, settings=replace(wild, max_grad_norm=0.0)).fit(start, round_number=1)


def test_training_that_moves_nothing_is_refused(worker: Worker, start: AdapterState) -> None:
    still = replace(SETTINGS, learning_rate=0.0, head_learning_rate=0.0)
    with pytest.raises(TrainingError, match="Node 3, round 2: 2 steps left every trainable"):
        replace(worker, settings=still).fit(start, round_number=2)


def test_another_adapters_state_is_refused(worker: Worker, spec: AdapterSpec) -> None:
    stranger = AdapterState(spec=spec, vector=np.zeros(spec.size, dtype=np.float32))
    with pytest.raises(AdapterMismatchError, match=f"This state is for adapter {spec.fingerprint}"):
        worker.fit(stranger, round_number=1)


def test_training_needs_examples(worker: Worker, start: AdapterState) -> None:
    with pytest.raises(DataError, match="Node 3 holds no training examples"):
        replace(worker, train=example_set([])).fit(start, round_number=1)


def test_evaluation_judges_the_state_it_is_given(worker: Worker, start: AdapterState) -> None:
    nothing = AdapterState(spec=start.spec, vector=np.zeros(start.spec.size, dtype=np.float32))
    # With a head of zeros all three labels are equally likely, and the first is chosen.
    assert worker.evaluate(nothing, 1)["loss"] == pytest.approx(np.log(3.0), rel=1e-5)
    assert worker.evaluate(nothing, 1)["accuracy"] == pytest.approx(3 / 9)
    assert worker.evaluate(start, 1)["loss"] != pytest.approx(np.log(3.0), rel=1e-5)


def test_evaluation_needs_held_out_examples(worker: Worker, start: AdapterState) -> None:
    with pytest.raises(DataError, match="Node 3 holds no validation examples.*evaluate on the"):
        replace(worker, held_out=example_set([])).evaluate(start, 1)


@pytest.fixture
def threads() -> Iterator[int]:
    """Restore the number of threads afterwards."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def fake_ray(monkeypatch: pytest.MonkeyPatch, cpus: float, actor: str | None = "actor") -> None:
    """Let this process look like a Ray worker that was given some CPUs."""
    context = SimpleNamespace(
        get_actor_id=lambda: actor, get_assigned_resources=lambda: {"CPU": cpus}
    )
    module = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setenv("RAY_JOB_ID", "01000000")


@pytest.mark.parametrize(("cpus", "expected"), [(1.0, 1), (3.0, 3), (2.5, 2), (0.25, 1)])
def test_an_actor_uses_the_cpus_it_was_given(
    monkeypatch: pytest.MonkeyPatch, threads: int, cpus: float, expected: int
) -> None:
    fake_ray(monkeypatch, cpus)
    use_assigned_threads()
    assert torch.get_num_threads() == expected
    assert process_facts()["threads"] == expected


def test_outside_of_an_actor_threads_stay(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    fake_ray(monkeypatch, threads + 1, actor=None)
    use_assigned_threads()
    monkeypatch.delenv("RAY_JOB_ID")
    monkeypatch.delenv("RAY_RAYLET_PID", raising=False)
    use_assigned_threads()
    assert torch.get_num_threads() == threads


def test_a_process_does_not_say_where_it_runs(worker: Worker) -> None:
    facts = process_facts()
    assert set(facts) == {"process", "backbone-loads", "threads"}
    assert len(str(facts["process"])) == 12
    assert facts == process_facts()


def test_what_is_held_out_to_report_is_judged_apart(worker: Worker, start: AdapterState) -> None:
    other = make_examples(6, seed=5)
    found = replace(worker, test=other).evaluate(start, 1)
    alone = replace(worker, held_out=other).evaluate(start, 1)
    assert found["test.accuracy"] == alone["accuracy"]
    assert found["test.loss"] == alone["loss"]
    assert found["loss"] == worker.evaluate(start, 1)["loss"]
