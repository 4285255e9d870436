"""What becomes of one module's factors when nodes trained both: the rules, as plain functions.

The mean that is wanted is ΔW = Σ p_k·B_k·A_k. Means of A and of B do not give it, because
B̄Ā has the cross terms B_i·A_j. Where one factor is common to all nodes there are none: FFA-LoRA
(A is common), RoLoRA (each round one of them is) and Fed-SB (both are, and the core between
them is averaged) are exact under `fedit`, which then is their rule.

Each rule takes (p_k, factors of node k) with Σ p_k = 1, and no product of the size of the
weights is ever formed.
"""

import math
from collections.abc import Sequence

import numpy as np

from fedpeft_app.adapters.decomposition import thin_svd
from fedpeft_app.adapters.products import Array, Factors, product_norm, stack, truncated, widened
from fedpeft_app.errors import AdapterMismatchError

Contributions = Sequence[tuple[float, Factors]]

_SUM_TOLERANCE = 1e-9  # shares of a million nodes, each rounded once


def fedit(contributions: Contributions) -> Factors:
    """Average A and B apart: Ā = Σ p_k·A_k, B̄ = Σ p_k·B_k. The baseline.

    Not exact: B̄Ā − ΔW = −Σ p_k·(B_k − B̄)(A_k − Ā). Exact if either factor is common.

    Args:
        contributions: (share > 0, factors), all of one rank; shares sum to 1.

    Raises:
        ValueError: If there are none, or the shares are no shares.
        AdapterMismatchError: If ranks or sizes differ.

    Reference:
        Zhang et al. 2023, arXiv 2305.05644 (FedIT).
    """
    _require_shares(contributions)
    if len(shapes := {(part.a.shape, part.b.shape) for _, part in contributions}) > 1:
        raise AdapterMismatchError(
            f"Expected factors of one shape to average, got A and B of {sorted(shapes)}. Use "
            f"'flora', 'flexlora' or 'hetlora' where ranks differ."
        )
    return Factors(
        a=np.sum([share * part.a for share, part in contributions], axis=0),
        b=np.sum([share * part.b for share, part in contributions], axis=0),
    )


def flora(contributions: Contributions) -> Factors:
    """Stack: A = [p₁A₁; …; p_K A_K], B = [B₁ … B_K], so that BA = ΔW.

    Exact, for any ranks; the rank is Σ r_k. The weights are on A alone: on both they would
    count twice.

    Args:
        contributions: (share > 0, factors) of any ranks; shares sum to 1.

    Raises:
        ValueError: If there are none, or the shares are no shares.
        AdapterMismatchError: If sizes differ.

    Reference:
        Wang et al. 2024, arXiv 2409.05976 (FLoRA). There the product is merged
        into the frozen weight and nodes start afresh.
    """
    _require_shares(contributions)
    return stack(contributions)


def flexlora(contributions: Contributions, rank: int, energy: float | None = None) -> Factors:
    """Give the best approximation of ΔW of a given rank: B = U·S, A = Vᵀ.

    Exact if ΔW has no higher rank; else the error is the least possible, √Σ_{i>r} σᵢ². Where
    ΔW has a lower rank, A gets further orthonormal rows and B zero columns, which can learn.

    With an energy τ, as FLoRIST, only the first p components stay, with the least p for which
    Σ_{i≤p} σᵢ² ≥ τ·Σ σᵢ²: if the rank has room for p, the relative error is at most √(1 − τ).
    FLoRIST sends these alone; here the rank stays, and the others can be learnt anew.

    Args:
        contributions: (share > 0, factors) of any ranks; shares sum to 1.
        rank: Of the result, from 1.
        energy: τ in (0, 1]; None keeps whatever there is room for.

    Raises:
        ValueError: If there are none, the shares are no shares, or a number is out of range.
        AdapterMismatchError: If sizes differ.

    References:
        Bai et al. 2024, arXiv 2402.11505 (FlexLoRA), which decomposes ΔW itself.
        Ramesh and Dass 2025, arXiv 2506.09199 (FLoRIST), section 3: its factors, and τ.
    """
    _require_shares(contributions)
    return widened(truncated(contributions, rank=rank, energy=energy)[0], rank)


def fedex(contributions: Contributions, rank: int | None = None) -> tuple[Factors, Factors]:
    """Average A and B apart, and give what is then missing: ΔW_res = ΔW − B̄Ā.

    Exact: B̄Ā + ΔW_res = ΔW, if every node, also one that joins later, adds all residuals to
    its frozen weight. ΔW_res = Σ p_k·(B_k − B̄)(A_k − Ā) has rank (K − 1)·r at most. With a
    given rank, the error is √Σ_{i>rank} σᵢ² of ΔW_res, the least possible.

    Args:
        contributions: (share > 0, factors), all of one rank r; shares sum to 1.
        rank: The highest allowed for the residual, from 1; None keeps all of it.

    Returns:
        The mean factors, and the residual's, of rank 0 if nothing is missing.

    Raises:
        ValueError: If there are none, the shares are no shares, or the rank is below 1.
        AdapterMismatchError: If ranks or sizes differ.

    Reference:
        Singhal et al. 2024, arXiv 2410.09432 (FedEx-LoRA).
    """
    mean = fedit(contributions)
    return mean, truncated([*contributions, (-1.0, mean)], rank=rank)[0]


def fedsvd(mean: Factors) -> Factors:
    """Turn the mean B on a common A into factors with orthonormal rows in A: B = U·S, A = Vᵀ.

    Exact: the product has no higher rank than its factors. Only the mean of B is needed, so
    updates may be summed in secret, and every node can compute the same from it, up to
    rounding; where singular values nearly agree, rounding turns their rows far more, and the
    server had better send A. Where B̄A has a lower rank than its factors, A gets further
    orthonormal rows and B zero columns.

    Args:
        mean: The mean of B, and the A that every node had.

    Reference:
        Lee et al. 2025, arXiv 2505.12805 (FedSVD): svd(B̄A) = U·S·Vᵀ.
    """
    return widened(truncated([(1.0, mean)])[0], mean.rank)


def lora_fair(contributions: Contributions, ridge: float = 0.01) -> Factors:
    """Keep Ā, and correct B̄ by the ΔB that brings (B̄ + ΔB)Ā nearest to ΔW at small cost.

    Not exact: what lies outside the rows of Ā is lost. ΔB minimises
    ½·‖ΔW − (B̄ + ΔB)Ā‖² / ‖ΔW‖² + λ·‖ΔB‖² (Frobenius norms).

    The paper minimises S(ΔW, (B̄ + ΔB)Ā) + λ·‖ΔB‖ by gradient descent, with S from the
    cosine. Between matrices of one norm 1 − cos is the first term here, and unlike the
    cosine it also holds the length, so this is that objective with a unique solution. It is
    quadratic and convex; its gradient is zero where, with μ = 2λ·‖ΔW‖²,
    ΔB·(ĀĀᵀ + μI) = (ΔW − B̄Ā)·Āᵀ. With Ā = U·S·Vᵀ: ΔB = (ΔW − B̄Ā)·V·diag(s / (s² + μ))·Uᵀ,
    and the ΔB of least norm where μ and some s are both zero.

    Args:
        contributions: (share > 0, factors), all of one rank; shares sum to 1.
        ridge: λ ≥ 0; 0 projects ΔW onto the rows of Ā.

    Raises:
        ValueError: If there are none, the shares are no shares, or λ is negative.
        AdapterMismatchError: If ranks or sizes differ.

    Reference:
        Bian et al. 2024, arXiv 2411.14961 (LoRA-FAIR), equation 8; λ = 0.01 there.
    """
    if not 0 <= ridge < math.inf:
        raise ValueError(f"Expected a ridge ≥ 0, got {ridge}.")
    mean = fedit(contributions)
    u, s, vt = thin_svd(mean.a)
    penalty = 2 * ridge * product_norm(contributions) ** 2
    real = s > np.finfo(np.float64).eps * max(mean.a.shape) * s.max(initial=0)
    gain = np.divide(s, s**2 + penalty, out=np.zeros_like(s), where=real)
    wanted: Array = np.sum([p * (part.b @ (part.a @ vt.T)) for p, part in contributions], axis=0)
    missing = wanted - mean.b @ (u * s)
    return Factors(a=mean.a, b=mean.b + (missing * gain) @ u.T)


def _require_shares(contributions: Contributions) -> None:
    """Refuse weights that are not positive or do not sum to 1."""
    shares = [share for share, _ in contributions]
    total = math.fsum(shares)
    if not (all(share > 0 for share in shares) and abs(total - 1) <= _SUM_TOLERANCE):
        raise ValueError(
            f"Expected positive shares that sum to 1, got {len(shares)} that sum to {total}. "
            f"Divide the weights by their sum."
        )
