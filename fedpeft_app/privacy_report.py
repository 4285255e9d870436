"""What a run has guaranteed so far, gathered while rounds go by; in words when it ends."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedpeft_app.assembly import noisy_mean
from fedpeft_app.config import RunConfig
from fedpeft_app.node.book import Book
from fedpeft_app.privacy.accountant import ACCOUNTANT, epsilon
from fedpeft_app.privacy.budget import Budget
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.statement import (
    Spent,
    sample_statement,
    user_statement,
)
from fedpeft_app.strategies.dropouts import DROPPED_OUT
from fedpeft_app.strategies.exchange import NOT_SENT
from fedpeft_app.strategies.guard import MEASURED, NOTHING, SPENT, SatOut
from fedpeft_app.strategies.strategy import Reply, Strategy
from fedpeft_app.strategies.user_level import UserLevel
from fedpeft_app.wire.record import EPSILON, UNAMPLIFIED

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

    def epsilon(self) -> float | None:
        """Give ε of the run so far, as far as it is known; None where nobody told of any."""
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
    """

    config: RunConfig
    spent: dict[int, Spent] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    silent: set[int] = field(default_factory=set)

    def asked(self, nodes: Iterable[int]) -> None:
        """Take in who may be about to spend."""
        self.waiting = set(nodes)

    def answered(self, good: Sequence[Reply], rejected: Mapping[int, str]) -> None:
        """Take in what nodes say, and who says nothing."""
        self.waiting.clear()
        for reply in good:
            numbers, node = reply.metrics, reply.member.partition
            self.spent[node] = Spent(epsilon=numbers[EPSILON], unamplified=numbers[UNAMPLIFIED])
            self.silent.discard(node)
        self.silent |= {node for node, why in rejected.items() if not _spends_nothing(why)}

    def epsilon(self) -> float | None:
        """Give the largest ε of a node."""
        return max((one.epsilon for one in self.spent.values()), default=None)

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
            mechanism=sample_mechanism(self.config),
            accountant=ACCOUNTANT,
            unsafe=privacy.unsafe_seed >= 0,
            released=sample_released(self.config),
            apart=left_apart(self.config),
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

    def epsilon(self) -> float | None:
        """Give ε of all rounds that were spent."""
        return self.budget.spent()

    def statement(self) -> dict[str, str]:
        """State what the run guarantees."""
        return user_rows(self.config, self.users, self.budget.events())


def sample_mechanism(config: RunConfig) -> str:
    """Say what noise nodes add, and to what."""
    privacy, train = config.privacy, config.train
    count = train.batch_size * train.gradient_accumulation
    if privacy.noise_multiplier:
        noise = f"Gaussian noise of z = {privacy.noise_multiplier:g} times that on their sum"
    else:
        noise = (
            f"Gaussian noise on their sum, of the least size with which a node that trains in "
            f"every one of {config.rounds} round{'s' * (config.rounds != 1)} stays within epsilon "
            f"{privacy.target_epsilon:g}"
        )
    return (
        f"{noise}; Poisson batches, {count} examples expected, by which the sum is divided "
        f"(all of a node's, if it has fewer)"
    )


def sample_released(config: RunConfig) -> list[str]:
    """List what nodes say of themselves beside their deltas."""
    counts = (
        "how many training examples each node has (privacy.public-counts)"
        if config.privacy.public_counts
        else "each node's epsilon, which depends on how many examples it has"
    )
    labels = () if config.task == "causal-lm" else ("label names, which count as public",)
    return [
        counts,
        *labels,
        "each node's partition and rank",
        "versions and fingerprints of software and model, process and threads",
        "when a node answers, and how large its messages are",
        "that it sits out, or what kind of error keeps it from training",
    ]


def left_apart(config: RunConfig) -> list[str]:
    """List what no ε speaks of."""
    found = ["settings that were chosen by looking at the same data"]
    if config.evaluate.server:
        found.append("the server's own validation and test data, which choose and judge the round")
    if config.method.init_from:
        found.append("the adapter that the run set out from (method.init-from)")
    return found


def user_mechanism(config: RunConfig, users: int, *, noise_multiplier: float, rounds: int) -> str:
    """Say what the server does in each round."""
    privacy, sampling = config.privacy, config.strategy.fraction_train
    norm = (
        f"a norm that follows the {privacy.clip_quantile:g} quantile, from "
        f"{privacy.clipping_norm:g} on"
        if privacy.clip_quantile
        else f"norm {privacy.clipping_norm:g}"
    )
    return (
        f"each node's whole delta is clipped to {norm}, Gaussian noise of "
        f"z = {noise_multiplier:g} times that added to their sum, and the sum divided by "
        f"{sampling * users:g}, whoever took part (DP-FedAvg, McMahan et al. 2018); each of "
        f"{users} nodes takes part in a round with probability {sampling:g}, drawn in secret; "
        f"{rounds} round{'s' * (rounds != 1)}"
    )


def _spends_nothing(why: str) -> bool:
    """Tell by the reason of a node that did not reply whether it cannot have trained."""
    return isinstance(why, SatOut) or why in (DROPPED_OUT, NOT_SENT)


def notes(report: PrivacyReport | None) -> Mapping[str, float]:
    """Give what a round's line in the journal says of privacy."""
    spent = report.epsilon() if report else None
    return {} if spent is None else {EPSILON: spent}


def protected(
    config: RunConfig, strategy: Strategy, users: int, folder: Path
) -> tuple[Strategy, PrivacyReport | None]:
    """Protect what a strategy sees, where the server does that, and watch what is spent.

    Args:
        config: The run's configuration.
        strategy: The strategy.
        users: Nodes that passed the roll call.
        folder: The run's folder, where the server's book lies.

    Returns:
        The strategy to run, and the report; None where nothing is protected.

    Raises:
        PrivacyError: As `noisy_mean`.
    """
    privacy = config.privacy
    if privacy.mode == "none":
        return strategy, None
    if privacy.mode == "sample":
        return strategy, SampleReport(config=config)
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
    return user_statement(
        spent_by(events, privacy.delta),
        delta=privacy.delta,
        users=users,
        mechanism=user_mechanism(
            config,
            users,
            noise_multiplier=events[-1].noise_multiplier,
            rounds=sum(event.steps for event in events),
        ),
        accountant=ACCOUNTANT,
        unsafe=privacy.unsafe_seed >= 0,
        released=[
            "the state after every round, and what the server's own data say of it",
            "who passed the roll call, and how long rounds take",
        ],
        apart=[*left_apart(config), "what the server keeps for itself"],
    )


def spent_by(events: Sequence[Event], delta: float) -> Spent:
    """Count events with and without amplification by sampling.

    Args:
        events: All that was done to one data set.
        delta: δ, in (0, 1).
    """
    return Spent(
        epsilon=epsilon(events, delta), unamplified=epsilon(events, delta, amplified=False)
    )
