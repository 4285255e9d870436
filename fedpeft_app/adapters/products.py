"""Low-rank algebra: sums of products BA that are never formed.

A module's update is s·BA with A `(r, in)` and B `(out, r)`. A weighted sum Σ wₖ·BₖAₖ is itself
a product of stacked factors, [B₁ … B_K]·[w₁A₁; …; w_KA_K], so its norm and its singular value
decomposition cost what the factors do; the `(out, in)` matrix is never made.

References:
    Hu et al. 2021, arXiv 2106.09685 (LoRA).
    Wang et al. 2024, arXiv 2409.05976 (FLoRA: stacking).
    Ramesh and Dass 2025, arXiv 2506.09199, section 3 (FLoRIST: the decomposition by factors).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedpeft_app.adapters.decomposition import thin_svd
from fedpeft_app.errors import AdapterMismatchError

Array = npt.NDArray[np.float64]
Split = Literal["left", "balanced"]

_NOISE = 4 * float(np.finfo(np.float64).eps)  # of two QRs, a product and an SVD, per component


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Factors:
    """One module's update b @ a, without its scaling.

    Attributes:
        a: `(r, in)`, float64.
        b: `(out, r)`, float64.

    Raises:
        AdapterMismatchError: If they are not float64 matrices of one rank.
    """

    a: Array
    b: Array

    def __post_init__(self) -> None:
        doubles = self.a.dtype == self.b.dtype == np.float64
        if not (doubles and self.a.ndim == self.b.ndim == 2 and self.b.shape[1] == len(self.a)):
            raise AdapterMismatchError(
                f"Expected float64 factors A (r, in) and B (out, r), got {self.a.dtype} "
                f"{self.a.shape} and {self.b.dtype} {self.b.shape}."
            )

    @property
    def rank(self) -> int:
        """Number of rows of A, which bounds the rank of the product."""
        return len(self.a)


Weighted = Sequence[tuple[float, Factors]]


def stack(weighted: Weighted) -> Factors:
    """Write Σ wₖ·BₖAₖ as one product, with the weights on A.

    Args:
        weighted: (weight, factors), at least one, of any ranks; weights may be negative.

    Returns:
        [w₁A₁; …; w_KA_K] and [B₁ … B_K], of rank Σ rₖ.

    Raises:
        ValueError: If there is nothing to stack, or a number is not finite.
        AdapterMismatchError: If the factors belong to modules of different sizes.
    """
    if not weighted:
        raise ValueError("Expected at least one pair of factors, got none.")
    sizes = {(len(part.b), part.a.shape[1]) for _, part in weighted}
    if len(sizes) > 1:
        raise AdapterMismatchError(
            f"Expected factors of one module, got products of sizes {sorted(sizes)}."
        )
    a = np.concatenate([weight * part.a for weight, part in weighted])
    b = np.concatenate([part.b for _, part in weighted], axis=1)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("Expected finite weights and factors, got NaN or infinity among them.")
    return Factors(a=a, b=b)


def product_norm(weighted: Weighted) -> float:
    """Give ‖Σ wₖ·BₖAₖ‖_F from the triangles of the stacked factors.

    B = Q_B·R_B and Aᵀ = Q_A·R_A have orthonormal Q, so the norm is ‖R_B·R_Aᵀ‖_F. Gram matrices
    would be cheaper, but they square the rounding: of a sum that cancels, only the first
    eight digits would be seen to.

    Args:
        weighted: As for `stack`.

    Raises:
        ValueError: As `stack`.
        AdapterMismatchError: As `stack`.
    """
    tall = stack(weighted)
    return float(np.linalg.norm(_triangle(tall.b) @ _triangle(tall.a.T).T))


def truncated(
    weighted: Weighted,
    *,
    rank: int | None = None,
    energy: float | None = None,
    split: Split = "left",
) -> tuple[Factors, Array]:
    """Give the best approximation of Σ wₖ·BₖAₖ that has a smaller rank.

    With B = Q_B·R_B and Aᵀ = Q_A·R_A, the singular values of the small core R_B·R_Aᵀ = U·S·Vᵀ
    are those of the sum, and its singular vectors are Q_B·U and Q_A·V (Eckart and Young 1936:
    the first of them are the best approximation).

    Each component's sign is chosen so that the first of the large entries of its row of Vᵀ is
    positive: the same factors on every machine, up to rounding, where singular values differ.

    Args:
        weighted: As for `stack`.
        rank: Keep at most this many components, from 1.
        energy: Keep no more components than needed for this share of Σ σ², in (0, 1].
        split: "left" gives B = U·S and A = Vᵀ with orthonormal rows; "balanced" gives both √S.

    Returns:
        The factors, and every singular value of the sum in falling order. Components that are
        nothing but rounding are never kept, so that a sum of zero has factors of rank 0.

    Raises:
        ValueError: As `stack`, or if rank or energy is out of range.
        AdapterMismatchError: As `stack`.

    Reference:
        Ramesh and Dass 2025, arXiv 2506.09199, section 3; a QR decomposition of the stacks
        does what its SVD does there, for less.
    """
    _require_ranges(rank, energy)
    tall = stack(weighted)
    q_left, r_left = np.linalg.qr(tall.b)
    q_right, r_right = np.linalg.qr(tall.a.T)
    u, values, vt = thin_svd(r_left @ r_right.T)
    largest = float(np.linalg.norm(r_left) * np.linalg.norm(r_right))  # what may have cancelled
    kept = _components(values, _NOISE * tall.rank * largest, rank, energy)
    a, b = vt[:kept] @ q_right.T, q_left @ u[:, :kept]
    signs, roots = _signs(a), np.sqrt(values[:kept])
    on_a, on_b = (roots, roots) if split == "balanced" else (np.ones(kept), values[:kept])
    return Factors(a=(signs * on_a)[:, None] * a, b=b * (signs * on_b)), values


def widened(update: Factors, rank: int) -> Factors:
    """Add components that change nothing and can learn: unit rows to A, zero columns to B.

    Zeros in both would stay zero for ever: each factor's gradient is a product with the other.
    The rows are orthonormal to one another and to those of A, and the same on every machine.

    Args:
        update: The factors.
        rank: The rank to reach, from that of the update. Once A spans all inputs there are no
            such rows left, and the rest are zeros.

    Raises:
        ValueError: If the rank is smaller than that of the update.
    """
    extra, inputs = rank - update.rank, update.a.shape[1]
    if extra < 0:
        raise ValueError(f"Expected a rank from {update.rank} to widen to, got {rank}.")
    rows = np.zeros((extra, inputs))
    free = min(extra, max(0, inputs - update.rank))
    basis = np.linalg.qr(update.a.T)[0]
    drawn = np.random.default_rng(0).standard_normal((inputs, free))  # any generic directions
    for _ in range(2):  # the second time takes out what rounding left
        drawn -= basis @ (basis.T @ drawn)
    q, r = np.linalg.qr(drawn)
    rows[:free] = (q * np.sign(np.diag(r))).T
    columns = np.zeros((len(update.b), extra))
    return Factors(a=np.concatenate([update.a, rows]), b=np.hstack([update.b, columns]))


def _triangle(matrix: Array) -> Array:
    """Give R of a QR decomposition."""
    return np.asarray(np.linalg.qr(matrix, mode="r"))


def _components(values: Array, noise: float, rank: int | None, energy: float | None) -> int:
    """Count the singular values to keep, of those that are more than rounding."""
    kept = int(np.count_nonzero(values > noise))
    kept = kept if rank is None else min(kept, rank)
    if energy is None or kept == 0:
        return kept
    shares = np.cumsum(values**2)
    return min(kept, int(np.searchsorted(shares, energy * shares[-1])) + 1)


def _require_ranges(rank: int | None, energy: float | None) -> None:
    """Refuse a rank below 1 and a share outside (0, 1]."""
    if rank is not None and rank < 1:
        raise ValueError(f"Expected a rank from 1, got {rank}.")
    if energy is not None and not 0 < energy <= 1:
        raise ValueError(f"Expected an energy in (0, 1], got {energy}.")


def _signs(rows: Array) -> Array:
    """Give ±1 for each row: the sign of the first entry that is nearly as large as any."""
    sizes = np.abs(rows)
    # "nearly", or rounding would choose between entries that are equal but for their sign
    first = np.argmax(sizes >= 0.999 * sizes.max(axis=1, keepdims=True), axis=1)
    return np.where(rows[np.arange(len(rows)), first] < 0, -1.0, 1.0)
