"""Strategies go on where they stopped: what they hold is read, written down, and given back."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from flwr.serverapp import strategy as flower
from strategy_samples import Decoded, members, state_of

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.errors import RunFolderError
from fedpeft_app.privacy.noisy_mean import Follow, NoisyMean
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.catalogue import make_strategy
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.continuing import Continuity
from fedpeft_app.strategies.flower import FlowerAdapter
from fedpeft_app.strategies.strategy import Assignment, Member, Reply, Strategy, everyone
from fedpeft_app.strategies.user_level import UserLevel
from fedpeft_app.wire.record import CONTROL

ROUNDS = 4


class Counting:
    """A strategy of someone else's that holds plain data of every kind."""

    def __init__(self, held: Any = None) -> None:
        self.given = {"a": 1}
        self.held = held
        self.seen: list[Any] = []

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        pass

    def configure(self, round_number: int, state: AdapterState, cohort: Sequence[Member]) -> Any:
        return everyone(cohort, Assignment(state=state))

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        delta = replies[0].delta.vector
        self.seen.append((round_number, float(delta.sum()), np.float32(delta.max()), None))
        self.held = {"state": state, "sum": np.cumsum(delta, dtype=np.float64)}
        moved = state.vector + delta + len(self.seen)
        return AdapterState(spec=state.spec, vector=moved.astype(np.float32))


def user_level() -> UserLevel:
    mechanism = NoisyMean(
        clipping_norm=1.0,
        noise_multiplier=0.1,
        sampling=1.0,
        users=4,
        follow=Follow(quantile=0.5),
    )
    return UserLevel(
        make_strategy("fedadam", {}, seed=0),
        mechanism=mechanism,
        delta=0.1,
        spend=lambda event, round_number: None,
        unsafe_seed=1,
    )


MAKERS: dict[str, Any] = {
    **{
        name: lambda name=name: make_strategy(name, {}, seed=3)
        for name in ("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox")
    },
    "scaffold": lambda: make_strategy("scaffold", {}, seed=3),
    "median": lambda: make_strategy("median", {}, seed=3),
    "user-level": user_level,
    "someone's": Counting,
    "flower fedadam": lambda: FlowerAdapter(flower.FedAdam(), seed=3),
    "flower fedavgm": lambda: FlowerAdapter(flower.FedAvgM(server_momentum=0.9), seed=3),
    "flower fedyogi": lambda: FlowerAdapter(flower.FedYogi(), seed=3),
}


def played(
    strategy: Strategy, state: AdapterState, first: int, last: int, stopped: Snapshot | None = None
) -> tuple[AdapterState, Snapshot]:
    """Play rounds with four nodes, from where a snapshot says, if there is one."""
    cohort = members(4)
    strategy.prepare(state.spec, cohort)
    continuity = Continuity(strategy)
    if stopped is not None:
        continuity.go_on(stopped, state)
    for round_number in range(first, last + 1):
        asked = strategy.configure(round_number, state, cohort)
        replies = [
            Reply(
                member=member,
                start=asked[member.node_id].state,
                update=Decoded(state=drawn(state.spec, round_number, member)),
                weight=float(member.examples),
                metrics={"num-examples": float(member.examples), "loss": 0.5},
                extras={
                    extra: Decoded(state=drawn(one.spec, round_number, member))
                    for extra, one in asked[member.node_id].extras.items()
                },
            )
            for member in cohort
        ]
        state = strategy.aggregate(round_number, state, replies)
    return state, continuity.snapshot()


def drawn(spec: AdapterSpec, round_number: int, member: Member) -> AdapterState:
    generator = np.random.default_rng([round_number, member.partition])
    return AdapterState(spec=spec, vector=generator.normal(size=spec.size).astype(np.float32))


def written_down(snapshot: Snapshot) -> Snapshot:
    """Bring a snapshot through JSON and bytes, as a checkpoint does."""
    arrays = {
        name: np.frombuffer(array.tobytes(), dtype=array.dtype).reshape(array.shape)
        for name, array in snapshot.arrays.items()
    }
    return Snapshot(values=json.loads(json.dumps(dict(snapshot.values))), arrays=arrays)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("stop", [1, 2])
def test_a_strategy_that_stopped_gives_the_same_bits(
    spec: AdapterSpec, name: str, stop: int
) -> None:
    start = state_of(spec, 0.5)
    whole, _ = played(MAKERS[name](), start, 1, ROUNDS)
    half, snapshot = played(MAKERS[name](), start, 1, stop)
    found, _ = played(MAKERS[name](), half, stop + 1, ROUNDS, written_down(snapshot))
    assert found.vector.tobytes() == whole.vector.tobytes()


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "scaffold", "someone's", "flower fedadam"])
def test_without_what_it_held_it_would_not(spec: AdapterSpec, name: str) -> None:
    start = state_of(spec, 0.5)
    whole, snapshot = played(MAKERS[name](), start, 1, ROUNDS)
    half, _ = played(MAKERS[name](), start, 1, 2)
    if name == "scaffold":  # c moves gradients on nodes, which are none here
        assert snapshot.part("own").arrays[CONTROL].any()
        return
    forgetful, _ = played(MAKERS[name](), half, 3, ROUNDS)
    assert forgetful.vector.tobytes() != whole.vector.tobytes()


def test_what_nobody_changed_is_not_kept(spec: AdapterSpec) -> None:
    _, snapshot = played(Counting(), state_of(spec, 0.5), 1, 2)
    assert set(snapshot.values["known"]) == {"held", "seen"}


def test_what_cannot_be_read_is_named_when_a_run_would_go_on(spec: AdapterSpec) -> None:
    class Opaque(Counting):
        def aggregate(self, round_number: int, state: Any, replies: Any) -> AdapterState:
            self.rule = lambda: round_number
            return super().aggregate(round_number, state, replies)

    state, snapshot = played(Opaque(), state_of(spec, 0.5), 1, 1)
    with pytest.raises(RunFolderError, match="Opaque held rule between rounds, which is no plain"):
        played(Opaque(), state, 2, 2, written_down(snapshot))


def test_rounds_without_moments_have_nothing_to_keep(spec: AdapterSpec) -> None:
    _, snapshot = played(Composition(), state_of(spec, 0.5), 1, 2)
    assert not snapshot.arrays
    assert not snapshot.values
