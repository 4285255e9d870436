"""Nodes judge the global state, each on what it holds out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedpeft_app.strategies.attendance import without
from fedpeft_app.strategies.exchange import exchange
from fedpeft_app.strategies.guard import admit_metrics
from fedpeft_app.strategies.loop import Loop
from fedpeft_app.strategies.sampling import sample_cohort
from fedpeft_app.strategies.strategy import Assignment, Member

_WHOLE_RUN = 0  # the same nodes every round: their figures decide which round is best


@dataclass(slots=True, kw_only=True)
class _Judgement:
    """What nodes said of a round so far."""

    round_number: int
    measured: dict[int, dict[str, float]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)


def evaluate_on_nodes(loop: Loop, round_number: int) -> dict[int, dict[str, float]]:
    """Let a sample of the nodes judge the state that a round made.

    Where none of them does, as many others are asked, as often as the plan allows. A round that
    still nobody judged goes on: its state is good, and the next one may be judged again.

    Args:
        loop: The run's rounds; its courier holds the state. The strategy says what nodes of a
            rank of their own get of it.
        round_number: Round, from 1.

    Returns:
        Partition → metrics, of those that did.
    """
    plan = loop.plan
    if plan.fraction_evaluate == 0:
        return {}
    drawn = sample_cohort(
        loop.members,
        fraction=plan.fraction_evaluate,
        minimum=1,
        seed=plan.seed,
        round_number=_WHOLE_RUN,
        purpose="evaluation-cohort",
    )
    reachable = loop.reachable(round_number)
    going = _Judgement(round_number=round_number)
    able = set(reachable)
    _ask(loop, going, [member for member in drawn if member in able])
    for _ in range(plan.retries):
        others = without(reachable, {*going.failed, *(member.partition for member in drawn)})
        if going.measured or not others:
            break
        stand_ins = loop.stand_ins(
            others, len(drawn), round_number=_WHOLE_RUN, purpose="evaluation-stand-ins"
        )
        _ask(loop, going, stand_ins)
    if not going.measured:
        loop.watcher.nobody_judged(round_number, going.failed)
    return going.measured


def _ask(loop: Loop, going: _Judgement, cohort: Sequence[Member]) -> None:
    """Let nodes judge, and take in what comes of it."""
    number = going.round_number
    arrivals = exchange(
        loop.grid,
        loop.courier.messages("evaluate", number, _assignments(loop, number, cohort)),
        ledger=loop.ledger,
        round_number=number,
        kind="evaluate",
        timeout_s=loop.plan.timeout_s,
        longest_first=loop.takes_long("evaluate"),
        abandoned=lambda waiting, left_s: loop.late.expect(waiting, number, left_s),
    )
    loop.took_s["evaluate"] = max((arrival.seconds for arrival in arrivals), default=0.0)
    for arrival in arrivals:
        outcome, node = admit_metrics(arrival.message, arrival.member), arrival.member.partition
        if isinstance(outcome, str):
            going.failed[node] = outcome
            loop.watcher.evaluation_failed(number, arrival.member, outcome)
        else:
            going.measured[node] = outcome
    loop.courier.note_arrivals({a.member: a.member.partition in going.measured for a in arrivals})


def _assignments(
    loop: Loop, round_number: int, cohort: Sequence[Member]
) -> dict[Member, Assignment]:
    """Give each of those who evaluate the state in its own rank."""
    state = loop.courier.broadcast.state
    ranked = [member for member in cohort if member.rank]
    served = loop.strategy.configure(round_number, state, ranked) if ranked else {}
    return {
        member: Assignment(state=served[member.node_id].state if member.rank else state)
        for member in cohort
    }
