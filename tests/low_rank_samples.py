"""Low-rank factors to test with: drawn at random, or small integers that degenerate often."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedpeft_app.adapters.products import Factors

Weighted = list[tuple[float, Factors]]


def pair(b: object, a: object) -> Factors:
    """Make factors from nested lists."""
    return Factors(a=np.array(a, dtype=np.float64), b=np.array(b, dtype=np.float64))


def product(update: Factors) -> np.ndarray:
    """Form b @ a."""
    return update.b @ update.a


def dense(weighted: Sequence[tuple[float, Factors]]) -> np.ndarray:
    """Form Σ w·b@a, which the code under test never does."""
    return np.sum([weight * product(update) for weight, update in weighted], axis=0)


def missed(weighted: Sequence[tuple[float, Factors]], *results: Factors) -> float:
    """Give ‖ΔW − Σ results‖_F / ‖ΔW‖_F, where ΔW = Σ w·b@a is not zero."""
    wanted = dense(weighted)
    found = np.sum([product(result) for result in results], axis=0)
    return float(np.linalg.norm(wanted - found) / np.linalg.norm(wanted))


def random_factors(out: int, inputs: int, rank: int, seed: int) -> Factors:
    """Draw factors of full rank, with float32 values as states have."""
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((rank, inputs), dtype=np.float32)
    b = generator.standard_normal((out, rank), dtype=np.float32)
    return pair(b, a)


def equal_shares(updates: Sequence[Factors]) -> Weighted:
    """Give each the same share."""
    return [(1 / len(updates), update) for update in updates]


def as_states_are(update: Factors) -> Factors:
    """Round to float32 and back."""
    return pair(update.b.astype(np.float32), update.a.astype(np.float32))


@st.composite
def contributions(draw: st.DrawFn, *, one_rank: bool = False) -> Weighted:
    """Draw shares and factors of small integers: zeros, ties and lost ranks are common."""
    out, inputs = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    count = draw(st.integers(1, 4))
    shared = draw(st.integers(1, 3))
    weights = draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
    ranks = [shared if one_rank else draw(st.integers(1, 3)) for _ in range(count)]
    numbers = st.integers(-3, 3).map(float)
    return [
        (
            weight / sum(weights),
            Factors(
                a=draw(hnp.arrays(np.float64, (rank, inputs), elements=numbers)),
                b=draw(hnp.arrays(np.float64, (out, rank), elements=numbers)),
            ),
        )
        for weight, rank in zip(weights, ranks, strict=True)
    ]
