"""The round loop: sample, send, receive, guard, aggregate; over any strategy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from flwr.serverapp import Grid

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import is_finite
from fedpeft_app.errors import TrainingError
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.broadcast import Broadcast
from fedpeft_app.strategies.continuing import Continuity
from fedpeft_app.strategies.dropouts import DROPPED_OUT, dropped
from fedpeft_app.strategies.evaluation import evaluate_on_nodes
from fedpeft_app.strategies.exchange import Arrival, exchange
from fedpeft_app.strategies.guard import MEASURED, Numbers, admit, require_quorum
from fedpeft_app.strategies.orders import Courier
from fedpeft_app.strategies.sampling import cohort_size, sample_cohort
from fedpeft_app.strategies.strategy import (
    Assignment,
    Member,
    Reply,
    Strategy,
    name_of,
    notes_of,
    train_loss,
)
from fedpeft_app.strategies.versions import Versions
from fedpeft_app.wire.cast import float32
from fedpeft_app.wire.codec import Codec
from fedpeft_app.wire.ledger import Ledger


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
        experiment: Name under which nodes keep what they keep.
        keeps: Whether nodes keep something in every round.
        personal: Whether nodes keep parameters of their own.
        cohort: Rule by which nodes are chosen to train.
        dropout: Probability of a chosen node not to report, in [0, 1).
        over_selection: How many times more nodes are asked than replies are used, from 1.
        downlink: How the state travels to nodes.
        feedback: Whether what the downlink lost in one round is sent in the next.
        drawn: Whether nodes can draw the first state for themselves.
        uplink_budget: Bytes of train replies after which rounds end; 0 = no end but the last.
        numbers: Which metrics of train replies are read.
        chance: Whether the strategy draws each node by itself with some probability. Then nobody
            is asked now and then, and a round counts however few replies there are: whether
            others reply must change nothing of what becomes of one node's.
    """

    rounds: int
    seed: int
    fraction_train: float
    fraction_evaluate: float
    min_replies: int
    timeout_s: float
    experiment: str = ""
    keeps: bool = False
    personal: bool = False
    cohort: str = "uniform"
    dropout: float = 0.0
    over_selection: float = 1.0
    downlink: Codec = field(default_factory=float32)
    feedback: bool = True
    drawn: bool = True
    uplink_budget: int = 0
    numbers: Numbers = MEASURED
    chance: bool = False


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
        final: Whether no further round follows.
        notes: What the strategy notes of its aggregation, by name.
        snapshot: What the next round depends on, but for the state.
    """

    round_number: int
    state: AdapterState
    good: Sequence[Reply]
    rejected: Mapping[int, str]
    seconds: float
    client_metrics: Mapping[int, Mapping[str, float]]
    untrained: tuple[int, ...] = ()
    final: bool = False
    notes: Mapping[str, float] = field(default_factory=dict)
    snapshot: Snapshot = field(default_factory=Snapshot)

    @property
    def train_loss(self) -> float:
        """Mean training loss over the cohort, weighted by examples; NaN where nobody tells."""
        return train_loss(self.good)


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """Where rounds go on.

    Attributes:
        round_number: The last round that ended.
        snapshot: What its result gave.
    """

    round_number: int
    snapshot: Snapshot


class Watcher(Protocol):
    """What may look on while rounds go by."""

    def round_started(self, round_number: int, cohort: Sequence[Member]) -> None:
        """Told before the first message of a round."""
        ...

    def reply_arrived(self, round_number: int, member: Member, problem: str) -> None:
        """Told with every train reply; `problem` says why it does not count, if so."""
        ...

    def round_answered(self, good: Sequence[Reply], rejected: Mapping[int, str]) -> None:
        """Told what came of all orders, before anything is made of it, and be it too little.

        Args:
            good: Replies that count.
            rejected: Partition → reason, for everyone else who was asked, or drawn to be.
        """
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
    since: Since | None = None,
) -> AdapterState:
    """Drive every round of a run, or as many as the budget of bytes allows.

    Args:
        grid: Flower's connection.
        strategy: Who gets what, and how replies become the next state.
        members: Nodes that passed the roll call.
        state: The state to start from.
        plan: How rounds go.
        ledger: Told every message's size.
        watcher: Told what happens.
        since: The round after which `state` stood; None = it is the first one.

    Returns:
        The state after the last round.

    Raises:
        QuorumError: If a round has fewer good replies than `plan.min_replies`, or nobody who
            was asked to evaluate did.
        RunFolderError: If the strategy cannot go on.
        TrainingError: If a new state has values that are not finite.

    Guarantee:
        Replies are folded by partition, so their order of arrival does not matter.
    """
    strategy.prepare(state.spec, members)
    continuity = Continuity(strategy)
    courier = _courier(plan, state)
    if since is not None:
        continuity.go_on(since.snapshot.part("strategy"), state)
        courier.go_on(since.snapshot.part("nodes"))
    for round_number in range(since.round_number + 1 if since else 1, plan.rounds + 1):
        result = run_round(
            grid,
            strategy,
            members,
            plan,
            round_number,
            courier=courier,
            ledger=ledger,
            watcher=watcher,
        )
        held = {"strategy": continuity.snapshot(), "nodes": courier.snapshot(nameless=plan.chance)}
        watcher.round_finished(replace(result, snapshot=Snapshot.of(held)))
        if result.final:
            break
    return courier.broadcast.state


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


def run_round(
    grid: Grid,
    strategy: Strategy,
    members: Sequence[Member],
    plan: RoundPlan,
    round_number: int,
    *,
    courier: Courier,
    ledger: Ledger,
    watcher: Watcher,
) -> RoundResult:
    """Drive one round.

    Args:
        grid: Flower's connection.
        strategy: Who gets what, and how replies become the next state.
        members: Nodes that passed the roll call.
        plan: How rounds go.
        round_number: Round, from 1.
        courier: Holds the state to start from, and what nodes have; moves on with the good.
        ledger: Told every message's size.
        watcher: Told what happens; `round_finished` is left to the caller.

    Raises:
        QuorumError: If there are fewer good replies than `plan.min_replies`, or nobody who was
            asked to evaluate did.
        BudgetSpentError: If there are too few because nodes have no more privacy to spend.
        TrainingError: If the new state has values that are not finite.
    """
    broadcast = courier.broadcast
    asked = _assignments(strategy, members, plan, round_number, broadcast.state)
    watcher.round_started(round_number, list(asked))
    gone = _dropped_out(asked, plan, round_number, watcher)
    reporting = {member: asked[member] for member in asked if member.partition not in gone}
    good, rejected, seconds = _train_on_nodes(
        grid, reporting, members, plan, round_number, courier, ledger, watcher
    )
    rejected |= gone
    watcher.round_answered(good, rejected)
    # Who dropped out on purpose is not missed.
    quorum = min(plan.min_replies, len(reporting)) if gone else plan.min_replies
    require_quorum(round_number, good, rejected, 0 if plan.chance else quorum)
    target = strategy.aggregate(round_number, broadcast.state, good)
    _require_finite(target, strategy, round_number)
    broadcast.advance(target)
    courier.versions.advance(round_number, good)
    judged = evaluate_on_nodes(grid, strategy, members, plan, round_number, courier, ledger)
    return RoundResult(
        round_number=round_number,
        state=broadcast.state,
        good=good,
        rejected=dict(sorted(rejected.items())),
        seconds=seconds,
        client_metrics=judged,
        untrained=courier.versions.untrained(judged),
        final=round_number == plan.rounds or _is_spent(plan, ledger),
        notes=notes_of(strategy),
    )


def _is_spent(plan: RoundPlan, ledger: Ledger) -> bool:
    """Say whether nodes have sent as much as they may."""
    return 0 < plan.uplink_budget <= ledger.total("up", kind="train")


def _assignments(
    strategy: Strategy,
    members: Sequence[Member],
    plan: RoundPlan,
    round_number: int,
    state: AdapterState,
) -> dict[Member, Assignment]:
    """Draw the cohort, and let the strategy choose what those of it do whom it wants."""
    cohort = sample_cohort(
        members,
        rule=plan.cohort,
        fraction=plan.fraction_train,
        minimum=plan.min_replies,
        over_selection=plan.over_selection,
        seed=plan.seed,
        round_number=round_number,
    )
    chosen = strategy.configure(round_number, state, cohort)
    return {member: chosen[member.node_id] for member in cohort if member.node_id in chosen}


def _dropped_out(
    asked: Mapping[Member, Assignment], plan: RoundPlan, round_number: int, watcher: Watcher
) -> dict[int, str]:
    """Draw who does not report; give their partitions and the reason, and tell the watcher."""
    gone = dropped(
        asked, plan.dropout, seed=plan.seed, round_number=round_number, spare=not plan.chance
    )
    for member in sorted(gone, key=lambda member: member.partition):
        watcher.reply_arrived(round_number, member, DROPPED_OUT)
    return {member.partition: DROPPED_OUT for member in gone}


def _train_on_nodes(
    grid: Grid,
    asked: Mapping[Member, Assignment],
    members: Sequence[Member],
    plan: RoundPlan,
    round_number: int,
    courier: Courier,
    ledger: Ledger,
    watcher: Watcher,
) -> tuple[list[Reply], dict[int, str], float]:
    """Let the cohort train, and guard each reply as it comes.

    Returns:
        Good replies by partition, why the others are none, and the seconds until the last.
    """
    outcomes: dict[Member, Reply | str] = {}

    def is_good(arrival: Arrival) -> bool:
        member = arrival.member
        if member not in outcomes:
            outcomes[member] = admit(
                arrival.message, member, asked[member], round_number, plan.numbers
            )
        return isinstance(outcomes[member], Reply)

    def note(arrival: Arrival) -> None:
        problem = "" if is_good(arrival) else str(outcomes[arrival.member])
        watcher.reply_arrived(round_number, arrival.member, problem)

    size = cohort_size(len(members), fraction=plan.fraction_train, minimum=plan.min_replies)
    arrivals = exchange(
        grid,
        courier.messages("train", round_number, asked),
        ledger=ledger,
        round_number=round_number,
        kind="train",
        timeout_s=plan.timeout_s,
        arrived=note,
        enough=size if plan.over_selection > 1 else None,
        counts=is_good,
        seed=plan.seed,
    )
    courier.note_arrivals({a.member: isinstance(outcomes[a.member], Reply) for a in arrivals})
    courier.versions.note_received(round_number, [a.member for a in arrivals if a.payload_bytes])
    good: list[Reply] = []
    rejected: dict[int, str] = {}
    for arrival in arrivals:
        outcome = outcomes[arrival.member]
        if isinstance(outcome, Reply):
            good.append(outcome)
        else:
            rejected[arrival.member.partition] = outcome
    return good, rejected, max((arrival.seconds for arrival in arrivals), default=0.0)


def _require_finite(state: AdapterState, strategy: Strategy, round_number: int) -> None:
    """Refuse a state that no node could train from."""
    if not is_finite(state):
        raise TrainingError(
            f"Round {round_number}: the state that {name_of(strategy)} made of good "
            f"replies has values that are not finite. Check strategy.options, or lower "
            f"train.learning-rate."
        )
