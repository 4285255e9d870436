"""Replies that come too late: some still count, and silence is told from slowness."""

import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from strategy_samples import (
    Learner,
    Log,
    Node,
    ScriptedGrid,
    failure,
    ledger,
    members,
    plan,
)

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.errors import QuorumError
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.late import Late
from fedpeft_app.strategies.rounds import run_rounds
from fedpeft_app.strategies.strategy import Member
from fedpeft_app.wire.ledger import Ledger


class Scene:
    """Nodes of one run; what one of them holds back, another may let go.

    Attributes:
        log: What the watcher saw.
        book: The ledger.
        held: Replies that nobody can pull yet.
        asked: Places of nodes, in the order in which they were asked.
    """

    def __init__(self, spec: AdapterSpec, scripts: Sequence[str]) -> None:
        """Take a word a time that a node is asked: see `_play`; the last one stays."""
        self._scripts = [script.split() for script in scripts]
        self._members = members(len(scripts))
        self._learners = [Learner(spec, float(place + 1)) for place in range(len(scripts))]
        self.log, self.book = Log(), ledger()
        self.held: list[Message] = []
        self.asked: list[int] = []
        nodes = {m.node_id: self._node(place) for place, m in enumerate(self._members)}
        self._grid = ScriptedGrid(nodes, per_pull=len(nodes))

    def run(self, state: AdapterState, **changes: Any) -> AdapterState:
        """Run rounds."""
        settings = {"timeout_s": 0.3, **changes}
        renew = settings.pop("renew", lambda some, least: some)
        return run_rounds(
            self._grid,
            Composition(),
            self._members,
            state,
            plan(**settings),
            ledger=self.book,
            watcher=self.log,
            renew=renew,
        )

    def told(self, kind: str) -> list[tuple[Any, ...]]:
        """Give the lines of one kind, without it."""
        return [line[1:] for line in self.log.lines if line[0] == kind]

    def _node(self, place: int) -> Node:
        def node(message: Message) -> Message | None:
            self.asked.append(place)
            words = self._scripts[place]
            return self._play(words.pop(0) if len(words) > 1 else words[0], place, message)

        return node

    def _play(self, word: str, place: int, message: Message) -> Message | None:
        """Answer well, fail, hold the answer back, or say nothing; "+": let go what is held."""
        if word.endswith("+"):
            self._grid._ready += self.held
            self.held.clear()
        if word.startswith("fail"):
            return failure(message, "disk on fire")
        if word.startswith("silent"):
            return None
        reply = self._learners[place](message)
        if word.startswith("hold"):
            self.held.append(reply)
            return None
        return reply


def test_a_late_reply_to_an_earlier_attempt_counts(spec: AdapterSpec, state: AdapterState) -> None:
    scene = Scene(spec, ["good", "good", "hold silent+"])
    end = scene.run(state, retries=1, min_replies=3)
    assert scene.told("answered") == [([0, 1, 2], [])]
    assert np.allclose(end.vector - state.vector, 2.0)  # the mean of 1, 2 and 3
    assert scene.told("reply")[-1] == (1, 2, "")
    assert scene.told("late") == []
    up = [entry for entry in scene.book.entries if entry.node == 2 and entry.size > 0]
    assert [(one.direction, one.kind) for one in up if one.direction == "up"] == [("up", "train")]


def test_of_two_replies_to_two_attempts_one_counts(spec: AdapterSpec, state: AdapterState) -> None:
    scene = Scene(spec, ["good", "good", "hold good+"])
    end = scene.run(state, retries=1, min_replies=3)
    assert scene.told("answered") == [([0, 1, 2], [])]
    assert np.allclose(end.vector - state.vector, 2.0)
    assert scene.told("late") == [(1, 2, 1)]


def test_a_late_reply_counts_of_a_node_that_is_not_asked_again(
    spec: AdapterSpec, state: AdapterState
) -> None:
    calls = itertools.count()

    def renew(some: Sequence[Member], least: int) -> Sequence[Member]:
        return some if next(calls) == 0 else some[:2]  # node 2 is no longer connected

    scene = Scene(spec, ["good", "fail good+", "hold"])
    end = scene.run(state, retries=1, min_replies=2, renew=renew)
    assert scene.asked.count(2) == 1
    assert scene.told("answered") == [([0, 1, 2], [])]
    assert np.allclose(end.vector - state.vector, 2.0)


def test_a_late_reply_that_is_no_good_does_not_count(
    spec: AdapterSpec, state: AdapterState
) -> None:
    scene = Scene(spec, ["good", "good", "hold silent+"])
    scene._learners[2] = Learner(spec, float("nan"))
    with pytest.raises(QuorumError, match=r"node 2: no reply within 0.3 s"):
        scene.run(state, retries=1, min_replies=3)
    assert scene.told("late") == [(1, 2, 1)]


def test_a_late_reply_to_an_earlier_round_does_not_count(
    spec: AdapterSpec, state: AdapterState
) -> None:
    scene = Scene(spec, ["good", "good fail+ good", "hold fail good"])
    scene.run(state, rounds=2, retries=1, min_replies=2)
    assert scene.told("late") == [(2, 2, 1)]
    assert [sorted(result.rejected) for result in scene.log.results] == [[2], []]


def ticking(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the clock of late replies go on by so much whenever somebody looks."""
    clock = itertools.count(0.0, seconds)
    module = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("fedpeft_app.strategies.late.time", module)


RESERVE = {"fraction_train": 0.5, "over_selection": 2.0, "min_replies": 2, "tolerance": 2}


def rounds_that_asked(scene: Scene, node: int) -> list[int]:
    """List them."""
    return [number for number, cohort in scene.told("started") if node in cohort]


def test_who_is_silent_for_as_long_as_a_round_waits_failed_though_others_were_faster(
    spec: AdapterSpec, state: AdapterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticking(monkeypatch, 4.0)  # twice a round, so that a silence of ten seconds takes two
    scene = Scene(spec, ["good", "good", "good", "silent"])
    scene.run(state, rounds=11, timeout_s=10.0, **RESERVE)
    assert scene.told("alone") == [(3, 7), (3, 10)]  # in rounds 5 and 7
    assert rounds_that_asked(scene, 3) == [1, 2, 3, 4, 5, 11]


def test_who_is_slow_but_answers_in_time_has_not_failed(
    spec: AdapterSpec, state: AdapterState, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticking(monkeypatch, 4.0)
    scene = Scene(spec, ["good", "good", "good", "hold hold+"])
    scene.run(state, rounds=9, timeout_s=10.0, **RESERVE)
    assert scene.told("alone") == []
    assert len(rounds_that_asked(scene, 3)) == 9


def waiting(late: Late, *messages: tuple[str, int], patience_s: float = 5.0) -> None:
    """Take over messages: id and place of the member."""
    for name, place in messages:
        late.expect({name: members(3)[place]}, 1, patience_s)


def test_all_that_a_node_has_not_answered_is_one_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    ticking(monkeypatch, 3.0)
    late = Late()
    waiting(late, ("a", 0), ("b", 0), ("c", 1))  # due at 5, 8 and 11
    assert late.overdue() == {0}  # at 9
    assert late.overdue() == {1}  # at 12
    assert late.overdue() == set()


def test_a_silence_that_has_been_counted_is_not_counted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticking(monkeypatch, 100.0)
    late = Late()
    waiting(late, ("a", 0), patience_s=0.0)
    assert late.overdue() == set()


@pytest.mark.parametrize("answer", [lambda spec: Learner(spec, 1.0), lambda spec: _broken])
def test_who_has_answered_is_not_silent(
    spec: AdapterSpec,
    state: AdapterState,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[AdapterSpec], Node],
) -> None:
    scene = Scene(spec, ["good", "good", "good", "hold silent"])
    scene._learners[3] = answer(spec)
    scene.run(state, timeout_s=10.0, **RESERVE)
    late, grid = Late(), scene._grid
    ticking(monkeypatch, 100.0)
    late.expect({scene.held[0].metadata.reply_to_message_id: members(4)[3]}, 1, 5.0)
    grid._ready += scene.held
    list(late.pull(grid, Ledger(backbone_bytes=0, full_parameters=0), 2))
    assert late.overdue() == set()


def _broken(message: Message) -> Message:
    """Answer with an error."""
    return failure(message, "disk on fire")
