"""Cohorts: a function of seed, round and members; by rule; never the same node twice."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategy_samples import members

from fedpeft_app.errors import ConfigError, UnknownNameError
from fedpeft_app.strategies.sampling import COHORTS, cohort_size, over_selected, sample_cohort
from fedpeft_app.strategies.strategy import Member

every_rule = pytest.mark.parametrize("rule", COHORTS.builtin)


def partitions(cohort: list[Member]) -> list[int]:
    """List the partitions of a cohort."""
    return [member.partition for member in cohort]


def holding(*examples: int) -> list[Member]:
    """Make nodes that hold so many examples."""
    nodes = members(len(examples))
    return [replace(node, examples=held) for node, held in zip(nodes, examples, strict=True)]


def draw(some: Sequence[Member], round_number: int = 1, **changes: Any) -> list[Member]:
    """Draw 40 % of the nodes, at least two."""
    settings = {"fraction": 0.4, "minimum": 2, "seed": 0, **changes}
    return sample_cohort(some, round_number=round_number, **settings)


@every_rule
@given(
    order=st.permutations(range(10)),
    seed=st.integers(0, 2**63 - 1),
    round_number=st.integers(1, 50),
)
def test_neither_node_ids_nor_their_order_matter(
    rule: str, order: list[int], seed: int, round_number: int
) -> None:
    first = members(10)
    others = [replace(first[index], node_id=place) for place, index in enumerate(order)]
    others.reverse()
    assert partitions(draw(first, round_number, seed=seed, rule=rule)) == partitions(
        draw(others, round_number, seed=seed, rule=rule)
    )


@every_rule
def test_seed_round_and_purpose_matter(rule: str) -> None:
    some = members(40)
    drawn = [
        draw(some, rule=rule),
        draw(some, 2, rule=rule),
        draw(some, rule=rule, seed=1),
        draw(some, rule=rule, purpose="other"),
    ]
    assert len({tuple(partitions(cohort)) for cohort in drawn}) == 4


@every_rule
@given(
    examples=st.lists(st.integers(1, 10**6), min_size=1, max_size=30),
    fraction=st.floats(0.01, 1.0),
    minimum=st.integers(1, 40),
    round_number=st.integers(1, 1000),
)
def test_a_cohort_has_its_size_and_no_node_twice(
    rule: str, examples: list[int], fraction: float, minimum: int, round_number: int
) -> None:
    some = holding(*examples)
    drawn = draw(some, round_number, rule=rule, fraction=fraction, minimum=minimum)
    count = len(examples)
    assert len(drawn) == min(count, max(minimum, round(fraction * count)))
    assert partitions(drawn) == sorted(set(partitions(drawn)))
    assert set(drawn) <= set(some)


def test_uniform_cohorts_are_those_of_earlier_versions() -> None:
    # Drawn with commit a8832c5, before there were rules: runs of then can be repeated.
    assert [partitions(draw(members(10), number)) for number in (1, 2, 3)] == [
        [0, 4, 6, 9],
        [2, 6, 7, 9],
        [2, 6, 7, 8],
    ]


def test_in_the_long_run_every_node_trains_as_often() -> None:
    # 4 of 10 nodes a round, 2000 rounds: each is drawn 800 ± 22 times, 5σ apart at most.
    counts = np.zeros(10)
    for round_number in range(1, 2001):
        counts[partitions(draw(members(10), round_number))] += 1
    spread = 5 * math.sqrt(2000 * 0.4 * 0.6)
    assert counts.sum() == 8000
    assert abs(counts - 800).max() < spread


@every_rule
def test_everyone_is_drawn_at_fraction_1(rule: str) -> None:
    assert partitions(draw(members(7), fraction=1.0, rule=rule)) == list(range(7))


# ------------------------------------------------------------------ in turns


@given(
    count=st.integers(1, 12),
    fraction=st.floats(0.05, 1.0),
    seed=st.integers(0, 2**63 - 1),
    rounds=st.integers(1, 15),
)
def test_in_turns_nobody_has_two_more_than_another(
    count: int, fraction: float, seed: int, rounds: int
) -> None:
    settings = {"fraction": fraction, "minimum": 1, "seed": seed, "rule": "round-robin"}
    turns = np.zeros(count, dtype=int)
    for number in range(1, rounds + 1):
        turns[partitions(draw(members(count), number, **settings))] += 1
        assert turns.max() - turns.min() <= 1


def test_in_turns_a_round_goes_on_where_the_last_one_ended() -> None:
    # 4 of 10: two rounds and half of the third have everyone once; five have everyone twice.
    rounds = [set(partitions(draw(members(10), n, rule="round-robin"))) for n in range(1, 7)]
    assert len(rounds[0] | rounds[1]) == 8
    assert set(range(10)) - (rounds[0] | rounds[1]) <= rounds[2]
    assert rounds[5] == rounds[0]


def test_turns_say_nothing_about_partitions() -> None:
    # Whoever comes first is uniform over 10 partitions: 500 seeds, 50 ± 6.7 each, 5σ at most.
    firsts = np.zeros(10)
    for seed in range(500):
        cohort = draw(members(10), fraction=0.1, minimum=1, seed=seed, rule="round-robin")
        firsts[partitions(cohort)] += 1
    assert abs(firsts - 50).max() < 5 * math.sqrt(500 * 0.1 * 0.9)


# ------------------------------------------------------------------ by examples


def shares(some: list[Member], count: int, rounds: int = 3000) -> np.ndarray:
    """Measure how often each node is drawn."""
    times = np.zeros(len(some))
    for number in range(1, rounds + 1):
        cohort = draw(some, number, fraction=0.01, minimum=count, rule="by-examples")
        times[partitions(cohort)] += 1
    return times / rounds


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [1 / 6, 2 / 6, 3 / 6]),
        # Two of them one after the other: the first stays out as 2, 3 or 3, 2 with probability
        # 2/6·3/4 + 3/6·2/3 = 7/12; likewise the others with 4/15 and 3/20.
        (2, [5 / 12, 11 / 15, 17 / 20]),
        (3, [1, 1, 1]),
    ],
)
def test_who_holds_more_is_drawn_more_often(count: int, expected: list[float]) -> None:
    # 3000 rounds: 5σ is 0.046 at most.
    measured = shares(holding(10, 20, 30), count)
    assert measured == pytest.approx(expected, abs=5 * math.sqrt(0.25 / 3000))
    assert list(measured) == sorted(measured)


def test_equal_holdings_are_drawn_equally_often() -> None:
    assert shares(holding(7, 7, 7, 7), 2) == pytest.approx([0.5] * 4, abs=0.046)


# ------------------------------------------------------------------ more than are needed


@pytest.mark.parametrize(
    ("count", "factor", "available", "expected"),
    [
        (10, 1.0, 30, 10),
        (10, 1.3, 30, 13),
        (10, 1.31, 30, 14),
        (10, 1.3, 12, 12),
        (1, 1.01, 30, 2),
        (50, 1.1, 100, 55),  # 1.1 · 50 = 55.00000000000001
        (0, 2.0, 0, 0),
    ],
)
def test_more_are_asked_than_needed(
    count: int, factor: float, available: int, expected: int
) -> None:
    assert over_selected(count, factor, available) == expected


@pytest.mark.parametrize("factor", [0.99, -1.0, math.inf, math.nan])
def test_fewer_than_needed_are_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=r"strategy\.over-selection to be a number in \[1, inf\)"):
        over_selected(10, factor, 30)


@every_rule
def test_over_selection_draws_so_many_more(rule: str) -> None:
    assert len(draw(members(20), rule=rule, over_selection=1.3)) == 11  # ⌈1.3 · 8⌉
    assert cohort_size(20, fraction=0.4, minimum=2) == 8


# ------------------------------------------------------------------ rules by name


def last(
    members: Sequence[Member], count: int, generator_of: object, round_number: int
) -> Sequence[Member]:
    """Choose the last, in falling order."""
    return members[::-1][:count]


def twice(
    members: Sequence[Member], count: int, generator_of: object, round_number: int
) -> Sequence[Member]:
    """Choose the first again and again."""
    return [members[0]] * count


def padded(
    members: Sequence[Member], count: int, generator_of: object, round_number: int
) -> Sequence[Member]:
    """Choose as many as wanted, and the first once more."""
    return [*members[:count], members[0]]


def stranger(
    members: Sequence[Member], count: int, generator_of: object, round_number: int
) -> Sequence[Member]:
    """Choose somebody who is not there."""
    return [*members[: count - 1], Member(node_id=1, partition=99, examples=5)]


def test_a_rule_of_ones_own_is_a_path() -> None:
    assert partitions(draw(members(5), rule="test_sampling:last")) == [3, 4]


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("test_sampling:twice", "got 2 of which 1 are different and 0 no members"),
        ("test_sampling:padded", "got 3 of which 2 are different and 0 no members"),
        ("test_sampling:stranger", "got 2 of which 2 are different and 1 no members"),
    ],
)
def test_what_is_no_cohort_is_refused(rule: str, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        draw(members(5), rule=rule)


def test_an_unknown_rule_lists_those_that_exist() -> None:
    with pytest.raises(UnknownNameError, match=r"cohort rule 'roundrobin'.*'round-robin'\?"):
        draw(members(5), rule="roundrobin")
