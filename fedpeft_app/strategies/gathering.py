"""Good replies of a cohort: asked, guarded, and asked again where they are too few."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from fedpeft_app.strategies.attendance import Excused, Unneeded, without
from fedpeft_app.strategies.dropouts import DROPPED_OUT, dropped
from fedpeft_app.strategies.exchange import NOT_SENT, Arrival, exchange
from fedpeft_app.strategies.guard import admit
from fedpeft_app.strategies.late import Latecomer
from fedpeft_app.strategies.loop import Loop
from fedpeft_app.strategies.outliers import too_long
from fedpeft_app.strategies.sampling import cohort_size, sample_cohort
from fedpeft_app.strategies.strategy import Assignment, Member, Reply

_Outcomes = dict[int, Reply | str]  # partition → its reply, or why there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What came of asking.

    Attributes:
        good: Replies that count, by partition.
        rejected: Partition → reason, for everyone else who was asked, or drawn to be.
        seconds: From the first message sent to the last reply received.
        quorum: Good replies that the round needs.
    """

    good: list[Reply]
    rejected: dict[int, str]
    seconds: float
    quorum: int

    @property
    def enough(self) -> bool:
        """Whether the round counts."""
        return len(self.good) >= self.quorum


@dataclass(slots=True, kw_only=True)
class _Round:
    """Who was asked what so far, and what came of it."""

    number: int
    tasks: dict[Member, Assignment]
    gone: dict[int, str]
    outcomes: _Outcomes = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def failed(self) -> set[int]:
        """Partitions of those who might do better if they were asked again."""
        return {
            node
            for node, outcome in self.outcomes.items()
            if not isinstance(outcome, Reply | Excused)
        }


def gather(loop: Loop, round_number: int) -> Gathered:
    """Let a cohort train, and guard each reply as it comes.

    Where too few are good, those who failed are asked once more, and as many others with them as
    there are: a further attempt, of which the plan allows some. Replies that are good stay so,
    and one to an earlier attempt of the same round still counts, where the node has sent no other.

    Args:
        loop: The run's rounds.
        round_number: Round, from 1.

    Returns:
        What came of all attempts, be it too little.
    """
    loop.look_around()
    tasks = _first_tasks(loop, round_number)
    loop.watcher.round_started(round_number, list(tasks))
    gone = _dropped_out(loop, tasks, round_number)
    going = _Round(number=round_number, tasks=tasks, gone=gone)
    # Who dropped out on purpose is not missed.
    least = min(loop.plan.min_replies, len(tasks) - len(gone)) if gone else loop.plan.min_replies
    quorum = 0 if loop.plan.chance else least
    reporting = {member: tasks[member] for member in without(tasks, gone)}
    _take_late(loop, going)
    silent = loop.late.overdue()
    _ask(loop, going, reporting, reserve=loop.plan.over_selection > 1)
    found = _judged(loop, going, quorum)
    for _ in range(loop.plan.retries):
        if found.enough:
            break
        again = _further_tasks(loop, going, missing=quorum - len(found.good))
        if not again:
            break
        loop.watcher.asked_again(round_number, list(again))
        _ask(loop, going, again)
        _take_late(loop, going)
        found = _judged(loop, going, quorum)
    _note_attendance(loop, found, round_number, silent)
    return found


def _first_tasks(loop: Loop, round_number: int) -> dict[Member, Assignment]:
    """Draw the cohort, with those whose reply the last round missed."""
    plan = loop.plan
    reachable = loop.reachable(round_number)
    cohort = sample_cohort(
        reachable,
        rule=plan.cohort,
        fraction=plan.fraction_train,
        minimum=plan.min_replies,
        over_selection=plan.over_selection,
        seed=plan.seed,
        round_number=round_number,
        population=len(loop.members),
    )
    owed = loop.attendance.owed(without(reachable, {one.partition for one in cohort}))
    return _tasks(loop, [*cohort, *owed], round_number)


def _further_tasks(loop: Loop, going: _Round, missing: int) -> dict[Member, Assignment]:
    """Choose whom else to ask: who failed, and as many others, or as many as are missing."""
    loop.look_around(loop.plan.min_replies)
    failed = going.failed
    known = {one.partition for one in going.tasks}
    others = without(loop.reachable(going.number), known)
    count = max(len(failed), missing)
    stand_ins = loop.stand_ins(others, count, round_number=going.number, purpose="stand-ins")
    again = [one for one in loop.members if one.partition in failed]
    tasks = _tasks(loop, [*again, *stand_ins], going.number)
    going.tasks |= tasks
    return tasks


def _tasks(loop: Loop, cohort: list[Member], round_number: int) -> dict[Member, Assignment]:
    """Let the strategy choose what those of a cohort do whom it wants."""
    ordered = sorted(cohort, key=lambda member: member.partition)
    if not ordered:
        return {}
    chosen = loop.strategy.configure(round_number, loop.courier.broadcast.state, ordered)
    return {member: chosen[member.node_id] for member in ordered if member.node_id in chosen}


def _dropped_out(
    loop: Loop, tasks: Mapping[Member, Assignment], round_number: int
) -> dict[int, str]:
    """Draw who does not report; give their partitions and the reason, and tell the watcher."""
    plan = loop.plan
    gone = dropped(
        tasks, plan.dropout, seed=plan.seed, round_number=round_number, spare=not plan.chance
    )
    for member in sorted(gone, key=lambda member: member.partition):
        loop.watcher.reply_arrived(round_number, member, DROPPED_OUT)
    return {member.partition: DROPPED_OUT for member in gone}


def _ask(
    loop: Loop, going: _Round, tasks: Mapping[Member, Assignment], *, reserve: bool = False
) -> None:
    """Let nodes train, and take in what comes of it; of a reserve only the fastest count."""
    plan, outcomes = loop.plan, _Outcomes()

    def is_good(arrival: Arrival) -> bool:
        node = arrival.member.partition
        if node not in outcomes:
            outcomes[node] = admit(
                arrival.message, arrival.member, tasks[arrival.member], going.number, plan.numbers
            )
        return isinstance(outcomes[node], Reply)

    def note(arrival: Arrival) -> None:
        node = arrival.member.partition
        problem = "" if is_good(arrival) else str(outcomes[node])
        if arrival.unneeded:
            outcomes[node] = Unneeded(problem)
        loop.watcher.reply_arrived(going.number, arrival.member, problem)

    size = cohort_size(len(loop.members), fraction=plan.fraction_train, minimum=plan.min_replies)
    arrivals = exchange(
        loop.grid,
        loop.courier.messages("train", going.number, tasks),
        ledger=loop.ledger,
        round_number=going.number,
        kind="train",
        timeout_s=plan.timeout_s,
        arrived=note,
        enough=size if reserve else None,
        counts=is_good,
        seed=plan.seed,
        longest_first=loop.takes_long("train"),
        abandoned=lambda waiting, left_s: loop.late.expect(waiting, going.number, left_s),
    )
    loop.courier.note_arrivals(
        {one.member: isinstance(outcomes[one.member.partition], Reply) for one in arrivals}
    )
    received = [one.member for one in arrivals if one.payload_bytes]
    loop.courier.versions.note_received(going.number, received)
    for node, outcome in outcomes.items():
        going.outcomes[node] = _telling(going.outcomes.get(node, NOT_SENT), outcome)
    loop.took_s["train"] = max((arrival.seconds for arrival in arrivals), default=0.0)
    going.seconds += loop.took_s["train"]


def _take_late(loop: Loop, going: _Round) -> None:
    """Pull what came too late; what an earlier attempt of this round asked for may count."""
    for one in loop.late.pull(loop.grid, loop.ledger, going.number):
        loop.courier.versions.note_received(one.asked_in, [one.member])
        reply = _still_good(loop, going, one)
        if reply is None:
            loop.watcher.came_late(going.number, one.member, one.asked_in)
            continue
        going.outcomes[one.member.partition] = reply
        loop.courier.note_arrivals({one.member: True})
        loop.watcher.reply_arrived(going.number, one.member, "")


def _still_good(loop: Loop, going: _Round, late: Latecomer) -> Reply | None:
    """Give a late reply that counts: to this round, good, and the first of its node.

    Where chance draws there is none: such a round has one attempt.
    """
    if late.asked_in != going.number:
        return None
    if isinstance(going.outcomes.get(late.member.partition), Reply):
        return None
    task = going.tasks[late.member]  # attempts of a round set a node the same task
    found = admit(late.message, late.member, task, going.number, loop.plan.numbers)
    return found if isinstance(found, Reply) else None


def _telling(before: Reply | str, now: Reply | str) -> Reply | str:
    """Choose between two attempts of a node what to go by.

    Whoever was reached once may have trained, and so have spent privacy, whatever it says later.
    """
    return before if isinstance(now, str) and before != NOT_SENT else now


def _judged(loop: Loop, going: _Round, quorum: int) -> Gathered:
    """Say which replies count, now that they can be compared."""
    replies = [one for one in going.outcomes.values() if isinstance(one, Reply)]
    replies.sort(key=lambda reply: reply.member.partition)
    strange = too_long(replies, 0.0 if loop.plan.chance else loop.plan.norm_bound)
    missing = {node: one for node, one in going.outcomes.items() if not isinstance(one, Reply)}
    return Gathered(
        good=[reply for reply in replies if reply.member.partition not in strange],
        rejected=dict(sorted({**missing, **strange, **going.gone}.items())),
        seconds=going.seconds,
        quorum=quorum,
    )


def _note_attendance(
    loop: Loop, found: Gathered, round_number: int, silent: Collection[int]
) -> None:
    """Take in who failed, in this round or by silence, and tell of those who are left alone."""
    if loop.plan.chance:
        return
    good = {reply.member.partition for reply in found.good}
    # Where others were faster nobody waited; who stays silent for as long as a round waits failed.
    why = f"no reply within {loop.plan.timeout_s:g} s"
    missing = {**found.rejected, **{node: why for node in silent if node not in good}}
    begun = loop.attendance.note(round_number, good, missing)
    for node, until in sorted(begun.items()):
        loop.watcher.left_alone(node, until)
