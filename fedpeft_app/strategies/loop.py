"""What the rounds of a run share, and one hands on to the next."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from fedpeft_app.errors import QuorumError
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.attendance import Attendance
from fedpeft_app.strategies.continuing import Continuity
from fedpeft_app.strategies.late import Late
from fedpeft_app.strategies.orders import Courier
from fedpeft_app.strategies.plan import RoundPlan
from fedpeft_app.strategies.sampling import sample_cohort
from fedpeft_app.strategies.strategy import Member, Strategy
from fedpeft_app.strategies.watcher import Watcher
from fedpeft_app.wire.ledger import Ledger

_SHORT_S = 1.0  # half a second for sending in order is not earned by what takes no longer

Renew = Callable[[Sequence[Member], int], Sequence[Member]]
"""Tells who is there now: takes whom the last round knew, and how many it should wait for."""


def nobody_new(members: Sequence[Member], least: int) -> Sequence[Member]:
    """Leave it at those who passed the roll call. See `Renew`."""
    return members


@dataclass(slots=True, kw_only=True)
class Loop:
    """A run's rounds.

    Attributes:
        grid: Flower's connection.
        strategy: Who gets what, and how replies become the next state.
        plan: How rounds go.
        members: Nodes that may be drawn: those that passed the roll call, and are there.
        courier: Holds the state, and what nodes have of it.
        ledger: Told every message's size.
        watcher: Told what happens.
        renew: Says who is there now.
        attendance: Who failed lately.
        late: Replies that nobody waits for.
        took_s: Kind of message → seconds from the first one sent to the last reply, the last time.
        spent_s: Seconds that earlier attempts of the run took.
    """

    grid: Grid
    strategy: Strategy
    plan: RoundPlan
    members: Sequence[Member]
    courier: Courier
    ledger: Ledger
    watcher: Watcher
    renew: Renew = nobody_new
    attendance: Attendance = field(init=False)
    late: Late = field(default_factory=Late)
    took_s: dict[str, float] = field(default_factory=dict)
    spent_s: float = 0.0
    _there: Sequence[Member] = field(init=False)
    _known: dict[int, Member] = field(init=False)
    _continuity: Continuity = field(init=False)
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Begin with nobody having failed."""
        self.attendance = Attendance(tolerance=self.plan.tolerance)
        self._there = self.members
        self._known = {member.partition: member for member in self.members}
        self._continuity = Continuity(self.strategy)

    @property
    def seconds(self) -> float:
        """Seconds since the first round began, without those in which nothing ran."""
        return self.spent_s + time.monotonic() - self._started

    def takes_long(self, kind: str) -> bool:
        """Say whether it is worth while to let nodes with the longest work begin.

        Args:
            kind: "train" or "evaluate".
        """
        return self.took_s.get(kind, math.inf) > _SHORT_S

    def spent(self) -> str:
        """Name the budget after which no further round begins; empty = there is some left."""
        if 0 < self.plan.uplink_budget <= self.ledger.total("up", kind="train"):
            return "budget.uplink-mib"
        if 0 < self.plan.budget_s <= self.seconds:
            return "budget.minutes"
        return ""

    def look_around(self, least: int = 0) -> None:
        """Find out who is there; whoever is new is shown to the strategy, with all it knew.

        Args:
            least: Nodes to wait for.

        Raises:
            QuorumError: If fewer are connected than a round may begin with.
        """
        self._there = self.renew(self._there, max(least, self.plan.min_nodes))
        if len(self._there) < self.plan.min_nodes:
            raise QuorumError(
                f"{len(self._there)} nodes are connected, a round needs at least "
                f"{self.plan.min_nodes} (strategy.min-nodes)."
            )
        found = {member.partition: member for member in self._there}
        strangers = found.keys() - self._known.keys()
        self._known |= found
        everyone = [self._known[partition] for partition in sorted(self._known)]
        # Where chance draws, privacy was calibrated for all who passed the roll call: whoever is
        # away is drawn, and counted, all the same.
        self.members = everyone if self.plan.chance else self._there
        if strangers:
            self.strategy.prepare(self.courier.broadcast.state.spec, everyone)

    def reachable(self, round_number: int) -> list[Member]:
        """List whom a round may ask."""
        return self.attendance.reachable(self.members, round_number, self.plan.min_replies)

    def stand_ins(
        self, others: Sequence[Member], count: int, *, round_number: int, purpose: str
    ) -> list[Member]:
        """Draw who is asked in place of nodes that failed.

        Args:
            others: Who may be asked.
            count: How many, as far as there are.
            round_number: Round, from 1; 0 = the same nodes in every round.
            purpose: Names the use, so that draws differ.
        """
        return sample_cohort(
            others,
            fraction=0.0,
            minimum=count,
            seed=self.plan.seed,
            round_number=round_number,
            purpose=purpose,
        )

    def snapshot(self) -> Snapshot:
        """Give what the next round depends on, but for the state."""
        parts = {
            "strategy": self._continuity.snapshot(),
            "nodes": self.courier.snapshot(nameless=self.plan.chance),
            "clock": Snapshot(values={"seconds": self.seconds}),
        }
        if not self.plan.chance:
            parts["attendance"] = self.attendance.snapshot()
        return Snapshot.of(parts)

    def go_on(self, snapshot: Snapshot) -> None:
        """Go on from there, with the state of that time.

        Raises:
            RunFolderError: If the strategy cannot.
        """
        self._continuity.go_on(snapshot.part("strategy"), self.courier.broadcast.state)
        self.courier.go_on(snapshot.part("nodes"))
        if "attendance" in snapshot.values:
            self.attendance.go_on(snapshot.part("attendance"))
        if "clock" in snapshot.values:
            self.spent_s = snapshot.part("clock").values["seconds"]
