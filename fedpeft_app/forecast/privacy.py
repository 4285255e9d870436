"""What a private run would guarantee, how much noise that takes, and what would help.

Sampling, noise and ε come from the code by which nodes and server protect.
"""

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from fedpeft_app.assembly import fit_settings, noisy_mean, sample_level
from fedpeft_app.config import RunConfig
from fedpeft_app.errors import ConfigError, Fault, PrivacyError
from fedpeft_app.node_privacy import SampleLevel
from fedpeft_app.privacy.accountant import epsilon
from fedpeft_app.privacy.budget import require_small
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.spent import Spent, spent_by
from fedpeft_app.privacy.statement import counted
from fedpeft_app.privacy_report import SampleReport, user_rows
from fedpeft_app.round_plan import asked
from fedpeft_app.training.fit import FitSettings
from fedpeft_app.training.private import schedule

_MANY = 10  # times as many nodes: what more of them would do


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The noise on one mean, and how many of these a run makes.

    Attributes:
        event: What one party does in the whole run; its steps are rounds where that is the
            server.
        deviation: Standard deviation of the noise on each value of a sum, over C: z, or more.
        count: What the sum is divided by: examples of a batch, or nodes of a cohort, as expected.
        parameters: d, the numbers that train.
        parties: How many add noise of their own to what a round averages.
    """

    event: Event
    deviation: float
    count: float
    parameters: int
    parties: float = 1

    @property
    def once(self) -> float:
        """Expected norm of the noise over C, the most that the norm of the mean can be."""
        return self.deviation * math.sqrt(self.parameters) / self.count

    @property
    def overall(self) -> float:
        """The same of the whole run, if all means agreed and so added up, which noise does not."""
        return self.once / math.sqrt(self.event.steps * self.parties)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What can be said of a private run before it starts.

    Attributes:
        noise: The noise; of the node that has most, where nodes add it.
        party: Who that is, in words.
        spent: ε at most, and without amplification by sampling.
        limits: What the target stops before the last round, in sentences.
        statement: The rows of the statement with which the run would end.
        remedies: What would make the noise smaller → the noise with it.
    """

    noise: Noise
    party: str
    spent: Spent
    limits: Sequence[str]
    statement: Mapping[str, str]
    remedies: Mapping[str, Noise]


def forecast(config: RunConfig, parameters: int, sizes: Sequence[int]) -> Forecast:
    """Say what a private run would guarantee, and at what cost.

    Args:
        config: The configuration of a run with `privacy.mode` other than 'none'.
        parameters: Numbers that train.
        sizes: Training examples of each node.

    Raises:
        ConfigError: If δ is too large for some nodes, ε would be infinite, or the target does
            not leave enough nodes a single round.
        PrivacyError: If no noise keeps to the target, or all nodes are too few for δ, or for a
            clipping norm that follows theirs.
    """
    of = _of_server if config.privacy.mode == "user" else _of_nodes
    found = of(config, parameters, sizes)
    if not math.isfinite(found.spent.epsilon):
        problem = "so little noise leaves epsilon infinite, and guarantees nothing. Raise it, or "
        problem += "set privacy.target-epsilon in its place."
        value = config.privacy.noise_multiplier
        raise ConfigError([Fault(key="privacy.noise-multiplier", value=value, problem=problem)])
    return found


# ------------------------------------------------------------------ the server adds the noise


def _of_server(config: RunConfig, parameters: int, sizes: Sequence[int]) -> Forecast:
    """Forecast user-level privacy."""
    users, privacy = len(sizes), config.privacy
    require_small(privacy.delta, users, counted(users, "node"))
    event = noisy_mean(config, users).event
    rounds = _allowed(config, event, config.rounds)
    if rounds == 0:
        raise _no_round(config, event, "the server cannot finish")
    ends = f"after round {rounds} of {config.rounds} privacy is spent, and the run ends."
    noise = _of_means(config, users, parameters, rounds)
    return Forecast(
        noise=noise,
        party="the server",
        spent=spent_by([noise.event], privacy.delta),
        limits=[ends] * (rounds < config.rounds),
        statement=user_rows(config, users, [noise.event]),
        remedies=dict(_more_nodes(config, users, parameters, rounds)),
    )


def _of_means(config: RunConfig, users: int, parameters: int, rounds: int) -> Noise:
    """Give the noise on means over nodes."""
    mechanism = noisy_mean(config, users)
    return Noise(
        event=replace(mechanism.event, steps=rounds),
        deviation=mechanism.deviation / mechanism.clipping_norm,
        count=mechanism.expected,
        parameters=parameters,
    )


def _more_nodes(
    config: RunConfig, users: int, parameters: int, rounds: int
) -> Iterator[tuple[str, Noise]]:
    """Ask more of the nodes, or have more."""
    if not config.privacy.noise_multiplier and config.strategy.fraction_train < 1:
        everyone = config.strategy.model_copy(update={"fraction_train": 1.0})
        whole = config.model_copy(update={"strategy": everyone})
        yield (
            "strategy.fraction-train=1.0, all nodes in every round",
            _of_means(whole, users, parameters, rounds),
        )
    more = _of_means(config, users * _MANY, parameters, rounds)
    yield f"{_MANY} times as many nodes", more


# ------------------------------------------------------------------ nodes add the noise


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nodes:
    """Nodes that protect their examples, and how they train."""

    config: RunConfig
    level: SampleLevel
    settings: FitSettings
    sizes: Sequence[int]
    parameters: int

    def event(self, node: int) -> Event:
        """Say what a round of a node spends."""
        return self.level.event(self.sizes[node], self.settings)

    def hunger(self, node: int) -> float:
        """Rank nodes by what they spend at equal noise: about as q²·steps.

        Reference:
            Bu et al. 2019, arXiv 1911.11607 (the central limit of many mechanisms).
        """
        sampling, steps = schedule(self.sizes[node], self.settings)
        return sampling**2 * steps

    def noise(self, node: int) -> Noise:
        """Give the noise on means over a node's batches."""
        event = self.event(node)
        together = self.config.mode == "federated"
        return Noise(
            event=replace(event, steps=event.steps * self.settings.rounds),
            deviation=event.noise_multiplier,
            count=event.sampling * self.sizes[node],
            parameters=self.parameters,
            parties=asked(self.config, len(self.sizes)) if together else 1,
        )


def _of_nodes(config: RunConfig, parameters: int, sizes: Sequence[int]) -> Forecast:
    """Forecast sample-level privacy."""
    level = sample_level(config)
    if level is None:
        raise PrivacyError("Expected privacy.mode = 'sample' or 'user', got none to forecast.")
    _require_small(level, sizes)
    nodes = _Nodes(
        config=config,
        level=level,
        settings=fit_settings(config),
        sizes=sizes,
        parameters=parameters,
    )
    limits = _limits(nodes)
    node = sizes.index(min(sizes))  # over a run, at the same ε, noise to signal is about as 1/n
    noise = nodes.noise(node)
    spent = replace(spent_by([noise.event], level.delta), epsilon=_most(nodes))
    return Forecast(
        noise=noise,
        party=f"node {node}, the smallest, with {counted(sizes[node], 'example')}",
        spent=spent,
        limits=limits,
        statement=SampleReport(config=config, spent={node: spent}).statement(),
        remedies=dict(_more_examples(nodes, node)),
    )


def _more_examples(nodes: _Nodes, node: int) -> Iterator[tuple[str, Noise]]:
    """Take all examples of a node in every step, or all nodes in every round."""
    settings = nodes.settings
    forward = math.ceil(nodes.sizes[node] / settings.batch_size)
    if not nodes.level.noise and settings.accumulation < forward:
        whole = replace(nodes, settings=replace(settings, accumulation=forward))
        larger = whole.noise(node)
        steps = counted(larger.event.steps, "step")
        yield f"train.gradient-accumulation={forward}, all its examples in each of {steps}", larger
    noise = nodes.noise(node)
    if nodes.config.mode == "federated" and noise.parties < len(nodes.sizes):
        yield (
            "strategy.fraction-train=1.0, all nodes in every round at the same epsilon",
            replace(noise, parties=len(nodes.sizes)),
        )


def _most(nodes: _Nodes) -> float:
    """Give the largest ε of a node: the target, or what all rounds with the noise that is set."""
    if nodes.level.target:
        return nodes.level.target
    events = {nodes.event(node) for node in range(len(nodes.sizes))}
    return max(epsilon([event] * nodes.settings.rounds, nodes.level.delta) for event in events)


def _limits(nodes: _Nodes) -> list[str]:
    """Say who has to sit out, and when too few nodes have privacy left; refuse too few at once."""
    if not (nodes.level.noise and nodes.level.target):
        return []  # the noise is such that all rounds fit, or nothing limits them
    count, config = len(nodes.sizes), nodes.config
    order = sorted(range(count), key=nodes.hunger)
    needed = 1 if config.mode == "central" else min(config.strategy.min_replies, count)
    last, first = order[needed - 1], order[-1]
    rounds = {
        node: _allowed(config, nodes.event(node), nodes.settings.rounds) for node in (last, first)
    }
    if rounds[last] == 0:
        few = f"fewer than {counted(needed, 'node')} (strategy.min-replies) can finish"
        raise _no_round(config, nodes.event(last), few)
    found = []
    if rounds[first] < nodes.settings.rounds:
        found.append(f"node {first} can train in {counted(rounds[first], 'round')}, then sits out.")
    if rounds[last] < nodes.settings.rounds:
        found.append(
            f"after {counted(rounds[last], 'round')} in which all are asked, fewer than "
            f"{counted(needed, 'node')} can go on (strategy.min-replies), and the run ends."
        )
    return found


def _require_small(level: SampleLevel, sizes: Sequence[int]) -> None:
    """Refuse a δ that is too large for nodes; name all of them."""
    refused = []
    for node, size in enumerate(sizes):
        try:
            level.require(size)
        except PrivacyError:
            refused.append(f"{node} ({size:,})")
    if refused:
        problem = (
            f"is not below 1 over the number of training examples of node{'s' * (len(refused) > 1)}"
            f" {', '.join(refused)}: publishing one of them, drawn at random, would satisfy it. "
            f"Set it below {1 / max(sizes):.2g}."
        )
        raise ConfigError([Fault(key="privacy.delta", value=level.delta, problem=problem)])


# ------------------------------------------------------------------ both


def _allowed(config: RunConfig, event: Event, rounds: int) -> int:
    """Count the rounds that keep to the target, as a budget does; all, if noise is solved for."""
    privacy = config.privacy
    if not (privacy.target_epsilon and privacy.noise_multiplier):
        return rounds
    return bisect.bisect_right(
        range(1, rounds + 1),
        privacy.target_epsilon,
        key=lambda number: epsilon([event] * number, privacy.delta),
    )


def _no_round(config: RunConfig, event: Event, who: str) -> ConfigError:
    """Write that the target does not allow a single round."""
    privacy = config.privacy
    problem = (
        f"{who} a single round: with privacy.noise-multiplier = {privacy.noise_multiplier:g}, "
        f"one takes epsilon {epsilon([event], privacy.delta):.4g}. Raise either, or leave out the "
        f"noise multiplier: the least that keeps to the target is then found."
    )
    value = privacy.target_epsilon
    return ConfigError([Fault(key="privacy.target-epsilon", value=value, problem=problem)])
