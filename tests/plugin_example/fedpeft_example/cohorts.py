"""A cohort rule: the nodes with the most examples, in every round the same."""

from collections.abc import Sequence

from fedpeft_app.strategies.sampling import GeneratorOf
from fedpeft_app.strategies.strategy import Member


def largest(
    members: Sequence[Member], count: int, generator_of: GeneratorOf, round_number: int
) -> list[Member]:
    """Choose the largest; of equals, the one with the lower partition."""
    return sorted(members, key=lambda member: (-member.examples, member.partition))[:count]
