"""Cohorts as a function of (seed, round, who is there), by one of several rules."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from fedpeft_app.errors import ConfigError, Fault
from fedpeft_app.registry import Registry
from fedpeft_app.seeds import numpy_generator
from fedpeft_app.strategies.ranges import require_number
from fedpeft_app.strategies.strategy import Member

_HERE = "fedpeft_app.strategies.sampling"
_WHOLE_RUN = 0  # the round whose generator is the same in every round
_DIGITS = 9  # 1.1 · 50 is 55.00000000000001 to a computer, and stands for 55
COHORTS = Registry(
    kind="cohort rule",
    group="fedpeft.cohorts",
    builtin={
        "uniform": f"{_HERE}:uniform",
        "round-robin": f"{_HERE}:round_robin",
        "by-examples": f"{_HERE}:by_examples",
    },
)
GeneratorOf = Callable[[int], np.random.Generator]


class CohortRule(Protocol):
    """How a round's cohort is chosen."""

    def __call__(
        self,
        members: Sequence[Member],
        count: int,
        generator_of: GeneratorOf,
        round_number: int,
    ) -> Sequence[Member]:
        """Choose.

        Args:
            members: Everyone who passed the roll call, by partition.
            count: How many to choose, at most as many as there are.
            generator_of: Round → a fresh generator of its own; 0 → that of the whole run.
            round_number: Round, from 1.

        Returns:
            So many of the members, in any order, nobody twice.
        """
        ...


def sample_cohort(
    members: Sequence[Member],
    *,
    rule: str = "uniform",
    fraction: float,
    minimum: int,
    over_selection: float = 1.0,
    seed: int,
    round_number: int,
    purpose: str = "cohort",
    population: int = 0,
) -> list[Member]:
    """Draw a round's cohort.

    Args:
        members: Everyone who may be asked.
        rule: A name in `COHORTS`, or a path "package.module:Name" of a `CohortRule`.
        fraction: Share to draw, in [0, 1].
        minimum: Fewest to draw, as far as there are that many.
        over_selection: How many times more to draw than that, from 1.
        seed: The run's seed.
        round_number: Round, from 1.
        purpose: Names the use, so that training and evaluation cohorts differ.
        population: Of how many nodes to draw a share; 0 = of the members.

    Returns:
        The cohort, by partition.

    Raises:
        UnknownNameError: If there is no such rule.
        ConfigError: If a rule returns strangers, someone twice, or the wrong number.
        ValueError: If `over_selection` is below 1.

    Guarantee:
        Depends on partitions, and on examples if the rule does, not on Flower's random node
        ids.
    """
    ordered = sorted(members, key=_by_partition)
    wanted = cohort_size(population or len(ordered), fraction=fraction, minimum=minimum)
    count = over_selected(min(wanted, len(ordered)), over_selection, len(ordered))
    choose: CohortRule = COHORTS.get(rule)
    chosen = choose(ordered, count, partial(_generator, seed, purpose), round_number)
    _require_cohort(rule, chosen, ordered, count)
    return sorted(chosen, key=_by_partition)


def cohort_size(available: int, *, fraction: float, minimum: int) -> int:
    """Count whom a round is made for, before over-selection.

    Args:
        available: Nodes there are.
        fraction: Share of them, in (0, 1]; rounded to the nearest count.
        minimum: Fewest, as far as there are that many.
    """
    return min(available, max(minimum, round(fraction * available)))


def over_selected(count: int, factor: float, available: int) -> int:
    """Count whom to ask so that the fastest `count` need not wait for the slowest.

    Args:
        count: Replies to use.
        factor: How many times more to ask, from 1; rounded up to the next count.
        available: Nodes there are; more cannot be asked.

    Raises:
        ValueError: If the factor is below 1, or not finite.

    Reference:
        Bonawitz et al. 2019, arXiv 1902.01046, section 9: 1.3 times as many, where 6–10 % drop
        out.
    """
    require_number("strategy.over-selection", factor, 1, math.inf)
    return min(available, math.ceil(round(factor * count, _DIGITS)))


def uniform(
    members: Sequence[Member], count: int, generator_of: GeneratorOf, round_number: int
) -> list[Member]:
    """Choose each with the same probability, without replacement. See `CohortRule`."""
    chosen = generator_of(round_number).choice(len(members), size=count, replace=False)
    return [members[index] for index in chosen]


def round_robin(
    members: Sequence[Member], count: int, generator_of: GeneratorOf, round_number: int
) -> list[Member]:
    """Choose in turns: nobody a second time before all had theirs. See `CohortRule`.

    Turns go in an order shuffled once for the run, so that it says nothing about partitions,
    and a round goes on where the last one ended.

    Guarantee:
        After any round, how often two members were chosen differs by one at most, as long as
        members and count stay the same.
    """
    turns = generator_of(_WHOLE_RUN).permutation(len(members))
    first = (round_number - 1) * count
    return [members[turns[(first + place) % len(members)]] for place in range(count)]


def by_examples(
    members: Sequence[Member], count: int, generator_of: GeneratorOf, round_number: int
) -> list[Member]:
    """Choose one after the other, in proportion to the examples they hold. See `CohortRule`.

    Who holds more is heard more often, so replies should then be averaged uniformly: a mean
    weighted by examples counts them twice. The uniform mean of one member stands, on average,
    for all examples; of more it does so only nearly, and worse the more there are: nobody is
    chosen twice, however much he holds, and with everyone chosen examples no longer matter.

    Raises:
        ValueError: If fewer than `count` members hold examples; the roll call lets no such
            member pass.

    Reference:
        Li et al. 2020, arXiv 1907.02189, scheme I, which draws with replacement and so is
        unbiased at any share.
    """
    examples = np.array([member.examples for member in members], dtype=np.float64)
    chosen = generator_of(round_number).choice(
        len(members), size=count, replace=False, p=examples / examples.sum()
    )
    return [members[index] for index in chosen]


def _generator(seed: int, purpose: str, round_number: int) -> np.random.Generator:
    """Make a round's generator."""
    return numpy_generator(seed, purpose, round_number=round_number)


def _by_partition(member: Member) -> int:
    """Order members."""
    return member.partition


def _require_cohort(
    rule: str, chosen: Sequence[Member], members: Sequence[Member], count: int
) -> None:
    """Refuse what a plug-in returned if it is no cohort."""
    different = set(chosen)
    if len(chosen) == len(different) == count and different <= set(members):
        return
    problem = (
        f"expected {count} different members, got {len(chosen)} of which {len(different)} are "
        f"different and {len(different - set(members))} no members. Correct the rule."
    )
    raise ConfigError([Fault(key="strategy.cohort", value=rule, problem=problem)])
