"""What a run guarantees, in words: every number of it measured, every assumption named.

After the report of TF Privacy's `compute_dp_sgd_privacy_statement`, and Ponomareva et al. 2023,
arXiv 2303.00654, section 5.3.3 (what to report).
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
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
    unknown: Collection[int] = (),
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
        spent: Partition → what the node has spent, as it said last; at least one, or one unknown.
        unknown: Partitions of nodes that may have spent more since, or anything at all. What is
            stated holds for the others.
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
    return {
        "privacy": _headline(spent, unknown, delta) + (_UNSAFE if unsafe else ""),
        "against": "everyone who sees what nodes send: the server, other nodes, readers of the "
        "adapter; as long as server and who started the run are honest, if curious: nodes take "
        "settings and code from them",
        "neighbouring": "one example of one node counts for nothing (zero-out; ε as for adding "
        "or removing it); how many examples a node holds is taken as known",
        "mechanism": f"DP-SGD (Abadi et al. 2016) on every node: each example's gradient clipped "
        f"to norm {clipping_norm:g} over all tensors that train, {mechanism}",
        **_epsilons(spent, unknown, delta),
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


def _headline(spent: Mapping[int, Spent], unknown: Collection[int], delta: float) -> str:
    """State the guarantee, for those for whom it is known."""
    known = [one.epsilon for node, one in spent.items() if node not in unknown]
    if not known:
        return "not known: no node that was asked has told all that it spent"
    text = f"({shown(max(known))}, {delta:g})-differential privacy for each training example"
    return f"{text}, but for those of nodes {_listed(unknown)}: not known" if unknown else text


def _epsilons(spent: Mapping[int, Spent], unknown: Collection[int], delta: float) -> dict[str, str]:
    """Give the rows about ε of nodes."""
    known = [one for node, one in spent.items() if node not in unknown]
    rows = {}
    if known:
        epsilons = [one.epsilon for one in known]
        nodes = f"{len(known)} node{'s' * (len(known) > 1)}"
        rows["epsilon"] = (
            f"max {shown(max(epsilons))}, median {shown(statistics.median(epsilons))} over {nodes} "
            f"at δ = {delta:g}; nodes hold different examples, so the largest is that of the run"
        )
    if spent:
        rows["epsilon of each node"] = ", ".join(
            f"{node}: {'at least ' * (node in unknown)}{shown(one.epsilon)}"
            for node, one in sorted(spent.items())
        )
    if known:
        most = max(one.unamplified for one in known)
        rows["epsilon without amplification by sampling"] = f"max {shown(most)}"
    if unknown:
        rows["not known"] = (
            f"what nodes {_listed(unknown)} spent in rounds in which they sent no good reply; "
            f"their own books have it"
        )
    return rows


def _listed(nodes: Collection[int]) -> str:
    """List partitions."""
    return ", ".join(map(str, sorted(nodes)))
