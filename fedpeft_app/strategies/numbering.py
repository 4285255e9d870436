"""Numbers for nodes that know who they are, but were given no number by anybody."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count

from fedpeft_app.strategies.roll_call import Presence

Answer = tuple[int, Presence | str]  # Flower id → what it says, or why it says nothing


def numbered(
    answers: Sequence[Answer], known: Mapping[str, int]
) -> tuple[list[Answer], dict[str, int]]:
    """Give every node that has an identity its number: the one it has, or the next that is free.

    Those who are new are numbered by name, then by identity: the same nodes have the same numbers
    in every run that they begin together.

    Args:
        answers: What the roll call found.
        known: Identity → number, of those that have one.

    Returns:
        The answers, with numbers; and what is known now.
    """
    present = [answer for _, answer in answers if isinstance(answer, Presence)]
    taken = {*known.values(), *(one.partition for one in present if not one.identity)}
    free = (number for number in count() if number not in taken)
    numbers = dict(known)
    for _, identity in sorted({(one.name, one.identity) for one in present if one.identity}):
        if identity not in numbers:
            numbers[identity] = next(free)
    return [(node_id, _with_number(answer, numbers)) for node_id, answer in answers], numbers


def _with_number(answer: Presence | str, numbers: Mapping[str, int]) -> Presence | str:
    """Put the number in place of the node's own, which is long and means nothing to anybody."""
    if isinstance(answer, Presence) and answer.identity:
        return replace(answer, partition=numbers[answer.identity])
    return answer
