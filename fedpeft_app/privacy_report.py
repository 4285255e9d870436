"""What a run has guaranteed so far, gathered while rounds go by; in words when it ends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedpeft_app.assembly import fit_settings, sample_level, user_noise
from fedpeft_app.config import RunConfig
from fedpeft_app.node.book import Book
from fedpeft_app.privacy.accountant import ACCOUNTANT, epsilon
from fedpeft_app.privacy.budget import Budget, require_small
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.statement import (
    Spent,
    noise_forecast,
    sample_statement,
    user_statement,
)
from fedpeft_app.privacy.user_level import Follow, NoisyMean
from fedpeft_app.strategies.guard import MEASURED, NOTHING, SPENT, SatOut
from fedpeft_app.strategies.rounds import RoundResult
from fedpeft_app.strategies.strategy import Strategy
from fedpeft_app.strategies.user_level import UserLevel
from fedpeft_app.wire.record import EPSILON, UNAMPLIFIED

_BOOK = "privacy.jsonl"
NUMBERS = {"none": MEASURED, "sample": SPENT, "user": NOTHING}  # that nodes send, by mode


class PrivacyReport(Protocol):
    """Watches what is spent."""

    def note(self, result: RoundResult) -> float | None:
        """Take a round in; give ε of the run so far, None where nobody has spent anything."""
        ...

    def statement(self) -> dict[str, str]:
        """State what the run guarantees; empty where nobody has spent anything."""
        ...


@dataclass(slots=True, kw_only=True)
class SampleReport:
    """Gathers what nodes say they have spent.

    Attributes:
        config: The run's configuration.
        spent: Partition → what the node said last.
        silent: Partitions of nodes that were asked since and sent nothing good: they may have
            spent more.
    """

    config: RunConfig
    spent: dict[int, Spent] = field(default_factory=dict)
    silent: set[int] = field(default_factory=set)

    def note(self, result: RoundResult) -> float | None:
        """Take a round in; give the largest ε of a node."""
        for reply in result.good:
            numbers, node = reply.metrics, reply.member.partition
            self.spent[node] = Spent(epsilon=numbers[EPSILON], unamplified=numbers[UNAMPLIFIED])
            self.silent.discard(node)
        self.silent |= {
            node for node, why in result.rejected.items() if not isinstance(why, SatOut)
        }
        return max((one.epsilon for one in self.spent.values()), default=None)

    def statement(self) -> dict[str, str]:
        """State what the run guarantees."""
        if not self.spent:
            return {}
        privacy = self.config.privacy
        rows = sample_statement(
            self.spent,
            delta=privacy.delta,
            clipping_norm=privacy.clipping_norm,
            mechanism=sample_mechanism(self.config),
            accountant=ACCOUNTANT,
            unsafe=privacy.unsafe_seed >= 0,
            released=sample_released(self.config),
            apart=left_apart(self.config),
        )
        if self.silent:
            nodes = ", ".join(map(str, sorted(self.silent)))
            rows["not known"] = (
                f"what nodes {nodes} spent in rounds in which they sent no good reply; their own "
                f"books have it"
            )
        return rows


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

    def note(self, result: RoundResult) -> float | None:
        """Give ε so far."""
        return self.budget.spent()

    def statement(self) -> dict[str, str]:
        """State what the run guarantees."""
        return _of_users(self.config, self.users, self.budget.events())


def sample_mechanism(config: RunConfig) -> str:
    """Say what noise nodes add, and to what."""
    privacy, train = config.privacy, config.train
    count = train.batch_size * train.gradient_accumulation
    if privacy.noise_multiplier:
        noise = f"Gaussian noise of z = {privacy.noise_multiplier:g} times that on their sum"
    else:
        noise = (
            f"Gaussian noise on their sum, of the least size with which a node that trains in all "
            f"{config.rounds} rounds stays within epsilon {privacy.target_epsilon:g}"
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
    return [
        counts,
        "versions and fingerprints of software and model",
        "when a node answers",
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
        f"{rounds} rounds"
    )


def notes(report: PrivacyReport | None, result: RoundResult) -> Mapping[str, float]:
    """Give what a round's line in the journal says of privacy."""
    spent = report.note(result) if report else None
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
        PrivacyError: If no noise keeps to the target, or it would not suffice.
    """
    privacy = config.privacy
    if privacy.mode == "none":
        return strategy, None
    if privacy.mode == "sample":
        return strategy, SampleReport(config=config)
    budget = Budget(
        book=Book(path=folder / _BOOK), delta=privacy.delta, target=privacy.target_epsilon
    )
    quantile = privacy.clip_quantile
    private = UserLevel(
        strategy,
        mechanism=NoisyMean(
            clipping_norm=privacy.clipping_norm,
            noise_multiplier=user_noise(config),
            sampling=config.strategy.fraction_train,
            users=users,
            follow=Follow(quantile=quantile, rate=privacy.clip_rate) if quantile else None,
        ),
        delta=privacy.delta,
        spend=budget.spend,
        unsafe_seed=privacy.unsafe_seed,
    )
    return private, UserReport(config=config, budget=budget, users=users)


def forecast(config: RunConfig, parameters: int, sizes: Sequence[int]) -> dict[str, str]:
    """State, before a run, what it would guarantee, and how much noise that takes.

    Args:
        config: The run's configuration.
        parameters: Numbers that train.
        sizes: Training examples of each node.

    Returns:
        The rows of the statement, and "noise".

    Raises:
        PrivacyError: If no noise keeps to the target, or δ is too large for a node or for all.
    """
    if config.privacy.mode == "user":
        return _forecast_users(config, parameters, len(sizes))
    level, settings = sample_level(config), fit_settings(config)
    if level is None:
        return {}
    report, noises = SampleReport(config=config), []
    for node, size in enumerate(sizes):
        level.require(size)
        event = level.event(size, settings)
        report.spent[node] = _spent([event] * settings.rounds, config.privacy.delta)
        count = event.sampling * size
        noises.append((event.noise_multiplier * math.sqrt(parameters) / count, node, event, count))
    _, node, event, count = max(noises, key=lambda found: found[0])
    noise = noise_forecast(
        noise_multiplier=event.noise_multiplier,
        clipping_norm=config.privacy.clipping_norm,
        parameters=parameters,
        count=count,
    )
    steps = f"{event.steps * settings.rounds} steps, each example with q = {event.sampling:.3g}"
    return {**report.statement(), "noise": f"{noise}, on node {node} ({steps})"}


def _forecast_users(config: RunConfig, parameters: int, users: int) -> dict[str, str]:
    """State what the server would guarantee."""
    require_small(config.privacy.delta, users, f"{users} nodes")
    sampling, noise = config.strategy.fraction_train, user_noise(config)
    event = Event(noise_multiplier=noise, sampling=sampling, steps=config.rounds)
    text = noise_forecast(
        noise_multiplier=noise,
        clipping_norm=config.privacy.clipping_norm,
        parameters=parameters,
        count=sampling * users,
    )
    return {**_of_users(config, users, [event]), "noise": text}


def _of_users(config: RunConfig, users: int, events: Sequence[Event]) -> dict[str, str]:
    """State what user-level privacy a server's events guarantee; empty for none."""
    if not events:
        return {}
    privacy = config.privacy
    return user_statement(
        _spent(events, privacy.delta),
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
        released=["the state after every round, and what the server's own data say of it"],
        apart=[*left_apart(config), "what the server keeps for itself"],
    )


def _spent(events: Sequence[Event], delta: float) -> Spent:
    """Count events both ways."""
    return Spent(
        epsilon=epsilon(events, delta), unamplified=epsilon(events, delta, amplified=False)
    )
