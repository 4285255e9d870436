"""What a run has guaranteed so far, gathered while rounds go by; in words when it ends."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from fedpeft_app.assembly import noisy_mean
from fedpeft_app.config import RunConfig
from fedpeft_app.errors import PrivacyError
from fedpeft_app.node.book import Book
from fedpeft_app.privacy.accountant import ACCOUNTANT
from fedpeft_app.privacy.budget import Budget
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.spent import Spent, spent_by
from fedpeft_app.privacy.statement import (
    between,
    counted,
    sample_statement,
    user_statement,
)
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.catalogue import require_one_mean
from fedpeft_app.strategies.dropouts import DROPPED_OUT
from fedpeft_app.strategies.exchange import NOT_SENT
from fedpeft_app.strategies.guard import MEASURED, NOTHING, SPENT, SatOut
from fedpeft_app.strategies.silos import Silos
from fedpeft_app.strategies.strategy import Reply, Strategy
from fedpeft_app.strategies.user_level import UserLevel
from fedpeft_app.wire.record import EPSILON, NOISE, SAMPLING, STEPS, UNAMPLIFIED

_ROWS = "rows"
_BOOK = "privacy.jsonl"
NUMBERS = {"none": MEASURED, "sample": SPENT, "user": NOTHING}  # that nodes send, by mode


class PrivacyReport(Protocol):
    """Watches what is spent."""

    def asked(self, nodes: Iterable[int]) -> None:
        """Take in whom a round asks, by partition, before anything is sent."""
        ...

    def answered(self, good: Sequence[Reply], rejected: Mapping[int, str]) -> None:
        """Take in what came of that, as `Watcher.round_answered` is told it."""
        ...

    def snapshot(self) -> Snapshot:
        """Give what the report knows."""
        ...

    def go_on(self, snapshot: Snapshot, asked: Iterable[int]) -> None:
        """Take the report up again.

        Args:
            snapshot: What `snapshot` gave.
            asked: Partitions that were asked since, in an attempt that does not count.
        """
        ...

    def epsilon(self) -> float | None:
        """Give ε of the run so far, as far as it is known; None where nobody told of any."""
        ...

    def each(self) -> dict[str, float]:
        """Give ε of each node, by partition, as it said last; empty where nodes tell none."""
        ...

    def statement(self) -> dict[str, str]:
        """State what the run guarantees; empty where nobody can have spent anything."""
        ...


@dataclass(slots=True, kw_only=True)
class SampleReport:
    """Gathers what nodes say they have spent.

    Attributes:
        config: The run's configuration.
        spent: Partition → what the node said last.
        waiting: Partitions of nodes whose answers are not in.
        silent: Those of nodes that sent nothing good since: they may have spent more.
        silos: Who came and went.
    """

    config: RunConfig
    spent: dict[int, Spent] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)
    silos: Silos = field(default_factory=Silos)

    def asked(self, nodes: Iterable[int]) -> None:
        """Take in who may be about to spend, beside those of whom nothing was heard yet."""
        self.waiting |= set(nodes)

    def answered(self, good: Sequence[Reply], rejected: Mapping[int, str]) -> None:
        """Take in what nodes say, and who says nothing."""
        self.waiting.clear()
        for reply in good:
            self.spent[reply.member.partition] = _told(reply.metrics)
            self.silent.discard(reply.member.partition)
        self.silent |= {node for node, why in rejected.items() if not _spends_nothing(why)}

    def snapshot(self) -> Snapshot:
        """Give what nodes said, and who said nothing."""
        spent = {str(node): asdict(one) for node, one in self.spent.items()}
        return Snapshot(values={"spent": spent, "silent": sorted(self.silent | self.waiting)})

    def go_on(self, snapshot: Snapshot, asked: Iterable[int]) -> None:
        """Take it up again; who was asked since may have spent more."""
        told = snapshot.values["spent"].items()
        self.spent.update({int(node): Spent(**values) for node, values in told})
        self.silent |= {*snapshot.values["silent"], *asked}

    def epsilon(self) -> float | None:
        """Give the largest ε of a node."""
        return max((one.epsilon for one in self.spent.values()), default=None)

    def each(self) -> dict[str, float]:
        """Give ε of each node."""
        return {str(node): one.epsilon for node, one in sorted(self.spent.items())}

    def statement(self) -> dict[str, str]:
        """State what the run guarantees."""
        unknown = self.silent | self.waiting
        if not self.spent and not unknown:
            return {}
        privacy = self.config.privacy
        return sample_statement(
            self.spent,
            unknown,
            delta=privacy.delta,
            clipping_norm=privacy.clipping_norm,
            mechanism=sample_mechanism(self.config, self.spent.values()),
            accountant=ACCOUNTANT,
            unsafe=privacy.unsafe_seed >= 0,
            released=sample_released(self.config),
            apart=left_apart(self.config),
            doubtful=self.silos.doubtful(),
        )


@dataclass(slots=True, kw_only=True)
class UserReport:
    """Reads the server's book.

    Attributes:
        config: The run's configuration.
        budget: What the server has spent.
        users: Nodes that passed the roll call.
    """

    config: RunConfig
    budget: Budget
    users: int

    def asked(self, nodes: Iterable[int]) -> None:
        """Leave it at what the server spends."""

    def answered(self, good: Sequence[Reply], rejected: Mapping[int, str]) -> None:
        """Leave it at what the server spends."""

    def snapshot(self) -> Snapshot:
        """Give how much the book has."""
        return Snapshot(values={_ROWS: len(self.budget.events())})

    def go_on(self, snapshot: Snapshot, asked: Iterable[int]) -> None:
        """Leave it at the book, which has what was spent since, too; refuse one that lost rows.

        Raises:
            PrivacyError: If it has fewer rows than it had.
        """
        had, found = snapshot.values.get(_ROWS, 0), len(self.budget.events())
        if found < had:
            raise PrivacyError(
                f"Expected {counted(had, 'row')} in {self.budget.book.path}, which has what the "
                f"rounds so far have spent, found {found}. Restore that file from a backup; "
                f"without it nobody knows what this run guarantees."
            )

    def epsilon(self) -> float | None:
        """Give ε of all rounds that were spent."""
        return self.budget.spent()

    def each(self) -> dict[str, float]:
        """Give nothing: what is spent is the server's."""
        return {}

    def statement(self) -> dict[str, str]:
        """State what the run guarantees."""
        return user_rows(self.config, self.users, self.budget.events())


def sample_mechanism(config: RunConfig, spent: Collection[Spent]) -> str:
    """Say what noise nodes add, and to what, from what they told; as far as it is set until then.

    Args:
        config: The run's configuration.
        spent: What nodes have spent; may be empty.
    """
    privacy = config.privacy
    least = (
        f"the least with which a node that trains in every one of "
        f"{counted(config.rounds, 'round')} stays within epsilon {privacy.target_epsilon:g}"
    )
    batches = "Poisson batches, by whose expected size the sum is divided"
    if not spent:
        size = f"z = {privacy.noise_multiplier:g}" if privacy.noise_multiplier else least
        return f"Gaussian noise on their sum: {size}; {batches}"
    noise = between([one.noise_multiplier for one in spent])
    why = "" if privacy.noise_multiplier else f" ({least})"
    return (
        f"Gaussian noise of z = {noise} times that on their sum{why}; {batches}, each example in "
        f"one with probability q = {between([one.sampling for one in spent])}; "
        f"{between([one.steps for one in spent], 'step')} on each node"
    )


def sample_released(config: RunConfig) -> list[str]:
    """List what nodes say of themselves beside their deltas."""
    counts = (
        "how many training examples each node has (privacy.public-counts)"
        if config.privacy.public_counts
        else "each node's epsilon, sampling probability, noise and steps, which depend on how many "
        "examples it has"
    )
    labels = () if config.task == "causal-lm" else ("label names, which count as public",)
    return [
        counts,
        *labels,
        "each node's partition and rank",
        "of a node without a partition-id its identity, the same in every run, and its name if any",
        "versions and fingerprints of software and model, process and threads",
        "when a node answers, and how large its messages are",
        "that it sits out, or what kind of error keeps it from training",
    ]


def left_apart(config: RunConfig) -> list[str]:
    """List what no ε speaks of."""
    found = [
        "settings that were chosen by looking at the same data",
        "other runs over the same data: what they spend adds up",
    ]
    if config.evaluate.server:
        found.append("the server's own validation and test data, which choose and judge the round")
    if config.method.init_from:
        found.append("the adapter that the run set out from (method.init-from)")
    return found


def user_mechanism(config: RunConfig, users: int, spent: Spent) -> str:
    """Say what the server did in each round."""
    privacy = config.privacy
    norm = (
        f"a norm that follows the {privacy.clip_quantile:g} quantile, from "
        f"{privacy.clipping_norm:g} on"
        if privacy.clip_quantile
        else f"norm {privacy.clipping_norm:g}"
    )
    return (
        f"each node's whole delta is clipped to {norm}, Gaussian noise of "
        f"z = {spent.noise_multiplier:g} times that added to their sum, and the sum divided by "
        f"{spent.sampling * users:g}, whoever took part (DP-FedAvg, McMahan et al. 2018); each of "
        f"{counted(users, 'node')} takes part in a round with probability q = {spent.sampling:g}, "
        f"drawn in secret; {counted(spent.steps, 'round')}"
    )


def _spends_nothing(why: str) -> bool:
    """Tell by the reason of a node that did not reply whether it cannot have trained."""
    return isinstance(why, SatOut) or why in (DROPPED_OUT, NOT_SENT)


def notes(report: PrivacyReport | None) -> Mapping[str, float]:
    """Give what a round's line in the journal says of privacy."""
    spent = report.epsilon() if report else None
    return {} if spent is None else {EPSILON: spent}


def protected(
    config: RunConfig, strategy: Strategy, users: int, folder: Path, silos: Silos
) -> tuple[Strategy, PrivacyReport | None]:
    """Protect what a strategy sees, where the server does that, and watch what is spent.

    Args:
        config: The run's configuration.
        strategy: The strategy.
        users: Nodes that passed the roll call.
        folder: The run's folder, where the server's book lies.
        silos: Who comes and goes, as the run goes on.

    Returns:
        The strategy to run, and the report; None where nothing is protected.

    Raises:
        PrivacyError: As `noisy_mean`.
        ConfigError: As `require_one_mean`.
    """
    privacy = config.privacy
    if privacy.mode == "none":
        return strategy, None
    if privacy.mode == "sample":
        return strategy, SampleReport(config=config, silos=silos)
    require_one_mean(config.strategy.name, strategy)
    budget = Budget(
        book=Book(path=folder / _BOOK), delta=privacy.delta, target=privacy.target_epsilon
    )
    private = UserLevel(
        strategy,
        mechanism=noisy_mean(config, users),
        delta=privacy.delta,
        spend=budget.spend,
        unsafe_seed=privacy.unsafe_seed,
    )
    return private, UserReport(config=config, budget=budget, users=users)


def user_rows(config: RunConfig, users: int, events: Sequence[Event]) -> dict[str, str]:
    """State what user-level privacy a server's events guarantee.

    Args:
        config: The run's configuration.
        users: N, the number of nodes.
        events: What the server has done; empty for nothing, and so no statement.
    """
    if not events:
        return {}
    privacy = config.privacy
    spent = spent_by(events, privacy.delta)
    return user_statement(
        spent,
        delta=privacy.delta,
        users=users,
        mechanism=user_mechanism(config, users, spent),
        accountant=ACCOUNTANT,
        unsafe=privacy.unsafe_seed >= 0,
        released=[
            "the state after every round, and what the server's own data say of it",
            "who passed the roll call, and how long rounds take",
        ],
        apart=[*left_apart(config), "what the server keeps for itself"],
    )


def _told(numbers: Mapping[str, float]) -> Spent:
    """Read what a node says; the guard has looked at it."""
    return Spent(
        epsilon=numbers[EPSILON],
        unamplified=numbers[UNAMPLIFIED],
        noise_multiplier=numbers[NOISE],
        sampling=numbers[SAMPLING],
        steps=int(numbers[STEPS]),
    )
