"""User-level privacy around strategies: who is drawn, what is folded, what is refused."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import low_rank_runs
import numpy as np
import pytest
from decoded import Decoded
from flwr.app import Message
from strategy_samples import (
    ScriptedGrid,
    failure,
    ledger,
    members,
    plan,
    reply_of,
    state_of,
    update,
)

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.algebra import difference, norm
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.errors import BudgetSpentError, PrivacyError, QuorumError, RollCallError
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.noisy_mean import Follow, NoisyMean
from fedpeft_app.privacy.randomness import randomness
from fedpeft_app.strategies.catalogue import make_strategy
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.guard import NOTHING
from fedpeft_app.strategies.rounds import run_rounds
from fedpeft_app.strategies.server_optimizers import Adam
from fedpeft_app.strategies.strategy import Assignment, Member, Reply, Strategy
from fedpeft_app.strategies.user_level import UserLevel, poisson_cohort
from fedpeft_app.strategies.watcher import RoundResult
from fedpeft_app.wire.record import read_order

FAINT = 1e-9  # a noise multiplier whose noise no assertion sees
USERS = 4


class Spent(list[tuple[Event, int]]):
    """Where events go."""

    def __call__(self, event: Event, round_number: int) -> None:
        self.append((event, round_number))


def mechanism(**changes: Any) -> NoisyMean:
    settings = {
        "clipping_norm": 1.0,
        "noise_multiplier": FAINT,
        "sampling": 1.0,
        "users": USERS,
    }
    return NoisyMean(**{**settings, **changes})


def private(inner: Strategy | None = None, *, spend: Any = None, **changes: Any) -> UserLevel:
    return UserLevel(
        inner or Composition(),
        mechanism=mechanism(**changes),
        delta=1e-3,
        spend=Spent() if spend is None else spend,
        unsafe_seed=0,
    )


def drawn_round(strategy: UserLevel, state: AdapterState, round_number: int = 1) -> list[Member]:
    """Prepare, and draw a cohort of all four."""
    everyone = members(USERS)
    strategy.prepare(state.spec, everyone)
    asked = strategy.configure(round_number, state, everyone)
    return [member for member in everyone if member.node_id in asked]


def sent(spec: AdapterSpec, *deltas: Any, weights: Sequence[float] = (1.0,) * USERS) -> list[Reply]:
    """One reply of each member, by partition."""
    return [
        reply_of(member, state_of(spec, delta), weight)
        for member, delta, weight in zip(members(USERS), deltas, weights, strict=False)
    ]


# ------------------------------------------------------------------ what is folded


def test_the_mean_is_clipped_and_divided_by_the_expected_count(
    spec: AdapterSpec, state: AdapterState
) -> None:
    strategy = private(sampling=0.5)  # two expected
    strategy.prepare(spec, members(USERS))
    strategy._drawn = set(members(USERS))
    long = [7.0, 0, 0, 0, 0, 0, 0]
    short = [0.0, 0.5, 0, 0, 0, 0, 0]
    end = strategy.aggregate(1, state, sent(spec, long, short, short))
    moved = end.vector - state.vector
    np.testing.assert_allclose(moved, [0.5, 0.5, 0, 0, 0, 0, 0], atol=1e-6)


def test_weights_by_examples_do_not_change_the_result(
    spec: AdapterSpec, state: AdapterState
) -> None:
    ends = []
    for weights in ((1.0,) * USERS, (1.0, 1e6, 3.0, 0.5)):
        strategy = private()
        drawn_round(strategy, state)
        ends.append(strategy.aggregate(1, state, sent(spec, 0.1, -0.2, 0.3, 5.0, weights=weights)))
    assert ends[0].vector.tobytes() == ends[1].vector.tobytes()


@pytest.mark.parametrize("size", [0.0, 0.01, 1.0, 1e30])
def test_one_node_moves_the_state_by_the_norm_over_the_count_at_most(
    spec: AdapterSpec, state: AdapterState, size: float
) -> None:
    zero = state_of(spec, 0.0)
    ends = []
    for deltas in ((0.1, 0.2), (0.1, 0.2, size)):
        strategy = private(noise_multiplier=1.0, clipping_norm=0.5)
        drawn_round(strategy, zero)
        ends.append(strategy.aggregate(1, zero, sent(spec, *deltas)))
    assert norm(difference(*ends)) <= 0.5 / USERS * (1 + 1e-6)


@pytest.mark.parametrize(
    "inner",
    [
        lambda: Composition(optimizer=Adam(lr=0.1)),
        lambda: make_strategy("fedavgm", {}),
        lambda: make_strategy("fedyogi", {}),
        lambda: make_strategy("median", {}),
        lambda: make_strategy("flwr.serverapp.strategy:FedAdam", {}),
        lambda: make_strategy("flwr.serverapp.strategy:FedAvg", {}),
    ],
)
def test_what_the_inner_strategy_does_it_does_to_the_noisy_mean_alone(
    spec: AdapterSpec, inner: Callable[[], Strategy]
) -> None:
    state, alone, strategy = state_of(spec, 0.0), inner(), private(inner(), noise_multiplier=1.0)
    plain = private(noise_multiplier=1.0)  # adds the mean, so that it can be read off
    ours = theirs = noisy = state
    for number in (1, 2, 3):
        drawn_round(strategy, ours, number)
        drawn_round(plain, noisy, number)
        replies = sent(spec, 0.1, -0.2, 0.3, 5.0)
        before, noisy = noisy, plain.aggregate(number, noisy, replies)
        ours = strategy.aggregate(number, ours, replies)
        mean = difference(noisy, before)
        alone.prepare(spec, members(1))
        alone.configure(number, theirs, members(1))
        theirs = alone.aggregate(number, theirs, [reply_of(members(1)[0], mean, 1.0)])
    np.testing.assert_allclose(ours.vector, theirs.vector, atol=2e-6)


def test_noise_has_the_size_that_is_accounted(spec: AdapterSpec) -> None:
    strategy = private(noise_multiplier=2.0, clipping_norm=0.3, sampling=0.5)
    state = state_of(spec, 0.0)
    values = []
    for number in range(1, 401):
        drawn_round(strategy, state, number)
        values.append(strategy.aggregate(number, state, []).vector)
    assert np.std(values) == pytest.approx(2.0 * 0.3 / 2, rel=0.05)  # two are expected
    assert len({value.tobytes() for value in values}) == 400


@pytest.mark.parametrize(
    ("round_number", "trains", "rests"), [(1, "_B.", "_A."), (2, "_A.", "_B.")]
)
def test_noise_is_on_what_trains_and_on_nothing_else(
    round_number: int, trains: str, rests: str
) -> None:
    state = low_rank_runs.drawn(low_rank_runs.spec_of())
    strategy = private(make_strategy("rolora", {}), noise_multiplier=1.0)
    cohort = drawn_round(strategy, state, round_number)
    part = trained_spec(state.spec, "b" if trains == "_B." else "a")
    replies = [
        Reply(
            member=member,
            start=state,
            update=Decoded(state=AdapterState.zeros(part)),
            weight=1.0,
            metrics={},
        )
        for member in cohort
    ]
    end = strategy.aggregate(round_number, state, replies)
    before = state.tensors()
    for name, values in end.tensors().items():
        if rests in name:
            assert values.tobytes() == before[name].tobytes()
        else:
            assert (values != before[name]).all()


@pytest.mark.parametrize("name", ["fedit", "fedsvd", "flexlora", "lora-fair", "hetlora"])
def test_strategies_for_lora_go_on_from_noise_alone(name: str) -> None:
    state = low_rank_runs.fresh(low_rank_runs.spec_of())
    strategy = private(make_strategy(name, {}), noise_multiplier=1.0, sampling=1e-9)
    assert drawn_round(strategy, state) == []
    assert np.isfinite(strategy.aggregate(1, state, []).vector).all()


@pytest.mark.parametrize("name", ["flora", "fedex"])
def test_what_only_travels_gets_no_noise_of_its_own(name: str) -> None:
    spec = low_rank_runs.spec_of(residual=low_rank_runs.ROOM)
    state, strategy = low_rank_runs.fresh(spec), private(make_strategy(name, {}))
    drawn_round(strategy, state)
    end = strategy.aggregate(1, state, [])
    gained = [view for tensor, view in end.items() if tensor.frozen]
    assert max(np.abs(view).max() for view in gained) < 1e-4  # z is faint


# ------------------------------------------------------------------ what is spent


def test_every_round_is_spent_once_and_first(spec: AdapterSpec, state: AdapterState) -> None:
    spent = Spent()
    strategy = private(spend=spent, noise_multiplier=0.7, sampling=0.5)
    for number in (1, 2):
        drawn_round(strategy, state, number)
        strategy.aggregate(number, state, [])
    event = Event(noise_multiplier=0.7, sampling=0.5, steps=1)
    assert spent == [(event, 1), (event, 2)]


def test_a_round_beyond_the_budget_releases_nothing(spec: AdapterSpec, state: AdapterState) -> None:
    def refuse(event: Event, round_number: int) -> None:
        raise BudgetSpentError("Spent.")

    class Watched(Composition):
        def aggregate(self, *_: object) -> AdapterState:  # type: ignore[override]
            raise AssertionError("reached")

    strategy = private(Watched(), spend=refuse, follow=Follow(quantile=0.5), noise_multiplier=0.1)
    drawn_round(strategy, state)
    before = strategy.mechanism
    with pytest.raises(BudgetSpentError):
        strategy.aggregate(1, state, sent(spec, 1.0))
    assert strategy.mechanism is before
    assert strategy.notes == {}


def test_a_norm_that_follows_changes_after_the_round(
    spec: AdapterSpec, state: AdapterState
) -> None:
    strategy = private(follow=Follow(quantile=0.5, rate=1.0), noise_multiplier=FAINT)
    drawn_round(strategy, state)
    end = strategy.aggregate(1, state, sent(spec, 5.0, 5.0, 5.0, 5.0))
    assert norm(difference(end, state)) == pytest.approx(1.0, rel=1e-5)  # clipped to the old one
    assert strategy.notes == {"clipping-norm": 1.0}
    # b = 0 but for the noise on the count, of deviation 4 / 20: C·exp(−(b − 1/2)) ≈ 1.65.
    assert strategy.mechanism.clipping_norm == pytest.approx(1.65, rel=0.25)
    drawn_round(strategy, state, 2)
    used = strategy.mechanism.clipping_norm
    strategy.aggregate(2, state, [])
    assert strategy.notes == {"clipping-norm": used}


def test_notes_of_the_inner_strategy_stay() -> None:
    spec = low_rank_runs.spec_of(residual=low_rank_runs.ROOM)
    state, strategy = low_rank_runs.fresh(spec), private(make_strategy("flora", {}))
    drawn_round(strategy, state)
    strategy.aggregate(1, state, [])
    assert set(strategy.notes) == {"residual-lost", "clipping-norm"}


# ------------------------------------------------------------------ who is drawn


def test_each_member_is_drawn_independently() -> None:
    everyone, source = members(400), randomness(0, "cohort")
    cohorts = [poisson_cohort(everyone, 0.2, source) for _ in range(500)]
    sizes = [len(cohort) for cohort in cohorts]
    assert np.mean(sizes) == pytest.approx(80, abs=6 * 8 / math.sqrt(500))
    assert np.std(sizes) == pytest.approx(8, rel=0.2)  # √(N·q·(1 − q)); 0 for a fixed size
    often = np.bincount([one.partition for cohort in cohorts for one in cohort], minlength=400)
    assert np.std(often) == pytest.approx(math.sqrt(500 * 0.2 * 0.8), rel=0.2)


def test_a_cohort_is_in_the_order_of_partitions() -> None:
    everyone = members(50)
    cohort = poisson_cohort(everyone[::-1], 0.5, randomness(0, "cohort"))
    assert cohort == [member for member in everyone if member in cohort]
    assert 0 < len(cohort) < 50


def test_certainty_draws_everyone() -> None:
    assert poisson_cohort(members(9), 1.0, randomness(-1, "cohort")) == members(9)


def test_cohorts_differ_from_round_to_round_and_repeat_with_an_unsafe_seed(
    state: AdapterState,
) -> None:
    strategies = [private(sampling=0.5), private(sampling=0.5)]
    cohorts = [[drawn_round(one, state, at) for at in range(1, 9)] for one in strategies]
    assert cohorts[0] == cohorts[1]
    assert len({tuple(cohort) for cohort in cohorts[0]}) > 3


def test_without_an_unsafe_seed_nothing_repeats(spec: AdapterSpec, state: AdapterState) -> None:
    ends = set()
    for _ in range(2):
        strategy = UserLevel(
            Composition(), mechanism=mechanism(noise_multiplier=1.0), delta=1e-3, spend=Spent()
        )
        drawn_round(strategy, state)
        ends.add(strategy.aggregate(1, state, []).vector.tobytes())
    assert len(ends) == 2


# ------------------------------------------------------------------ what is refused


def test_a_cohort_that_someone_else_drew_is_refused(state: AdapterState) -> None:
    strategy = private(sampling=0.5)
    strategy.prepare(state.spec, members(USERS))
    with pytest.raises(PrivacyError, match="Expected all 4 nodes to draw a cohort from, got 3"):
        strategy.configure(1, state, members(USERS)[:3])


@pytest.mark.parametrize("count", [3, 5])
def test_members_for_whom_the_noise_was_not_made_are_refused(spec: AdapterSpec, count: int) -> None:
    with pytest.raises(PrivacyError, match=f"Expected 4 nodes, .* got {count}"):
        private().prepare(spec, members(count))
    private().prepare(spec, ())  # before a run


def test_a_delta_that_would_allow_to_publish_someone_is_refused(spec: AdapterSpec) -> None:
    strategy = UserLevel(Composition(), mechanism=mechanism(), delta=0.25, spend=Spent())
    with pytest.raises(PrivacyError, match=r"privacy\.delta = 0\.25 is not below 1 over 4 nodes"):
        strategy.prepare(spec, members(USERS))


def test_nodes_of_their_own_rank_are_refused(spec: AdapterSpec) -> None:
    other = replace(members(USERS)[0], rank=4)
    with pytest.raises(RollCallError, match="node 0 has rank 4"):
        private(make_strategy("flora", {})).prepare(spec, [other, *members(USERS)[1:]])


def test_a_rule_that_needs_many_is_refused_before_the_first_round(spec: AdapterSpec) -> None:
    with pytest.raises(QuorumError, match="for Krum"):
        private(make_strategy("krum", {})).prepare(spec, members(USERS))


class Choosing(Composition):
    """A strategy whose tasks are given."""

    def __init__(self, task_of: Callable[[AdapterState, Member], Assignment | None]) -> None:
        super().__init__("choosing")
        self._task_of = task_of

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        tasks = {member.node_id: self._task_of(state, member) for member in cohort}
        return {node: task for node, task in tasks.items() if task is not None}


@pytest.mark.parametrize(
    ("task_of", "reason"),
    [
        (
            lambda state, one: Assignment(state=state) if one.partition else None,
            "asks 3 of 4 nodes that were drawn",
        ),
        (
            lambda state, one: Assignment(state=state, part="ab"[one.partition % 2]),
            "different states or parts",
        ),
        (
            lambda state, one: Assignment(state=state_of(state.spec, one.partition)),
            "different states or parts",
        ),
        (
            lambda state, one: Assignment(state=state, extras={"control": state}),
            "asks nodes for more than a delta",
        ),
    ],
)
def test_tasks_of_which_no_mean_would_be_private_are_refused(
    state: AdapterState, task_of: Any, reason: str
) -> None:
    with pytest.raises(PrivacyError, match=f"choosing .*{reason}"):
        drawn_round(private(Choosing(task_of)), state)


def test_scaffold_is_refused(state: AdapterState) -> None:
    with pytest.raises(PrivacyError, match="scaffold asks nodes for more than a delta"):
        drawn_round(private(make_strategy("scaffold", {})), state)


def test_nobody_counts_twice_and_nobody_who_was_not_drawn(
    spec: AdapterSpec, state: AdapterState
) -> None:
    spent = Spent()
    strategy = private(spend=spent)
    drawn_round(strategy, state)
    twice = sent(spec, 0.1, 0.2) + sent(spec, 0.1)
    stranger = [reply_of(members(USERS + 1)[-1], state_of(spec, 0.1), 1.0)]
    for replies in (twice, stranger):
        with pytest.raises(PrivacyError, match="Expected one reply at most of each node drawn"):
            strategy.aggregate(1, state, replies)
    assert spent == []


def test_a_delta_of_another_part_is_refused() -> None:
    state = low_rank_runs.fresh(low_rank_runs.spec_of())
    strategy = private(make_strategy("rolora", {}))
    drawn_round(strategy, state)
    with pytest.raises(PrivacyError, match="Expected a delta of"):
        strategy.aggregate(1, state, sent(state.spec, 0.1))


# ------------------------------------------------------------------ through the round loop


class Discreet:
    """A node that sends a constant and says nothing of its data."""

    def __init__(self, spec: AdapterSpec, step: float) -> None:
        self._spec, self._step = spec, step
        self.rounds: list[int] = []

    def __call__(self, message: Message) -> Message:
        order = read_order(message.content, self._spec)
        self.rounds.append(order.round_number)
        delta = state_of(self._spec, self._step)
        return update(message, delta, order.round_number, {"num-examples": 1})


class Results(list[RoundResult]):
    """A watcher that keeps results."""

    def round_started(self, *_: object) -> None: ...

    def reply_arrived(self, *_: object) -> None: ...

    def round_answered(self, *_: object) -> None: ...

    def round_finished(self, result: RoundResult) -> None:
        self.append(result)


def run(nodes: Sequence[Any], state: AdapterState, strategy: UserLevel, **changes: Any) -> Results:
    everyone = members(len(nodes), examples=1)
    grid = ScriptedGrid({m.node_id: node for m, node in zip(everyone, nodes, strict=True)})
    watcher = Results()
    settings = plan(**{"numbers": NOTHING, "chance": True, "timeout_s": 0.5, **changes})
    run_rounds(grid, strategy, everyone, state, settings, ledger=ledger(), watcher=watcher)
    return watcher


def test_rounds_go_on_whoever_is_drawn_and_if_nobody_is(
    spec: AdapterSpec, state: AdapterState
) -> None:
    spent = Spent()
    nodes = [Discreet(spec, 0.1) for _ in range(USERS)]
    strategy = private(spend=spent, sampling=0.25)
    results = run(nodes, state, strategy, rounds=12, min_replies=2)
    sizes = [len(result.good) for result in results]
    assert set(sizes) == {0, 1, 2}  # with 1, fewer than strategy.min-replies
    assert [number for _, number in spent] == list(range(1, 13))
    assert sum(len(node.rounds) for node in nodes) == sum(sizes)
    # Each delta is shorter than C = 1, and one is expected in a round.
    np.testing.assert_allclose(results[-1].state.vector - state.vector, 0.1 * sum(sizes), rtol=1e-5)
    assert all(math.isnan(result.train_loss) for result in results)


def test_a_round_of_nobody_still_adds_noise(spec: AdapterSpec, state: AdapterState) -> None:
    nodes = [Discreet(spec, 0.1) for _ in range(USERS)]
    strategy = private(sampling=1e-6, noise_multiplier=1e-6)
    (result,) = run(nodes, state, strategy)
    assert (result.good, result.rejected, nodes[0].rounds) == ([], {}, [])
    assert (result.state.vector != state.vector).all()


def test_that_all_others_fail_does_not_end_a_run(spec: AdapterSpec, state: AdapterState) -> None:
    def fails(message: Message) -> Message:
        return failure(message, "No such file.")

    # Were it otherwise, whether there is a next round would tell of the first node's reply.
    for nodes in ([fails] * USERS, [Discreet(spec, 0.1), *[fails] * (USERS - 1)]):
        spent = Spent()
        results = run(nodes, state, private(spend=spent), rounds=2)
        assert [number for _, number in spent] == [1, 2]
        assert [len(result.good) for result in results] == [USERS - nodes.count(fails)] * 2


def test_whether_a_node_reports_depends_on_no_other_one(
    spec: AdapterSpec, state: AdapterState
) -> None:
    nodes = [Discreet(spec, 0.1) for _ in range(USERS)]
    results = run(nodes, state, private(), rounds=3, dropout=0.999)
    assert [len(result.rejected) for result in results] == [USERS] * 3  # nobody is spared


def test_whoever_fails_counts_for_nothing(spec: AdapterSpec, state: AdapterState) -> None:
    nodes: list[Any] = [Discreet(spec, 0.1) for _ in range(USERS)]
    nodes[2] = lambda message: failure(message, "No such file.")
    (result,) = run(nodes, state, private())
    np.testing.assert_allclose(result.state.vector - state.vector, 0.3 / USERS, rtol=1e-5)
