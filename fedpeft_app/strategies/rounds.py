"""The round loop: sample, send, receive, guard, aggregate; over any strategy."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Message
from flwr.serverapp import Grid

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import is_finite
from fedpeft_app.errors import TrainingError
from fedpeft_app.strategies.exchange import Arrival, exchange
from fedpeft_app.strategies.guard import (
    admit,
    admit_metrics,
    require_judges,
    require_quorum,
    short_reason,
)
from fedpeft_app.strategies.orders import order_messages, train_messages
from fedpeft_app.strategies.sampling import sample_cohort
from fedpeft_app.strategies.strategy import Member, Reply, Strategy, name_of
from fedpeft_app.strategies.versions import Versions
from fedpeft_app.wire.ledger import Ledger
from fedpeft_app.wire.record import Order

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """How rounds go.

    Attributes:
        rounds: How many.
        seed: The run's seed.
        fraction_train: Share of the nodes that train, in (0, 1].
        fraction_evaluate: Share of the nodes that evaluate, in [0, 1].
        min_replies: Good replies a round needs.
        timeout_s: Seconds to wait for replies.
        experiment: Name under which nodes keep parameters of their own; empty = they keep none.
    """

    rounds: int
    seed: int
    fraction_train: float
    fraction_evaluate: float
    min_replies: int
    timeout_s: float
    experiment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """What came of one round.

    Attributes:
        round_number: Round, from 1.
        state: The new global state.
        good: Replies that were folded.
        rejected: Partition → reason, for the other members of the cohort.
        seconds: From the first train message sent to the last reply received.
        client_metrics: Partition → metrics of the nodes that evaluated the new state.
        untrained: Those of them whose own parameters are still as they were drawn.
    """

    round_number: int
    state: AdapterState
    good: Sequence[Reply]
    rejected: Mapping[int, str]
    seconds: float
    client_metrics: Mapping[int, Mapping[str, float]]
    untrained: tuple[int, ...] = ()

    @property
    def train_loss(self) -> float:
        """Mean training loss over the cohort, weighted by examples."""
        return train_loss(self.good)


class Watcher(Protocol):
    """What may look on while rounds go by."""

    def round_started(self, round_number: int, cohort: Sequence[Member]) -> None:
        """Told before the first message of a round."""
        ...

    def reply_arrived(self, round_number: int, member: Member, problem: str) -> None:
        """Told with every train reply; `problem` is empty if it carries no error."""
        ...

    def round_finished(self, result: RoundResult) -> None:
        """Told when the new state stands: evaluate, checkpoint, journal."""
        ...


def run_rounds(
    grid: Grid,
    strategy: Strategy,
    members: Sequence[Member],
    state: AdapterState,
    plan: RoundPlan,
    *,
    ledger: Ledger,
    watcher: Watcher,
) -> AdapterState:
    """Drive every round of a run.

    Args:
        grid: Flower's connection.
        strategy: Who gets what, and how replies become the next state.
        members: Nodes that passed the roll call.
        state: The state to start from.
        plan: How rounds go.
        ledger: Told every message's size.
        watcher: Told what happens.

    Returns:
        The state after the last round.

    Raises:
        QuorumError: If a round has fewer good replies than `plan.min_replies`, or nobody who
            was asked to evaluate did.
        TrainingError: If a new state has values that are not finite.

    Guarantee:
        Replies are folded by partition, so their order of arrival does not matter.
    """
    versions = Versions(experiment=plan.experiment)
    for round_number in range(1, plan.rounds + 1):
        result = run_round(
            grid,
            strategy,
            members,
            state,
            plan,
            round_number,
            versions=versions,
            ledger=ledger,
            watcher=watcher,
        )
        state = result.state
        watcher.round_finished(result)
    return state


def run_round(
    grid: Grid,
    strategy: Strategy,
    members: Sequence[Member],
    state: AdapterState,
    plan: RoundPlan,
    round_number: int,
    *,
    versions: Versions,
    ledger: Ledger,
    watcher: Watcher,
) -> RoundResult:
    """Drive one round.

    Args:
        grid: Flower's connection.
        strategy: Who gets what, and how replies become the next state.
        members: Nodes that passed the roll call.
        state: The state to start from.
        plan: How rounds go.
        round_number: Round, from 1.
        versions: What nodes keep for themselves; moves on with those whose replies are good.
        ledger: Told every message's size.
        watcher: Told what happens; `round_finished` is left to the caller.

    Raises:
        QuorumError: If there are fewer good replies than `plan.min_replies`, or nobody who was
            asked to evaluate did.
        TrainingError: If the new state has values that are not finite.
    """
    cohort = sample_cohort(
        members,
        fraction=plan.fraction_train,
        minimum=plan.min_replies,
        seed=plan.seed,
        round_number=round_number,
    )
    asked = train_messages(strategy, round_number, state, cohort, versions)
    watcher.round_started(round_number, list(asked))
    arrivals = _train_on_nodes(grid, asked, plan, round_number, ledger, watcher)
    good, rejected = _admit_all(arrivals, state, round_number)
    require_quorum(round_number, good, rejected, plan.min_replies)
    state = strategy.aggregate(round_number, state, good)
    _require_finite(state, strategy, round_number)
    versions.advance(round_number, good)
    judged = _evaluate_on_nodes(grid, members, state, plan, round_number, versions, ledger)
    return RoundResult(
        round_number=round_number,
        state=state,
        good=good,
        rejected=rejected,
        seconds=max((arrival.seconds for arrival in arrivals), default=0.0),
        client_metrics=judged,
        untrained=versions.untrained(judged),
    )


def _train_on_nodes(
    grid: Grid,
    asked: Mapping[Member, Message],
    plan: RoundPlan,
    round_number: int,
    ledger: Ledger,
    watcher: Watcher,
) -> list[Arrival]:
    """Let the cohort train, telling the watcher of each reply as it comes."""
    return exchange(
        grid,
        asked,
        ledger=ledger,
        round_number=round_number,
        kind="train",
        timeout_s=plan.timeout_s,
        arrived=lambda arrival: watcher.reply_arrived(
            round_number, arrival.member, _problem(arrival)
        ),
    )


def train_loss(good: Sequence[Reply]) -> float:
    """Average the training losses of replies, at least one, weighted by examples."""
    weights = sum(reply.weight for reply in good)
    return sum(reply.weight * reply.metrics["loss"] for reply in good) / weights


def _require_finite(state: AdapterState, strategy: Strategy, round_number: int) -> None:
    """Refuse a state that no node could train from."""
    if not is_finite(state):
        raise TrainingError(
            f"Round {round_number}: the state that {name_of(strategy)} made of good "
            f"replies has values that are not finite. Check strategy.options, or lower "
            f"train.learning-rate."
        )


def _problem(arrival: Arrival) -> str:
    """Say what went wrong on a node; empty if its reply carries no error."""
    failed = arrival.message.has_error()
    return short_reason(arrival.message.error.reason) if failed else ""


def _admit_all(
    arrivals: Sequence[Arrival], state: AdapterState, round_number: int
) -> tuple[list[Reply], dict[int, str]]:
    """Sort replies into good ones and rejected ones."""
    good: list[Reply] = []
    rejected: dict[int, str] = {}
    for arrival in arrivals:
        outcome = admit(arrival.message, arrival.member, state.spec, round_number)
        if isinstance(outcome, str):
            rejected[arrival.member.partition] = outcome
        else:
            good.append(outcome)
    return good, rejected


def _evaluate_on_nodes(
    grid: Grid,
    members: Sequence[Member],
    state: AdapterState,
    plan: RoundPlan,
    round_number: int,
    versions: Versions,
    ledger: Ledger,
) -> dict[int, dict[str, float]]:
    """Let a sample of the nodes judge the new state on what they hold out."""
    if plan.fraction_evaluate == 0:
        return {}
    cohort = sample_cohort(
        members,
        fraction=plan.fraction_evaluate,
        minimum=1,
        seed=plan.seed,
        round_number=0,  # the same nodes every round: their figures decide which round is best
        purpose="evaluation-cohort",
    )
    orders = {
        member: Order(state=state, round_number=round_number, options=versions.options(member))
        for member in cohort
    }
    arrivals = exchange(
        grid,
        order_messages("evaluate", orders),
        ledger=ledger,
        round_number=round_number,
        kind="evaluate",
        timeout_s=plan.timeout_s,
    )
    measured: dict[int, dict[str, float]] = {}
    failed: dict[int, str] = {}
    for arrival in arrivals:
        outcome = admit_metrics(arrival.message)
        if isinstance(outcome, str):
            node = arrival.member.partition
            failed[node] = outcome
            _log.warning("Round %d: node %d did not evaluate: %s", round_number, node, outcome)
        else:
            measured[arrival.member.partition] = outcome
    require_judges(round_number, measured, failed)
    return measured
