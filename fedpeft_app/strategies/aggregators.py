"""Aggregators: the deltas of a round, decoded one at a time, become one mean delta.

What each costs and withstands, for n deltas of d values:

| aggregator  | memory beyond the messages         | attackers it withstands       | weights |
|-------------|------------------------------------|-------------------------------|---------|
| Mean        | 12 d bytes                         | none                          | used    |
| NormBounded | those of `then`, and 12 d bytes    | each one's pull is bounded    | `then`  |
| Median      | a table and 24 d bytes             | less than half                | ignored |
| TrimmedMean | a table and 24 d bytes             | the share `trim`              | ignored |
| Krum        | a table, 24 d bytes, 24 n² bytes   | f of at least 2 f + 3         | ignored |
| MultiKrum   | as Krum                            | as Krum                       | ignored |

12 d bytes are a float64 sum and a decoded float32 delta; tables are explained in `robust`. The
last four ignore weights because those are claims of the nodes: who states a million examples
would outvote the others.

Every aggregator refuses a delta that is not finite. The guard rejects such replies before, and
can name the node.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from fedpeft_app.adapters.algebra import all_finite
from fedpeft_app.adapters.state import Vector
from fedpeft_app.errors import AdapterMismatchError
from fedpeft_app.strategies.ranges import require_number

MeanDelta = npt.NDArray[np.float64]

_BLOCK = 16_384  # values: their float64 products, 128 KiB, are still in the cache when added
_BELOW_ONE = 1 - 2**-23  # makes up for rounding to float32, which adds up to 2⁻²⁴ of a value


class Deltas(Protocol):
    """The deltas of a round in the fixed order of the partitions, as often as one likes.

    A list of pairs is one; in a run each delta is decoded when its turn comes.
    """

    def __iter__(self) -> Iterator[tuple[Vector, float]]:
        """Give (delta, weight): `(d,)` in float32; examples trained on, > 0."""
        ...

    def __len__(self) -> int:
        """Count them."""
        ...


class Aggregator(Protocol):
    """A rule by which the deltas of a round become one."""

    @property
    def needs_individual(self) -> bool:
        """Whether it has to see single deltas, which secure aggregation would hide."""
        ...

    def __call__(self, deltas: Deltas) -> MeanDelta:
        """Fold the deltas of a round.

        Args:
            deltas: At least one, all of the same size d.

        Returns:
            `(d,)`, float64.

        Raises:
            ValueError: If there are none, a weight is not positive and finite, or a delta is
                not finite.
            AdapterMismatchError: If a delta has another size than the first.
            QuorumError: If they are too few for this rule.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """Σ w δ / Σ w in float64, folded in the order given: the same bits in the same order.

    Args:
        weights: "examples" for the weights of the deltas, "uniform" for one weight for all.

    Raises:
        ValueError: If `weights` is neither.

    Reference:
        McMahan et al. 2017, arXiv 1602.05629, Algorithm 1 (weights n_k / n).
    """

    weights: str = "examples"
    needs_individual: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.weights not in ("examples", "uniform"):
            raise ValueError(
                f"Expected weights to be 'examples' or 'uniform', got {self.weights!r}."
            )

    def __call__(self, deltas: Deltas) -> MeanDelta:
        """Fold the deltas; see `Aggregator`."""
        return fold_mean(deltas, uniform=self.weights == "uniform")


@dataclass(frozen=True, slots=True, kw_only=True)
class NormBounded:
    """Scale each delta down to a norm of at most C, then aggregate.

    One delta of weight w among a weight of W moves a mean by at most C w / W. Which deltas
    stand out is not judged: many attackers together still steer, within the bound.

    Args:
        max_norm: The bound C on the Euclidean norm of a delta, in (0, inf).
        then: What folds the bounded deltas.

    Raises:
        ValueError: If `max_norm` is out of its range.
        TypeError: If `then` is no aggregator.

    Guarantee:
        No delta that `then` sees has a norm above C, but for the rounding of the norm itself
        in float64. A shorter delta, a delta of zeros among them, is not touched.

    Reference:
        Sun et al. 2019, arXiv 1911.07963, norm thresholding of updates.
    """

    max_norm: float
    then: Aggregator = field(default_factory=Mean)
    needs_individual: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_number("max_norm", self.max_norm, 0, math.inf, or_low=False)
        if not callable(self.then):
            raise TypeError(f"Expected then to be an aggregator, got {self.then!r}.")

    def __call__(self, deltas: Deltas) -> MeanDelta:
        """Fold the deltas; see `Aggregator`."""
        return self.then(_Bounded(deltas, self.max_norm))


@dataclass(frozen=True, slots=True)
class _Bounded:
    """Deltas, each scaled down to a norm when its turn comes."""

    deltas: Deltas
    max_norm: float

    def __len__(self) -> int:
        return len(self.deltas)

    def __iter__(self) -> Iterator[tuple[Vector, float]]:
        return map(self._bound, self.deltas)

    def _bound(self, pair: tuple[Vector, float]) -> tuple[Vector, float]:
        """Scale one delta in float64; one that is not finite has no norm to compare."""
        delta, weight = pair
        _require_finite(delta)
        wide = delta.astype(np.float64)  # squares of float32 do not fit float32
        norm = float(np.linalg.norm(wide))
        if norm <= self.max_norm:
            return delta, weight
        wide *= self.max_norm / norm * _BELOW_ONE
        return wide.astype(np.float32), weight


def fold_mean(pairs: Iterable[tuple[Vector, float]], *, uniform: bool) -> MeanDelta:
    """Fold deltas into their mean one at a time, holding one.

    Args:
        pairs: (delta, weight), read once.
        uniform: Whether every delta counts the same, whatever its weight.

    Returns:
        `(d,)`.

    Raises:
        ValueError: As `Aggregator` says.
        AdapterMismatchError: Likewise.
    """
    total: MeanDelta | None = None
    products = np.empty(_BLOCK)
    weights = 0.0
    for delta, stated in pairs:
        total = np.zeros(delta.size) if total is None else total
        require_fit(delta, stated, total.size)
        weight = 1.0 if uniform else stated
        _add(total, delta, weight, products)
        weights += weight
        del delta  # or it would live on while the next is decoded
    if total is None:
        raise ValueError("Expected at least one delta to aggregate, got none.")
    total /= weights
    return total


def _add(total: MeanDelta, delta: Vector, weight: float, products: MeanDelta) -> None:
    """Add weight · delta to the total, block by block; products is scratch space."""
    for start in range(0, total.size, _BLOCK):
        part = total[start : start + _BLOCK]
        product = products[: part.size]
        product[:] = delta[start : start + _BLOCK]
        product *= weight
        part += product


def require_fit(delta: Vector, weight: float, size: int) -> None:
    """Refuse what cannot be folded with the others.

    Args:
        delta: A decoded delta.
        weight: Its weight.
        size: Number d of values of the first one.

    Raises:
        ValueError: If the weight is not positive and finite, or the delta is not finite.
        AdapterMismatchError: If its shape is not `(size,)`.
    """
    if not 0 < weight < math.inf:  # NaN compares false
        raise ValueError(f"Expected a positive, finite aggregation weight, got {weight}.")
    if delta.shape != (size,):
        raise AdapterMismatchError(
            f"Expected a delta of {size} values, as the first one has, got {delta.shape}."
        )
    _require_finite(delta)


def _require_finite(delta: Vector) -> None:
    """Refuse NaN and infinity."""
    if not all_finite(delta):
        raise ValueError(
            "Expected finite deltas, got one with NaN or infinite values. Fold only replies "
            "that the guard has admitted."
        )
