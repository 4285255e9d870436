"""One module's factors where nodes have different ranks: padding, cutting, serving.

References:
    Cho et al. 2024, arXiv 2401.06432 (HetLoRA: pad, weigh by norm, cut).
    Bai et al. 2024, arXiv 2402.11505 (FlexLoRA: each node gets the best of its own rank).
"""

from collections.abc import Sequence

import numpy as np

from fedpeft_app.adapters.products import Factors, product_norm, truncated, widened
from fedpeft_app.strategies.exact_lora import fedit


def padded(update: Factors, rank: int) -> Factors:
    """Add rows of zeros to A and columns of zeros to B; the product stays.

    For sums only: where both factors are zero, neither has a gradient. What a node is to
    train is `widened` or `served`.

    Args:
        update: The factors.
        rank: The rank to reach, from that of the update.

    Raises:
        ValueError: If the rank is smaller than that of the update.
    """
    extra = rank - update.rank
    if extra < 0:
        raise ValueError(f"Expected a rank from {update.rank} to pad to, got {rank}.")
    return Factors(
        a=np.pad(update.a, ((0, extra), (0, 0))), b=np.pad(update.b, ((0, 0), (0, extra)))
    )


def cut(update: Factors, rank: int) -> Factors:
    """Keep the first rows of A and columns of B.

    Of B = U·S and A = Vᵀ (flexlora, fedsvd) this is the best approximation of that rank; of
    other factors it is whatever happens to stand first.

    Args:
        update: The factors.
        rank: From 1 to the rank of the update.

    Raises:
        ValueError: If the rank is outside that range.
    """
    if not 1 <= rank <= update.rank:
        raise ValueError(f"Expected a rank from 1 to {update.rank} to cut to, got {rank}.")
    return Factors(a=update.a[:rank], b=update.b[:, :rank])


def served(update: Factors, rank: int) -> Factors:
    """Give a node of some rank the best that it can hold: B = U·S, A = Vᵀ.

    Args:
        update: The factors of the server.
        rank: The node's, from 1. Beyond the rank of the product, A gets orthonormal rows and B
            zero columns, which can learn.

    Returns:
        Factors of that rank; the error is √Σ_{i>rank} σᵢ², the least possible.

    Raises:
        ValueError: If the rank is below 1.
    """
    return widened(truncated([(1.0, update)], rank=rank)[0], rank)


def norm_shares(updates: Sequence[Factors]) -> tuple[float, ...]:
    """Give HetLoRA's weights, p_k = ‖B_k·A_k‖_F / Σ_j ‖B_j·A_j‖_F.

    Args:
        updates: The nodes' factors, of any ranks.

    Returns:
        Shares that sum to 1; equal ones if all products are zero.
    """
    norms = [product_norm([(1.0, update)]) for update in updates]
    total = sum(norms)
    return tuple(norm / total if total else 1 / len(norms) for norm in norms)


def hetlora(updates: Sequence[Factors], server: Factors) -> Factors:
    """Average A and B apart, each component over the nodes that have it, weighted by norms.

    Row j of A and column j of B are Σ p_k·x_k / Σ p_k over the nodes of rank j or more; where
    there is none, they stay the server's. Not exact: it has FedIT's cross terms. A node without
    any update has weight 0. The shares p_k are the norms', not the examples'.

    The paper pads with zeros and divides by Σ p_k over all nodes. Then the upper components
    shrink in every round, and one round without a node that has them makes both factors zero:
    they have no gradient from then on. Dividing by the shares of those who have a component is
    ours; where all have it, both rules agree.

    Args:
        updates: The nodes' factors, at least one, each of the server's rank at most.
        server: The factors from which they were cut.

    Raises:
        ValueError: If there are none, or a rank is too high.
        AdapterMismatchError: If sizes differ.

    Reference:
        Cho et al. 2024, arXiv 2401.06432 (HetLoRA: sparsity-weighted aggregation).
    """
    counted = [(p, one) for p, one in zip(norm_shares(updates), updates, strict=True) if p > 0]
    mean = fedit([(share, padded(update, server.rank)) for share, update in counted])
    has = [share * (np.arange(server.rank) < update.rank) for share, update in counted]
    total = np.sum(has, axis=0)
    known, divisor = total > 0, np.where(total > 0, total, 1.0)
    return Factors(
        a=np.where(known[:, None], mean.a / divisor[:, None], server.a),
        b=np.where(known, mean.b / divisor, server.b),
    )
