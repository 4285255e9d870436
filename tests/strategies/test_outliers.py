"""Updates that are far longer than the others."""

import numpy as np
import pytest
from strategy_samples import members, reply_of, state_of

from fedpeft_app.adapters import AdapterSpec
from fedpeft_app.strategies.outliers import too_long


def found(spec: AdapterSpec, lengths: list[float], bound: float) -> dict[int, str]:
    """Look at updates of given norms."""
    share = 1 / np.sqrt(spec.size)
    everyone = members(len(lengths))
    replies = [
        reply_of(member, state_of(spec, length * share), 1.0)
        for member, length in zip(everyone, lengths, strict=True)
    ]
    return too_long(replies, bound)


def test_only_what_exceeds_the_bound_is_too_long(spec: AdapterSpec) -> None:
    assert list(found(spec, [1.0, 2.0, 3.0, 21.0], bound=8.0)) == [3]  # median 2.5
    assert found(spec, [1.0, 2.0, 3.0, 19.0], bound=8.0) == {}


def test_the_reason_says_what_was_sent_and_what_is_usual(spec: AdapterSpec) -> None:
    (reason,) = found(spec, [1.0, 1.0, 50.0], bound=10.0).values()
    assert reason == (
        "sent an update of norm 50, more than 10 times the median of the round's, 1 "
        "(strategy.norm-bound)"
    )


@pytest.mark.parametrize("lengths", [[], [1e4], [1.0, 1e4], [0.0, 0.0, 1.0]])
def test_where_nothing_can_be_compared_nothing_is_too_long(
    spec: AdapterSpec, lengths: list[float]
) -> None:
    assert found(spec, lengths, bound=2.0) == {}


def test_zero_is_no_bound(spec: AdapterSpec) -> None:
    assert found(spec, [1.0, 1.0, 1e4], bound=0.0) == {}


@pytest.mark.parametrize("seed", range(20))
def test_most_updates_always_pass(spec: AdapterSpec, seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = list(10 ** generator.uniform(-3, 3, size=int(generator.integers(3, 10))))
    assert len(found(spec, lengths, generator.uniform(1, 100))) <= len(lengths) // 2
