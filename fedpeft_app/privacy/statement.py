"""What a run guarantees, in words: every number of it measured, every assumption named.

After the report of TF Privacy's `compute_dp_sgd_privacy_statement`, and Ponomareva et al. 2023,
arXiv 2303.00654, section 5.3.3 (what to report).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_UNSAFE = " UNSAFE: noise came from a seed, so this holds against nobody who knows it"
_SOURCE = {
    False: "secure: ChaCha20 with keys from the operating system",
    True: "UNSAFE, from privacy.unsafe-seed",
}
_DECIMALS = 2  # of ε, rounded up: what is printed is never less than what was spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one party has spent.

    Attributes:
        epsilon: ε, given that nobody knows who or what was sampled.
        unamplified: ε without that.
    """

    epsilon: float
    unamplified: float


def shown(epsilon: float) -> str:
    """Write ε, rounded up."""
    if not math.isfinite(epsilon):
        return "infinite"
    scale = 10**_DECIMALS
    return f"{math.ceil(epsilon * scale) / scale:.{_DECIMALS}f}"


def sample_statement(
    spent: Mapping[int, Spent],
    *,
    delta: float,
    clipping_norm: float,
    mechanism: str,
    accountant: str,
    unsafe: bool,
    released: Sequence[str],
    apart: Sequence[str],
) -> dict[str, str]:
    """State what sample-level privacy a run guarantees.

    Args:
        spent: Partition → what the node has spent, as it says; at least one.
        delta: δ of each node.
        clipping_norm: C, of an example's gradient over all tensors that train.
        mechanism: Noise, sampling and steps, as far as they are public.
        accountant: What computed ε.
        unsafe: Whether noise came from a seed.
        released: What else left the nodes.
        apart: What the guarantee does not speak of.

    Returns:
        Name → text, in the order in which they are to be read.
    """
    worst = max(one.epsilon for one in spent.values())
    unamplified = max(one.unamplified for one in spent.values())
    nodes = f"{len(spent)} node{'s' * (len(spent) > 1)}"
    each = ", ".join(f"{node}: {shown(one.epsilon)}" for node, one in sorted(spent.items()))
    return {
        "privacy": f"({shown(worst)}, {delta:g})-differential privacy for each training example"
        + (_UNSAFE if unsafe else ""),
        "against": "everyone who sees what nodes send: the server, other nodes, readers of the "
        "adapter",
        "neighbouring": "one example of one node counts for nothing (zero-out; ε as for adding "
        "or removing it); how many examples a node holds is taken as known",
        "mechanism": f"DP-SGD (Abadi et al. 2016) on every node: each example's gradient clipped "
        f"to norm {clipping_norm:g} over all tensors that train, {mechanism}",
        "epsilon": f"max {shown(worst)}, median {shown(_median(spent))} over {nodes} at δ = "
        f"{delta:g}; nodes hold different examples, so the largest is that of the run",
        "epsilon of each node": each,
        "epsilon without amplification by sampling": f"max {shown(unamplified)}",
        **_assumptions(accountant, released, apart, unsafe=unsafe),
    }


def user_statement(
    spent: Spent,
    *,
    delta: float,
    users: int,
    mechanism: str,
    accountant: str,
    unsafe: bool,
    released: Sequence[str],
    apart: Sequence[str],
) -> dict[str, str]:
    """State what user-level privacy a run guarantees; arguments as for `sample_statement`.

    Args:
        spent: What the run has spent.
        delta: δ.
        users: N, the number of nodes.
        mechanism: Clipping, noise, sampling and rounds.
        accountant: What computed ε.
        unsafe: Whether noise and cohorts came from a seed.
        released: What else left the server.
        apart: What the guarantee does not speak of.
    """
    return {
        "privacy": f"({shown(spent.epsilon)}, {delta:g})-differential privacy for each node"
        + (_UNSAFE if unsafe else ""),
        "against": "other nodes, and readers of the adapter and of this card; not against the "
        "server, which sees what each node sends and is trusted (privacy.trust = 'server')",
        "neighbouring": f"all that one of {users} nodes sends counts for nothing (zero-out; ε as "
        f"for adding or removing it); how many nodes there are is taken as known",
        "mechanism": mechanism,
        "epsilon": f"{shown(spent.epsilon)} at δ = {delta:g}",
        "epsilon without amplification by sampling": shown(spent.unamplified),
        **_assumptions(accountant, released, apart, unsafe=unsafe),
    }


def noise_forecast(
    *, noise_multiplier: float, clipping_norm: float, parameters: int, count: float
) -> str:
    """Say how the noise of one step, or round, compares to what it is to hide.

    Args:
        noise_multiplier: z.
        clipping_norm: C.
        parameters: d, the numbers that train.
        count: What the sum is divided by: expected examples of a batch, or nodes of a cohort.

    Returns:
        The expected norm of the noise on the mean, z·C·√d over the count, against C, the most
        that the mean itself can have.
    """
    norm = noise_multiplier * math.sqrt(parameters) / count
    return (
        f"z = {noise_multiplier:.3g} over {parameters:,} numbers and {count:,.4g} contributions "
        f"gives the mean noise of norm {norm * clipping_norm:.3g}: {norm:.3g} times the most that "
        f"the mean itself can have (C = {clipping_norm:g})"
    )


def _assumptions(
    accountant: str, released: Sequence[str], apart: Sequence[str], *, unsafe: bool
) -> dict[str, str]:
    """Give the rows that every statement ends with."""
    return {
        "accountant": accountant,
        "randomness": _SOURCE[unsafe],
        "also released": "; ".join(released) or "nothing",
        "not covered": "; ".join(apart),
    }


def _median(spent: Mapping[int, Spent]) -> float:
    """Give the median ε over nodes."""
    return statistics.median(one.epsilon for one in spent.values())
