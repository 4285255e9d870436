"""Which rounds' checkpoints stay."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fedpeft_app.criterion import Rating

_RULE = re.compile(r"(last|best|every):([1-9][0-9]{0,8})")
GRAMMAR = "'last-best' (last:2,best:1), 'all' (every:1), or rules such as last:2,best:1,every:10"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Rules; a round stays if one of them keeps it.

    Attributes:
        last: So many of the last rounds, from 1: the newest may turn out to be damaged.
        best: So many of the best ones, of those that were judged, from 1: it will be exported.
        every: Every so many rounds; 0 = none for that.
    """

    last: int = 1
    best: int = 1
    every: int = 0

    def kept(self, round_number: int, ratings: Mapping[int, Rating]) -> set[int]:
        """List the rounds up to one that stay.

        Args:
            round_number: The newest, from 1.
            ratings: Round → how good it is, for those that were judged.
        """
        rounds = range(1, round_number + 1)
        return {
            *rounds[-self.last :],
            *ranked(ratings)[: self.best],
            *(rounds[self.every - 1 :: self.every] if self.every else ()),
        }


def ranked(ratings: Mapping[int, Rating]) -> list[int]:
    """Sort rounds, the best first, of equals the earlier one.

    Args:
        ratings: Round → how good it is.
    """
    return sorted(ratings, key=lambda number: (ratings[number], -number), reverse=True)


def retention(text: str) -> Retention:
    """Read rules.

    Args:
        text: As in `GRAMMAR`.

    Raises:
        ValueError: If it is none of that.
    """
    named = {"last-best": Retention(last=2, best=1), "all": Retention(every=1)}
    if text in named:
        return named[text]
    rules = Retention()
    for rule in text.split(","):
        if not (found := _RULE.fullmatch(rule.strip())):
            raise ValueError(f"expected {GRAMMAR}, got {text!r}")
        rules = replace(rules, **{found[1]: int(found[2])})
    return rules


def best_of(ratings: Mapping[int, Rating]) -> int | None:
    """Give the best round, the first of `ranked`; None if none was rated.

    Args:
        ratings: As for `ranked`.
    """
    return next(iter(ranked(ratings)), None)
