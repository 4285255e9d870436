"""The round loop: gather, aggregate, judge; over any strategy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flwr.serverapp import Grid

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import is_finite
from fedpeft_app.errors import TrainingError
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.broadcast import Broadcast
from fedpeft_app.strategies.evaluation import evaluate_on_nodes
from fedpeft_app.strategies.gathering import gather
from fedpeft_app.strategies.guard import require_quorum
from fedpeft_app.strategies.loop import Loop, Renew, nobody_new
from fedpeft_app.strategies.orders import Courier
from fedpeft_app.strategies.plan import RoundPlan
from fedpeft_app.strategies.strategy import Member, Strategy, name_of, notes_of
from fedpeft_app.strategies.versions import Versions
from fedpeft_app.strategies.watcher import RoundResult, Watcher
from fedpeft_app.wire.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """Where rounds go on.

    Attributes:
        round_number: The last round that ended.
        snapshot: What its result gave.
    """

    round_number: int
    snapshot: Snapshot


def run_rounds(
    grid: Grid,
    strategy: Strategy,
    members: Sequence[Member],
    state: AdapterState,
    plan: RoundPlan,
    *,
    ledger: Ledger,
    watcher: Watcher,
    since: Since | None = None,
    renew: Renew = nobody_new,
) -> AdapterState:
    """Drive every round of a run, or as many as its budgets and its watcher allow.

    Args:
        grid: Flower's connection.
        strategy: Who gets what, and how replies become the next state.
        members: Nodes that passed the roll call.
        state: The state to start from.
        plan: How rounds go.
        ledger: Told every message's size.
        watcher: Told what happens.
        since: The round after which `state` stood; None = it is the first one.
        renew: Says who is there when a round begins.

    Returns:
        The state after the last round.

    Raises:
        QuorumError: If a round has fewer good replies than `plan.min_replies`, whatever was
            tried; or as the watcher does, who may not be content with what nobody judged.
        BudgetSpentError: If there are too few because nodes have no more privacy to spend.
        RunFolderError: If the strategy cannot go on.
        TrainingError: If a new state has values that are not finite.

    Guarantee:
        Replies are folded by partition, so their order of arrival does not matter.
    """
    strategy.prepare(state.spec, members)
    loop = Loop(
        grid=grid,
        strategy=strategy,
        plan=plan,
        members=members,
        courier=_courier(plan, state),
        ledger=ledger,
        watcher=watcher,
        renew=renew,
    )
    if since is not None:
        loop.go_on(since.snapshot)
        if loop.spent():
            return state
    for round_number in range(since.round_number + 1 if since else 1, plan.rounds + 1):
        result = run_round(loop, round_number)
        ends = watcher.round_finished(replace(result, snapshot=loop.snapshot()))
        if ends or result.final:
            break
    return loop.courier.broadcast.state


def _courier(plan: RoundPlan, state: AdapterState) -> Courier:
    """Make what writes the orders."""
    return Courier(
        broadcast=Broadcast(
            state=state,
            codec=plan.downlink,
            seed=plan.seed,
            feedback=plan.feedback,
            drawn=plan.drawn,
        ),
        versions=Versions(experiment=plan.experiment, keeps=plan.keeps, personal=plan.personal),
    )


def run_round(loop: Loop, round_number: int) -> RoundResult:
    """Drive one round.

    Args:
        loop: The run's rounds; its courier moves on with the good replies.
        round_number: Round, from 1.

    Returns:
        What came of it, without a snapshot; the watcher's `round_finished` is left to the caller.

    Raises:
        QuorumError: If there are fewer good replies than the plan's `min_replies`.
        BudgetSpentError: If there are too few because nodes have no more privacy to spend.
        TrainingError: If the new state has values that are not finite.
    """
    broadcast, versions, strategy = loop.courier.broadcast, loop.courier.versions, loop.strategy
    found = gather(loop, round_number)
    loop.watcher.round_answered(found.good, found.rejected)
    require_quorum(round_number, found.good, found.rejected, found.quorum)
    target = strategy.aggregate(round_number, broadcast.state, found.good)
    _require_finite(target, strategy, round_number)
    broadcast.advance(target)
    versions.advance(round_number, found.good)
    judged = evaluate_on_nodes(loop, round_number)
    spent = loop.spent()
    return RoundResult(
        round_number=round_number,
        state=broadcast.state,
        good=found.good,
        rejected=found.rejected,
        seconds=found.seconds,
        client_metrics=judged,
        untrained=versions.untrained(judged),
        final=round_number == loop.plan.rounds or bool(spent),
        spent=spent,
        notes=notes_of(strategy),
    )


def _require_finite(state: AdapterState, strategy: Strategy, round_number: int) -> None:
    """Refuse a state that no node could train from."""
    if not is_finite(state):
        raise TrainingError(
            f"Round {round_number}: the state that {name_of(strategy)} made of good "
            f"replies has values that are not finite. Check strategy.options, or lower "
            f"train.learning-rate."
        )
