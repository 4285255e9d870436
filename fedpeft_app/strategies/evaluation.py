"""Nodes judge the global state, each on what it holds out."""

import logging

from fedpeft_app.strategies.exchange import exchange
from fedpeft_app.strategies.guard import admit_metrics, require_judges
from fedpeft_app.strategies.loop import Loop
from fedpeft_app.strategies.sampling import sample_cohort
from fedpeft_app.strategies.strategy import Assignment, Member

_log = logging.getLogger(__name__)


def evaluate_on_nodes(loop: Loop, round_number: int) -> dict[int, dict[str, float]]:
    """Let a sample of the nodes judge the state that a round made.

    Args:
        loop: The run's rounds; its courier holds the state. The strategy says what nodes of a
            rank of their own get of it.
        round_number: Round, from 1.

    Returns:
        Partition → metrics, of those that did.

    Raises:
        QuorumError: If nodes were asked, and none did.
    """
    if loop.plan.fraction_evaluate == 0:
        return {}
    asked = _assignments(loop, round_number)
    arrivals = exchange(
        loop.grid,
        loop.courier.messages("evaluate", round_number, asked),
        ledger=loop.ledger,
        round_number=round_number,
        kind="evaluate",
        timeout_s=loop.plan.timeout_s,
        abandoned=lambda waiting: loop.late.expect(waiting, round_number),
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
    loop.courier.note_arrivals({a.member: a.member.partition in measured for a in arrivals})
    require_judges(round_number, measured, failed)
    return measured


def _assignments(loop: Loop, round_number: int) -> dict[Member, Assignment]:
    """Draw who evaluates, and give each of them the state in its own rank."""
    state = loop.courier.broadcast.state
    cohort = sample_cohort(
        loop.members,
        fraction=loop.plan.fraction_evaluate,
        minimum=1,
        seed=loop.plan.seed,
        round_number=0,  # the same nodes every round: their figures decide which round is best
        purpose="evaluation-cohort",
    )
    reachable = loop.reachable(round_number)
    cohort = [member for member in cohort if member in reachable]
    ranked = [member for member in cohort if member.rank]
    served = loop.strategy.configure(round_number, state, ranked) if ranked else {}
    return {
        member: Assignment(state=served[member.node_id].state if member.rank else state)
        for member in cohort
    }
