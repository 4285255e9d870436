"""Sampled clients that fail to report, on purpose: for studies of client stability."""

from collections.abc import Iterable

from fedpeft_app.seeds import numpy_generator
from fedpeft_app.strategies.attendance import Excused
from fedpeft_app.strategies.ranges import require_number
from fedpeft_app.strategies.strategy import Member

DROPPED_OUT = Excused("dropped out (strategy.dropout)")


def dropped(
    cohort: Iterable[Member],
    probability: float,
    *,
    seed: int,
    round_number: int,
    spare: bool = True,
) -> set[Member]:
    """Draw who of a cohort fails to report, each independently of the others.

    They are not to be asked at all: they cost neither bytes nor time, and count as failed for
    the reason `DROPPED_OUT`. Covered is what a missing update does to the model; not covered
    is the traffic of a node that gets its order and then falls silent.

    Args:
        cohort: The sampled nodes.
        probability: Of each to drop out, in [0, 1).
        seed: The run's seed.
        round_number: Round, from 1.
        spare: Whether the one with the best luck reports if all would drop out. Under user-level
            privacy nobody may: whether a node takes part must not depend on who else does.

    Raises:
        ValueError: If the probability is out of its range.

    Guarantee:
        Depends on (seed, round, partition) only: not on who else is in the cohort, but for
        one that is spared. Nobody who drops out at one probability reports at a higher one.
    """
    require_number("strategy.dropout", probability, 0, 1)
    luck = {member: _luck(seed, round_number, member.partition) for member in cohort}
    gone = {member for member in luck if luck[member] < probability}
    if spare and luck and len(gone) == len(luck):
        gone.remove(max(luck, key=luck.__getitem__))
    return gone


def _luck(seed: int, round_number: int, partition: int) -> float:
    """Draw a node's number of a round, uniform in [0, 1)."""
    generator = numpy_generator(
        seed, "client-dropout", round_number=round_number, partition=partition
    )
    return generator.random()
