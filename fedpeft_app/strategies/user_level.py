"""User-level privacy around any strategy: it sees one noisy mean, and no node's own update."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.adapters.state import Vector
from fedpeft_app.errors import PrivacyError
from fedpeft_app.privacy.budget import require_small
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.noisy_mean import NoisyMean
from fedpeft_app.privacy.randomness import Randomness, randomness
from fedpeft_app.privacy.statement import counted
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.continuing import Continuity
from fedpeft_app.strategies.ranks import require_one_rank
from fedpeft_app.strategies.strategy import (
    Assignment,
    Member,
    Reply,
    Strategy,
    name_of,
    notes_of,
)

_NOBODY = Member(node_id=0, partition=0, examples=1)  # stands for the cohort, also an empty one
Spend = Callable[[Event, int], None]


class UserLevel:
    """Draw the cohort, clip what comes, add noise, and hand the mean to the inner strategy.

    Whatever that one does with it is post-processing: a server's momentum, a turn of factors.
    Each node counts the same, whatever examples it states.

    Covered: what a node sends, and whether it was asked. Not covered: against the server itself;
    and what others measure or log of the replies before they get here.

    Args:
        inner: Makes the next state of one update.
        mechanism: Takes the mean; made for the number of members there are.
        delta: δ of the guarantee, in (0, 1), below 1 / N.
        spend: Told what a round costs, and the round; it must be on record when it returns.
        unsafe_seed: Seed of cohorts and noise, for tests; below 0 = secure randomness.

    Attributes:
        name: The inner strategy's.
        mechanism: For the next round; a norm that follows a quantile changes in it.
        notes: Those of the inner strategy, and "clipping-norm", that of the last round.

    Guarantee:
        A round is a Poisson sample of all members; it is spent before noise is drawn.
    """

    def __init__(
        self,
        inner: Strategy,
        *,
        mechanism: NoisyMean,
        delta: float,
        spend: Spend,
        unsafe_seed: int = -1,
    ) -> None:
        self._inner = inner
        self._delta = delta
        self._spend = spend
        self._unsafe_seed = unsafe_seed
        self._drawn: set[Member] = set()
        self._part = ""
        self._continuity = Continuity(inner)
        self.name = name_of(inner)
        self.mechanism = mechanism
        self.notes: Mapping[str, float] = {}

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Refuse members for whom the noise was not made, and what the inner strategy refuses.

        Raises:
            PrivacyError: If there are more or fewer than the mechanism was made for, or δ would
                allow to publish what one of them sends.
            QuorumError: If the inner strategy makes nothing of a single update.
        """
        require_one_rank(self.name, members)
        users = self.mechanism.users
        if members and len(members) != users:
            raise PrivacyError(
                f"Expected {counted(users, 'node')}, for whom privacy was calibrated, got "
                f"{len(members)}. Make the mechanism anew for those who passed the roll call."
            )
        require_small(self._delta, users, counted(users, "node"))
        self._inner.prepare(spec, members)
        if isinstance(self._inner, Composition):
            self._inner.rehearse(1)  # that is all it ever gets
        self._continuity = Continuity(self._inner)

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Draw who trains, and ask them what the inner strategy asks.

        Args:
            round_number: Round, from 1.
            state: The global state.
            cohort: All members; who else had drawn before would have drawn by another rule.

        Returns:
            Node id → what that node is to do; nobody, now and then.

        Raises:
            PrivacyError: If not all members are there, or the inner strategy asks for what no
                noise covers.
        """
        if len(cohort) != self.mechanism.users:
            raise PrivacyError(
                f"Expected all {self.mechanism.users} nodes to draw a cohort from, got "
                f"{len(cohort)}. Ask everyone in the round's plan (fraction_train = 1)."
            )
        drawn = poisson_cohort(
            cohort, self.mechanism.sampling, self._random("cohort", round_number)
        )
        tasks = self._inner.configure(round_number, state, drawn or [_NOBODY])
        self._part, self._drawn = self._common_part(tasks, drawn or [_NOBODY], state), set(drawn)
        return tasks if drawn else {}

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Spend the round, take the noisy mean, and let the inner strategy make a state of it.

        Args:
            round_number: Round, from 1.
            state: The state that `configure` was given.
            replies: Good replies, by partition; none is fine.

        Raises:
            PrivacyError: If a node replied twice, or was not drawn, or trained another part.
            BudgetSpentError: If the round would exceed the budget; nothing is released then.
        """
        senders = [reply.member for reply in replies]
        if len(set(senders)) != len(senders) or not set(senders) <= self._drawn:
            nodes = [member.partition for member in senders]
            raise PrivacyError(
                f"Expected one reply at most of each node drawn for round {round_number}, got some "
                f"of nodes {nodes}. Fold only what the round loop hands over."
            )
        spec, used = trained_spec(state.spec, self._part), self.mechanism
        self._spend(used.event, round_number)
        source = self._random("noise", round_number)
        mean, self.mechanism = used(_vectors(replies, spec), spec.size, source)
        noisy = AdapterState(spec=spec, vector=mean.astype(np.float32))
        following = self._inner.aggregate(round_number, state, [_only(noisy, state)])
        self.notes = {**notes_of(self._inner), "clipping-norm": used.clipping_norm}
        return following

    def snapshot(self) -> Snapshot:
        """Give the clipping norm, and what the inner strategy holds; a book has what was spent."""
        own = Snapshot(values={"clipping-norm": self.mechanism.clipping_norm})
        return Snapshot.of({"own": own, "inner": self._continuity.snapshot()})

    def go_on(self, snapshot: Snapshot, state: AdapterState) -> None:
        """Take the clipping norm back where it follows a quantile; let the inner strategy go on."""
        self._continuity.go_on(snapshot.part("inner"), state)
        if self.mechanism.follow:
            norm = snapshot.part("own").values["clipping-norm"]
            self.mechanism = replace(self.mechanism, clipping_norm=norm)

    def _random(self, purpose: str, round_number: int) -> Randomness:
        """Give the randomness of a round."""
        return randomness(self._unsafe_seed, purpose, round_number=round_number)

    def _common_part(
        self, tasks: Mapping[int, Assignment], asked: Sequence[Member], state: AdapterState
    ) -> str:
        """Give the part that all train; refuse tasks of which a mean would not be private."""
        if set(tasks) != {member.node_id for member in asked}:
            raise PrivacyError(
                f"{self.name} asks {len(tasks)} of {len(asked)} nodes that were drawn, but the "
                f"draw alone decides. Use a strategy that asks its whole cohort."
            )
        if any(task.extras for task in tasks.values()):
            raise PrivacyError(
                f"{self.name} asks nodes for more than a delta, to which no noise is added. Use "
                f"another strategy, such as 'fedprox' for 'scaffold'."
            )
        parts = {task.part for task in tasks.values()}
        if len(parts) > 1 or any(task.state is not state for task in tasks.values()):
            raise PrivacyError(
                f"{self.name} gives nodes different states or parts to train, of which there is "
                f"no one mean. Use a strategy that asks the same of all."
            )
        return parts.pop()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noisy:
    """The mean, where replies have an encoded update."""

    state: AdapterState

    def decode(self) -> AdapterState:
        """Give the mean."""
        return self.state


def poisson_cohort(
    members: Sequence[Member], probability: float, source: Randomness
) -> list[Member]:
    """Draw each member independently, as the amplification of privacy by sampling assumes.

    Args:
        members: Everyone who passed the roll call.
        probability: q, in (0, 1].
        source: Secret, or nothing is amplified.

    Returns:
        The cohort, by partition; of any size, none included.
    """
    ordered = sorted(members, key=lambda member: member.partition)
    lots = source.uniform(len(ordered))
    return [member for member, lot in zip(ordered, lots, strict=True) if lot < probability]


def _vectors(replies: Sequence[Reply], spec: AdapterSpec) -> Iterator[Vector]:
    """Decode what trained, one reply at a time."""
    for reply in replies:
        update = reply.update.decode()
        if update.spec.fingerprint != spec.fingerprint:
            raise PrivacyError(
                f"Expected a delta of {spec.fingerprint}, got one of {update.spec.fingerprint} of "
                f"node {reply.member.partition}. Fold only what the guard has admitted."
            )
        yield update.vector


def _only(update: AdapterState, state: AdapterState) -> Reply:
    """Write the mean as the one reply of a round."""
    return Reply(
        member=_NOBODY,
        start=state,
        update=_Noisy(state=update),
        weight=1.0,
        metrics={"num-examples": 1.0},
    )
