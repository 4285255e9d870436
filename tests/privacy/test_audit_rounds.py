"""Users of a server: ε of the noisy mean holds against who sees every round, unless broken."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from audits import (
    CANARIES,
    CLIPPING,
    DELTA,
    FEWER_RUNS,
    NOISE,
    RUNS,
    SILENCE,
    STEPS,
    TURNS,
    Adversary,
    audit,
    in_turns,
    played,
    without_what_repeats,
)
from decoded import Decoded

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.privacy import noisy_mean
from fedpeft_app.privacy.accountant import epsilon
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.noisy_mean import Follow, NoisyMean
from fedpeft_app.privacy.randomness import Randomness, SeededRandomness, Values, randomness
from fedpeft_app.strategies import user_level as wrapper
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.strategy import Member, Reply
from fedpeft_app.strategies.user_level import UserLevel, poisson_cohort

SPEC = AdapterSpec(
    method="sums",
    backbone="0" * 16,
    tensors=(TensorSpec(name="w", shape=(CANARIES,)),),
    ranks={},
)
START = AdapterState(spec=SPEC, vector=np.zeros(CANARIES, dtype=np.float32))
USERS = [Member(node_id=at, partition=at, examples=1) for at in range(CANARIES)]
MEAN = NoisyMean(clipping_norm=CLIPPING, noise_multiplier=NOISE, sampling=1 / TURNS, users=CANARIES)

Patch = pytest.MonkeyPatch


def rounds(there: np.ndarray, run: int) -> tuple[np.ndarray, list[Event]]:
    """Run all rounds from the same state; who is not there is asked, and sends nothing."""
    spent: list[Event] = []
    strategy = UserLevel(
        Composition(),
        mechanism=MEAN,
        delta=1e-3,  # must be below 1 / N; what is audited is another point of ε(δ)
        spend=lambda event, _: spent.append(event),
        unsafe_seed=run,
    )
    strategy.prepare(SPEC, USERS)
    ends = []
    for number in range(1, STEPS + 1):
        asked = strategy.configure(number, START, USERS)
        replies = [reply(user) for user in USERS if user.node_id in asked and there[user.partition]]
        ends.append(strategy.aggregate(number, START, replies).vector)
    return np.stack(ends, axis=1) * MEAN.expected / CLIPPING, spent


def reply(user: Member) -> Reply:
    """Send 10 ≫ C in a direction of one's own."""
    vector = np.zeros(CANARIES, dtype=np.float32)
    vector[user.partition] = 10
    update = Decoded(state=AdapterState(spec=SPEC, vector=vector))
    return Reply(member=user, start=START, update=update, weight=1.0, metrics={})


def test_rounds_leak_no_more_than_they_say_and_more_than_half() -> None:
    games = played(rounds, RUNS)
    assert games.claim == pytest.approx(1.515, abs=1e-3)
    assert 0.5 * games.claim < audit(games, Adversary()) <= games.claim


def test_against_who_knows_the_cohorts_only_the_claim_without_amplification_holds() -> None:
    # The seed of the run tells who is asked, which is why cohorts are not drawn from it.
    drawn = np.zeros((FEWER_RUNS, CANARIES, STEPS))
    for run, step in itertools.product(range(FEWER_RUNS), range(STEPS)):
        source = randomness(run, "cohort", round_number=step + 1)
        cohort = [user.partition for user in poisson_cohort(USERS, 1 / TURNS, source)]
        drawn[run, cohort, step] = 1.0
    games = played(rounds, FEWER_RUNS)
    found = audit(games, Adversary(drawn=drawn.reshape(-1, STEPS)))
    assert 1.1 * games.claim < found <= epsilon(games.events, DELTA, amplified=False)


# ------------------------------------------------------------------ a norm that follows

FOLLOW = Follow(quantile=0.5)
FOLLOWING = NoisyMean(
    clipping_norm=CLIPPING,
    noise_multiplier=2.0,
    sampling=1.0,
    users=30,  # σ_b = 1.5; z_Δ⁻² = 2⁻² − 3⁻², so z_Δ = 6 / √5
    follow=FOLLOW,
)
OF_SUM, OF_COUNT = 6 / 5**0.5, 3.0  # noise, if whoever is there adds 1 to either
FOLLOWED = 4


def following(there: np.ndarray, run: int) -> tuple[np.ndarray, list[Event]]:
    """Play each game alone: how C moves tells of all vectors together."""
    source = randomness(run, "audit")
    found = [followed([np.float32([10, 0])] if one else [], source) for one in there]
    return np.array(found), [FOLLOWING.event] * FOLLOWED


def followed(vectors: list[np.ndarray], source: Randomness) -> list[float]:
    mechanism, seen = FOLLOWING, []
    for _ in range(FOLLOWED):
        mean, moved = mechanism(vectors, 2, source)
        factor = moved.clipping_norm / mechanism.clipping_norm
        share = FOLLOW.quantile - np.log(factor) / FOLLOW.rate
        counted = mechanism.expected * (share - 0.5)  # −½ if there, for the vector is too long
        seen += [mechanism.expected * mean[0] / mechanism.clipping_norm, -2 * counted]
        mechanism = moved
    return seen


def knowing(of_sum: float, of_count: float) -> Adversary:
    return Adversary(noise=np.array([of_sum, of_count] * FOLLOWED), drawn=1.0)


def test_sum_and_count_together_leak_no_more_than_they_say_and_more_than_half() -> None:
    games = played(following, FEWER_RUNS)
    assert games.claim == pytest.approx(2.318, abs=1e-3)  # four times z = 2 is once z = 1
    assert 0.5 * games.claim < audit(games, knowing(OF_SUM, OF_COUNT)) <= games.claim


def test_a_count_without_noise_is_found_out(monkeypatch: Patch) -> None:
    draw = SeededRandomness.normal

    def normal(self: SeededRandomness, size: int) -> Values:
        return np.zeros(1) if size == 1 else draw(self, size)

    monkeypatch.setattr(SeededRandomness, "normal", normal)
    games = played(following, FEWER_RUNS)
    assert audit(games, knowing(OF_SUM, SILENCE)) > 1.1 * games.claim


# ------------------------------------------------------------------ broken in many ways


def unclipped(patch: Patch) -> Adversary:
    patch.setattr(noisy_mean, "clipped", lambda vector, norm: (vector.astype(np.float64), True))
    return Adversary()


def half_the_noise(patch: Patch) -> Adversary:
    patch.setattr(NoisyMean, "deviation", NOISE * CLIPPING / 2)
    return Adversary(noise=NOISE / 2)


def the_same_noise_in_every_round(patch: Patch) -> Adversary:
    drawn = UserLevel._random

    def again(self: UserLevel, purpose: str, number: int) -> Randomness:
        return drawn(self, purpose, 1 if purpose == "noise" else number)

    patch.setattr(UserLevel, "_random", again)
    return Adversary(noise=SILENCE, view=without_what_repeats)


def cohorts_in_turn(patch: Patch) -> Adversary:
    turns = itertools.cycle(USERS[at::TURNS] for at in range(TURNS))
    patch.setattr(wrapper, "poisson_cohort", lambda *_: next(turns))
    return in_turns(FEWER_RUNS)


@pytest.mark.parametrize(
    "fault", [unclipped, half_the_noise, the_same_noise_in_every_round, cohorts_in_turn]
)
def test_rounds_that_are_broken_are_found_out(
    monkeypatch: Patch, fault: Callable[[Patch], Adversary]
) -> None:
    adversary = fault(monkeypatch)
    games = played(rounds, FEWER_RUNS)
    assert audit(games, adversary) > 1.1 * games.claim
