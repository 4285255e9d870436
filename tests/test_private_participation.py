"""Sample-level privacy of a node: written before it is spent, told sparingly, never reset."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.assembly import make_participation, make_presence, make_worker
from fedpeft_app.config import parse
from fedpeft_app.errors import (
    BudgetSpentError,
    FedPeftError,
    NodeStateError,
    PrivacyError,
    TrainingError,
)
from fedpeft_app.node_privacy import SampleLevel
from fedpeft_app.participation import Participation
from fedpeft_app.privacy.accountant import epsilon
from fedpeft_app.privacy.events import Event
from fedpeft_app.training.worker import Worker
from fedpeft_app.wire.cast import float32
from fedpeft_app.wire.record import CONTROL, STATE, Order, Update, section_of

RUN = "a-run"
NODE = {"partition-id": 1, "num-partitions": 4}
LEVEL = SampleLevel(delta=1e-5, noise=1.0)


@pytest.fixture
def worker(tiny_settings: dict[str, Any]) -> Worker:
    """A node with 27 of the tiny examples, and LoRA on the tiny BERT."""
    return make_worker(parse(tiny_settings), NODE)


@pytest.fixture
def start(worker: Worker) -> AdapterState:
    return state_of(worker, seed=0)


def state_of(worker: Worker, seed: int) -> AdapterState:
    drawn = 0.05 * np.random.default_rng(seed).standard_normal(worker.adapted.spec.size)
    return AdapterState(spec=worker.adapted.spec, vector=drawn.astype(np.float32))


def participation(
    worker: Worker,
    start: AdapterState,
    round_number: int = 1,
    *,
    level: SampleLevel = LEVEL,
    **options: Any,
) -> Participation:
    order = Order(
        spec=start.spec,
        sections=[section_of(STATE, start)],
        round_number=round_number,
        options={"experiment": RUN, **options},
    )
    return Participation(
        worker=worker,
        order=order,
        uplink=float32(),
        feedback=False,
        protection=level,
        discreet=True,
    )


def bits(update: Update) -> bytes:
    return b"".join(bytes(section.data) for section in update.sections)


def rows(worker: Worker, level: SampleLevel = LEVEL) -> list[dict[str, Any]]:
    return list(level.budget(RUN, worker.partition).book.rows())


def spent(worker: Worker, rounds: int, level: SampleLevel = LEVEL) -> float:
    """ε of so many rounds, by the accountant alone."""
    event = level.event(len(worker.train), worker.settings)
    return epsilon([event] * rounds, level.delta)


# ------------------------------------------------------------------ what is told


def test_nothing_is_told_but_epsilon_and_what_it_follows_from(
    worker: Worker, start: AdapterState
) -> None:
    update = participation(worker, start).train()
    event = LEVEL.event(len(worker.train), worker.settings)
    assert {name: update.metrics[name] for name in ("noise-multiplier", "sampling", "steps")} == {
        "noise-multiplier": 1.0,
        "sampling": event.sampling,
        "steps": event.steps,
    }
    assert len(update.metrics) == 6
    assert update.metrics["num-examples"] == 1
    assert update.metrics["epsilon"] == pytest.approx(spent(worker, 1))
    assert update.metrics["epsilon-unamplified"] > update.metrics["epsilon"]


@pytest.mark.parametrize("level", [LEVEL, replace(LEVEL, noise=0.0, target=8.0)], ids=["z", "ε"])
def test_noise_sampling_and_steps_tell_no_more_than_epsilon_does(
    worker: Worker, level: SampleLevel
) -> None:
    found: dict[tuple[float, float], set[Event]] = {}
    for batch, most in ((4, 9), (6, 9)) if level.noise else ((4, 10),):
        settings = replace(worker.settings, batch_size=batch, rounds=1)
        for examples in range(1, most):
            event = level.event(examples, settings)
            told = [epsilon([event], level.delta, amplified=by) for by in (True, False)]
            found.setdefault((told[0], told[1]), set()).add(event)
    assert len(found) > 5
    assert {len(events) for events in found.values()} == {1}


def test_counts_are_told_where_they_are_public(worker: Worker, start: AdapterState) -> None:
    level = replace(LEVEL, public_counts=True)
    assert participation(worker, start, level=level).train().metrics["num-examples"] == 27


@pytest.mark.parametrize(("public", "told"), [(False, 1), (True, 27)])
def test_the_roll_call_tells_no_more(
    tiny_settings: dict[str, Any], *, public: bool, told: int
) -> None:
    config = parse(
        {
            **tiny_settings,
            "privacy.mode": "sample",
            "privacy.target-epsilon": 8.0,
            "privacy.public-counts": public,
        }
    )
    assert make_presence(config, NODE).examples == told


def test_a_delta_that_allows_to_publish_an_example_is_refused(
    tiny_settings: dict[str, Any],
) -> None:
    private = {"privacy.mode": "sample", "privacy.target-epsilon": 8.0}
    config = parse({**tiny_settings, **private, "privacy.delta": 1 / 27})
    with pytest.raises(PrivacyError, match="not below 1 over the number of examples of this node"):
        make_presence(config, NODE)


def test_a_delta_is_refused_without_a_roll_call_too(worker: Worker, start: AdapterState) -> None:
    level = replace(LEVEL, delta=0.5)
    with pytest.raises(PrivacyError, match=r"privacy\.delta = 0\.5 is not below 1 over"):
        participation(worker, start, level=level).train()
    assert rows(worker) == []


def test_how_well_a_model_does_is_not_told(worker: Worker, start: AdapterState) -> None:
    with pytest.raises(PrivacyError, match="does not tell how a model does on its data"):
        participation(worker, start).evaluate(0)


def test_control_variates_are_not_sent(worker: Worker, start: AdapterState) -> None:
    asked = participation(worker, start)
    control = AdapterState.zeros(trained_spec(start.spec))
    order = replace(asked.order, sections=[*asked.order.sections, section_of(CONTROL, control)])
    with pytest.raises(PrivacyError, match="asks for more than a delta: control"):
        replace(asked, order=order).train()
    assert rows(worker) == []


def test_the_config_reaches_the_node(tiny_settings: dict[str, Any], worker: Worker) -> None:
    config = parse(
        {
            **tiny_settings,
            "privacy.mode": "sample",
            "privacy.noise-multiplier": 1.5,
            "privacy.target-epsilon": 8.0,
            "privacy.delta": 1e-6,
            "privacy.clipping-norm": 0.3,
            "privacy.unsafe-seed": 5,
            "strategy.round-timeout": 90.0,
        }
    )
    order = participation(worker, worker.adapted.initial).order
    made = make_participation(config, NODE, lambda spec: order)
    assert made.discreet
    assert made.protection == SampleLevel(
        delta=1e-6, target=8.0, clipping_norm=0.3, noise=1.5, unsafe_seed=5, wait_s=90.0
    )


# ------------------------------------------------------------------ what is counted


def test_rounds_are_counted_together(worker: Worker) -> None:
    told = [
        participation(worker, state_of(worker, number), number, base=number - 1).train().metrics
        for number in (1, 2, 3)
    ]
    expected = [spent(worker, count) for count in (1, 2, 3)]
    assert [metrics["epsilon"] for metrics in told] == pytest.approx(expected)
    assert expected[0] < expected[1] < expected[2]


def test_noise_is_solved_for_all_rounds(worker: Worker) -> None:
    level = replace(LEVEL, noise=0.0, target=2.0)
    rounds = worker.settings.rounds
    assert rounds > 1
    assert 1.9 < spent(worker, rounds, level) <= 2.0


def test_a_node_sits_out_where_the_next_round_would_go_too_far(worker: Worker) -> None:
    level = replace(LEVEL, target=spent(worker, 2) + 0.01)
    for number in (1, 2):
        participation(worker, state_of(worker, number), number, level=level).train()
    with pytest.raises(BudgetSpentError, match="Round 3 would bring ε to"):
        participation(worker, state_of(worker, 3), 3, level=level).train()
    assert len(rows(worker)) == 2


# ------------------------------------------------------------------ asked again


def test_who_is_asked_twice_answers_once(worker: Worker, start: AdapterState) -> None:
    first = participation(worker, start).train()
    again = participation(worker, start, received=1).train()
    assert bits(again) == bits(first)
    assert (again.metrics, again.facts, again.round_number) == (
        first.metrics,
        first.facts,
        first.round_number,
    )
    assert len(rows(worker)) == 1


@pytest.mark.parametrize("options", [{"epochs": 2}, {"trains": "b"}, {"proximal-mu": 0.5}])
def test_another_question_is_another_answer(
    options: dict[str, Any], worker: Worker, start: AdapterState
) -> None:
    first = participation(worker, start).train()
    again = participation(worker, start, **options).train()
    assert bits(again) != bits(first)
    assert len(rows(worker)) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"trains": "c"},
        {"epochs": -1},
        {"epochs": "many"},
        {"proximal-mu": -0.5},
        {"proximal-mu": math.nan},
        {"proximal-mu": math.inf},
    ],
)
def test_an_order_that_cannot_be_carried_out_costs_nothing(
    options: dict[str, Any], worker: Worker, start: AdapterState
) -> None:
    with pytest.raises((FedPeftError, ValueError)):
        participation(worker, start, **options).train()
    assert rows(worker) == []


def test_a_node_that_lost_its_own_parameters_spends_nothing(
    tiny_settings: dict[str, Any],
) -> None:
    own = {"method.head": "personal", "evaluate.server": False, "strategy.fraction-evaluate": 1.0}
    worker = make_worker(parse({**tiny_settings, **own}), NODE)
    LEVEL.budget(RUN, worker.partition).spend(LEVEL.event(20, worker.settings), 1)
    with pytest.raises(NodeStateError, match=r"of round 1 \(personal\)"):
        participation(worker, worker.adapted.initial, 2, base=1).train()
    assert len(rows(worker)) == 1


@pytest.fixture
def at_work(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Let training say that it began, and go on only when it is told to."""
    began, goes_on, fit = threading.Event(), threading.Event(), Worker.fit

    def slow(worker: Worker, *args: Any, **settings: Any) -> Any:
        began.set()
        assert goes_on.wait(60)
        return fit(worker, *args, **settings)

    monkeypatch.setattr(Worker, "fit", slow)
    return began, goes_on


def test_who_is_asked_twice_at_once_answers_once(
    worker: Worker, start: AdapterState, at_work: tuple[threading.Event, threading.Event]
) -> None:
    began, goes_on = at_work
    with ThreadPoolExecutor() as pool:
        first = pool.submit(participation(worker, start).train)
        assert began.wait(60)
        again = pool.submit(participation(worker, start).train)
        time.sleep(0.2)  # time enough to spend, were there nothing to wait for
        goes_on.set()
        assert bits(first.result()) == bits(again.result())
    assert len(rows(worker)) == 1


def test_who_waits_for_too_long_spends_nothing(
    worker: Worker, start: AdapterState, at_work: tuple[threading.Event, threading.Event]
) -> None:
    began, goes_on = at_work
    with ThreadPoolExecutor() as pool:
        first = pool.submit(participation(worker, start).train)
        assert began.wait(60)
        impatient = participation(worker, start, 2, level=replace(LEVEL, wait_s=0.05))
        with pytest.raises(NodeStateError, match=r"within 0\.05 s, but another"):
            impatient.train()
        goes_on.set()
        first.result()
    assert [row["round"] for row in rows(worker)] == [1]


def test_the_same_round_from_another_state_counts_anew(worker: Worker) -> None:
    participation(worker, state_of(worker, 1)).train()
    again = participation(worker, state_of(worker, 2)).train()
    assert again.metrics["epsilon"] == pytest.approx(spent(worker, 2))


def test_a_lost_reply_is_made_anew_and_both_count(worker: Worker, start: AdapterState) -> None:
    first = participation(worker, start).train()
    LEVEL.outbox(RUN, worker.partition).path.unlink()
    again = participation(worker, start).train()
    assert bits(again) != bits(first)
    assert again.metrics["epsilon"] == pytest.approx(spent(worker, 2))


def test_a_round_that_broke_off_has_been_spent(
    worker: Worker, start: AdapterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        assert len(rows(worker)) == 1  # it stands there before any gradient is looked at
        raise TrainingError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("fedpeft_app.training.worker.private_fit", broken)
        with pytest.raises(TrainingError):
            participation(worker, start).train()
    update = participation(worker, start).train()
    assert update.metrics["epsilon"] == pytest.approx(spent(worker, 2))


def test_a_lost_book_is_no_empty_one(worker: Worker, start: AdapterState) -> None:
    participation(worker, start).train()
    book = LEVEL.budget(RUN, worker.partition).book
    Path(book.path).unlink()  # type: ignore[attr-defined]
    for known in ({"base": 1}, {"received": 1}):
        with pytest.raises(NodeStateError, match="spent in round 1, of which the server holds"):
            participation(worker, state_of(worker, 2), 2, **known).train()


def test_a_killed_node_has_spent_what_it_began(
    worker: Worker, start: AdapterState, tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    np.save(tmp_path / "start.npy", start.vector)
    script = textwrap.dedent(f"""
        import os, signal, sys
        import numpy as np
        from fedpeft_app.adapters import AdapterState
        from fedpeft_app.assembly import make_worker
        from fedpeft_app.config import parse
        from fedpeft_app.privacy import dp_sgd
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_private_participation import NODE, participation
        worker = make_worker(parse({tiny_settings!r}), NODE)
        start = AdapterState(
            spec=worker.adapted.spec, vector=np.load({str(tmp_path / "start.npy")!r})
        )
        release = dp_sgd.NoisySum.release
        def dies(self, count):
            release(self, count)
            os.kill(os.getpid(), signal.SIGKILL)  # in the middle of training, after a step
        dp_sgd.NoisySum.release = dies
        participation(worker, start).train()
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, env=dict(os.environ), capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert len(rows(worker)) == 1
    resumed = participation(worker, start).train()
    assert resumed.metrics["epsilon"] == pytest.approx(spent(worker, 2))
