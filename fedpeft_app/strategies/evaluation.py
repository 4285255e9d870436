"""Nodes judge the global state, each on what it holds out."""

import logging
from collections.abc import Sequence
from typing import Protocol

from flwr.serverapp import Grid

from fedpeft_app.adapters import AdapterState
from fedpeft_app.strategies.exchange import exchange
from fedpeft_app.strategies.guard import admit_metrics, require_judges
from fedpeft_app.strategies.orders import Courier
from fedpeft_app.strategies.sampling import sample_cohort
from fedpeft_app.strategies.strategy import Assignment, Member, Strategy
from fedpeft_app.wire.ledger import Ledger

_log = logging.getLogger(__name__)


class EvaluationPlan(Protocol):
    """What of the plan of a run's rounds is about evaluation."""

    @property
    def fraction_evaluate(self) -> float:
        """Share of the nodes that evaluate, in [0, 1]."""
        ...

    @property
    def seed(self) -> int:
        """The run's seed."""
        ...

    @property
    def timeout_s(self) -> float:
        """Seconds to wait for replies."""
        ...


def evaluate_on_nodes(
    grid: Grid,
    strategy: Strategy,
    members: Sequence[Member],
    plan: EvaluationPlan,
    round_number: int,
    courier: Courier,
    ledger: Ledger,
) -> dict[int, dict[str, float]]:
    """Let a sample of the nodes judge the state that a round made.

    Args:
        grid: Flower's connection.
        strategy: Says what nodes of a rank of their own get of the state.
        members: Nodes that passed the roll call.
        plan: How rounds go.
        round_number: Round, from 1.
        courier: Holds the state, and what nodes have of it.
        ledger: Told every message's size.

    Returns:
        Partition → metrics, of those that did.

    Raises:
        QuorumError: If nodes were asked, and none did.
    """
    if plan.fraction_evaluate == 0:
        return {}
    asked = _assignments(strategy, members, plan, round_number, courier.broadcast.state)
    arrivals = exchange(
        grid,
        courier.messages("evaluate", round_number, asked),
        ledger=ledger,
        round_number=round_number,
        kind="evaluate",
        timeout_s=plan.timeout_s,
    )
    measured: dict[int, dict[str, float]] = {}
    failed: dict[int, str] = {}
    for arrival in arrivals:
        outcome, node = admit_metrics(arrival.message, arrival.member), arrival.member.partition
        if isinstance(outcome, str):
            failed[node] = outcome
            _log.warning("Round %d: node %d did not evaluate: %s", round_number, node, outcome)
        else:
            measured[node] = outcome
    courier.note_arrivals({a.member: a.member.partition in measured for a in arrivals})
    require_judges(round_number, measured, failed)
    return measured


def _assignments(
    strategy: Strategy,
    members: Sequence[Member],
    plan: EvaluationPlan,
    round_number: int,
    state: AdapterState,
) -> dict[Member, Assignment]:
    """Draw who evaluates, and give each of them the state in its own rank."""
    cohort = sample_cohort(
        members,
        fraction=plan.fraction_evaluate,
        minimum=1,
        seed=plan.seed,
        round_number=0,  # the same nodes every round: their figures decide which round is best
        purpose="evaluation-cohort",
    )
    ranked = [member for member in cohort if member.rank]
    served = strategy.configure(round_number, state, ranked) if ranked else {}
    return {
        member: Assignment(state=served[member.node_id].state if member.rank else state)
        for member in cohort
    }
