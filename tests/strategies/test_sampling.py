"""Cohorts: a function of seed, round and partitions; uniform; never the same node twice."""

import math
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategy_samples import members

from fedpeft_app.strategies.sampling import sample_cohort
from fedpeft_app.strategies.strategy import Member


def partitions(cohort: list[Member]) -> list[int]:
    """List the partitions of a cohort."""
    return [member.partition for member in cohort]


def draw(some: list[Member], round_number: int = 1, **changes: float) -> list[Member]:
    """Draw 40 % of the nodes, at least two."""
    settings = {"fraction": 0.4, "minimum": 2, "seed": 0, **changes}
    return sample_cohort(some, round_number=round_number, **settings)


@given(st.permutations(range(10)), st.integers(0, 2**63 - 1), st.integers(1, 50))
def test_neither_node_ids_nor_their_order_matter(
    order: list[int], seed: int, round_number: int
) -> None:
    first = members(10)
    others = [replace(first[index], node_id=place) for place, index in enumerate(order)]
    assert partitions(draw(first, round_number, seed=seed)) == partitions(
        draw(others, round_number, seed=seed)
    )


def test_seed_round_and_purpose_matter() -> None:
    some = members(40)
    drawn = [
        draw(some),
        draw(some, 2),
        draw(some, seed=1),
        sample_cohort(some, fraction=0.4, minimum=2, seed=0, round_number=1, purpose="other"),
    ]
    assert len({tuple(partitions(cohort)) for cohort in drawn}) == 4


@given(
    st.integers(1, 30),
    st.floats(0.01, 1.0),
    st.integers(1, 40),
    st.integers(1, 9),
)
def test_a_cohort_has_its_size_and_no_node_twice(
    count: int, fraction: float, minimum: int, round_number: int
) -> None:
    drawn = partitions(draw(members(count), round_number, fraction=fraction, minimum=minimum))
    assert len(drawn) == min(count, max(minimum, round(fraction * count)))
    assert drawn == sorted(set(drawn))


def test_in_the_long_run_every_node_trains_as_often() -> None:
    # 4 of 10 nodes a round, 2000 rounds: each is drawn 800 ± 22 times, 5σ apart at most.
    counts = np.zeros(10)
    for round_number in range(1, 2001):
        counts[partitions(draw(members(10), round_number))] += 1
    spread = 5 * math.sqrt(2000 * 0.4 * 0.6)
    assert counts.sum() == 8000
    assert abs(counts - 800).max() < spread


def test_everyone_is_drawn_at_fraction_1() -> None:
    assert partitions(draw(members(7), fraction=1.0)) == list(range(7))
