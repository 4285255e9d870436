"""The round loop: sample, send, receive, guard, aggregate; over any strategy."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedpeft_app.adapters import AdapterState
from fedpeft_app.errors import QuorumError
from fedpeft_app.strategies.exchange import Arrival, exchange
from fedpeft_app.strategies.guard import admit, short_reason
from fedpeft_app.strategies.sampling import sample_cohort
from fedpeft_app.strategies.strategy import Member, Reply, Strategy
from fedpeft_app.wire.ledger import Ledger
from fedpeft_app.wire.record import Order, metrics, write_order


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
    """

    rounds: int
    seed: int
    fraction_train: float
    fraction_evaluate: float
    min_replies: int
    timeout_s: float


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
    """

    round_number: int
    state: AdapterState
    good: Sequence[Reply]
    rejected: Mapping[int, str]
    seconds: float
    client_metrics: Mapping[int, Mapping[str, float]]

    @property
    def train_loss(self) -> float:
        """Mean training loss over the cohort, weighted by examples."""
        weights = sum(reply.weight for reply in self.good)
        return sum(reply.weight * reply.metrics["loss"] for reply in self.good) / weights


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
        QuorumError: If a round has fewer good replies than `plan.min_replies`.

    Guarantee:
        Replies are folded by partition, so their order of arrival does not matter.
    """
    for round_number in range(1, plan.rounds + 1):
        result = run_round(
            grid, strategy, members, state, plan, round_number, ledger=ledger, watcher=watcher
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
    ledger: Ledger,
    watcher: Watcher,
) -> RoundResult:
    """Drive one round; arguments as for `run_rounds`."""
    cohort = sample_cohort(
        members,
        fraction=plan.fraction_train,
        minimum=plan.min_replies,
        seed=plan.seed,
        round_number=round_number,
    )
    options = strategy.configure(round_number, state, cohort)
    orders = {
        member: Order(state=state, round_number=round_number, options=options[member.node_id])
        for member in cohort
        if member.node_id in options
    }
    asked = _messages("train", orders)
    watcher.round_started(round_number, list(asked))

    def arrived(arrival: Arrival) -> None:
        failed = arrival.message.has_error()
        problem = short_reason(arrival.message.error.reason) if failed else ""
        watcher.reply_arrived(round_number, arrival.member, problem)

    started = time.perf_counter()
    arrivals = exchange(
        grid,
        asked,
        ledger=ledger,
        round_number=round_number,
        kind="train",
        timeout_s=plan.timeout_s,
        arrived=arrived,
    )
    seconds = time.perf_counter() - started
    good, rejected = _admit_all(arrivals, state, round_number)
    if len(good) < plan.min_replies:
        reasons = "\n".join(f"  node {node}: {reason}" for node, reason in rejected.items())
        raise QuorumError(
            f"Round {round_number}: {len(good)} of {len(asked)} replies were good, at least "
            f"{plan.min_replies} (strategy.min-replies) must be. Rejected:\n{reasons}"
        )
    state = strategy.aggregate(round_number, state, good)
    return RoundResult(
        round_number=round_number,
        state=state,
        good=good,
        rejected=rejected,
        seconds=seconds,
        client_metrics=_evaluate_on_nodes(grid, members, state, plan, round_number, ledger),
    )


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
        round_number=round_number,
        purpose="evaluation-cohort",
    )
    order = Order(state=state, round_number=round_number)
    arrivals = exchange(
        grid,
        _messages("evaluate", dict.fromkeys(cohort, order)),
        ledger=ledger,
        round_number=round_number,
        kind="evaluate",
        timeout_s=plan.timeout_s,
    )
    return {
        arrival.member.partition: metrics(arrival.message.content)
        for arrival in arrivals
        if arrival.message.has_content()
    }


def _messages(kind: str, orders: Mapping[Member, Order]) -> dict[Member, Message]:
    """Address orders to their nodes; equal orders share one serialised content."""
    contents: dict[tuple[tuple[str, object], ...], RecordDict] = {}
    messages = {}
    for member, order in orders.items():
        key = tuple(sorted(order.options.items()))
        if key not in contents:
            contents[key] = write_order(order)
        messages[member] = Message(
            content=contents[key],
            dst_node_id=member.node_id,
            message_type=kind,
            group_id=str(order.round_number),
        )
    return messages
