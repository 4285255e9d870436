"""What a run guarantees, in words: what was done and what it spent, and every assumption named.

After the report of TF Privacy's `compute_dp_sgd_privacy_statement`, and Ponomareva et al. 2023,
arXiv 2303.00654, section 5.3.3 (what to report).
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from decimal import ROUND_CEILING, Context, Decimal

from fedpeft_app.privacy.spent import Spent

_UNSAFE = " UNSAFE: noise came from a seed, so this holds against nobody who knows it"
_IF_DIFFERENT = "; only if nodes hold different examples, which is not known of all (see joined)"
_SOURCE = {
    False: "secure: ChaCha20 with keys from the operating system",
    True: "UNSAFE, from privacy.unsafe-seed",
}
_DECIMALS, _DIGITS, _MOST_DECIMALS = 2, 3, 9  # of ε: so many at least, and of a small one more
_LISTED = 10  # nodes; there may be thousands, and the journal has all of them
_UNAMPLIFIED = "epsilon without amplification by sampling"
_EXACT = Context(prec=400)  # float64 has no more digits before the point


def shown(epsilon: float) -> str:
    """Write ε, rounded up: never less than what was spent.

    Two decimals, and of a small ε three digits: no target of so many is exceeded on paper only.
    """
    if not math.isfinite(epsilon):
        return "infinite"
    exact = Decimal(repr(epsilon))
    small = _DIGITS - 1 - exact.adjusted() if exact else _DECIMALS
    decimals = min(max(_DECIMALS, small), _MOST_DECIMALS)
    return f"{exact.quantize(Decimal(1).scaleb(-decimals), ROUND_CEILING, _EXACT):f}"


def counted(number: float, noun: str) -> str:
    """Write a number of things.

    Args:
        number: How many; whole, or an average.
        noun: One of them.
    """
    written = f"{number:,.0f}" if number == round(number) else f"{number:,.4g}"
    return f"{written} {noun}{'s' * (number != 1)}"


def between(numbers: Collection[float], unit: str = "") -> str:
    """Write the least and the largest of numbers, or the one that they all are.

    Args:
        numbers: At least one.
        unit: What stands behind them, in the singular, if anything.
    """
    least, most = min(numbers), max(numbers)
    texts = [f"{one:,}" if isinstance(one, int) else f"{one:g}" for one in (least, most)]
    text = " to ".join(dict.fromkeys(texts))
    return f"{text} {unit}{'s' * (most != 1)}" if unit else text


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
    doubtful: tuple[Collection[int], Collection[int]] = ((), ()),
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
        doubtful: Nodes that joined and may hold the examples of others, and these, which are gone.

    Returns:
        Name → text, in the order in which they are to be read.
    """
    return {
        "privacy": _headline(spent, unknown, delta)
        + (_IF_DIFFERENT if doubtful[0] else "")
        + (_UNSAFE if unsafe else ""),
        "against": "everyone who sees what nodes send: the server, other nodes, readers of the "
        "adapter; as long as server and who started the run are honest, if curious: nodes take "
        "settings and code from them",
        "neighbouring": "one example of one node counts for nothing (zero-out; ε as for adding "
        "or removing it); how many examples a node holds is taken as known",
        "mechanism": f"DP-SGD (Abadi et al. 2016) on every node: each example's gradient clipped "
        f"to norm {clipping_norm:g} over all tensors that train, {mechanism}",
        **_epsilons(spent, unknown, delta, sure=not doubtful[0]),
        **_maybe_again(*doubtful),
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
        "neighbouring": f"all that one of {counted(users, 'node')} sends counts for nothing "
        f"(zero-out; ε as for adding or removing it); how many nodes there are is taken as known",
        "mechanism": mechanism,
        "epsilon": f"{shown(spent.epsilon)} at δ = {delta:g}",
        _UNAMPLIFIED: f"{shown(spent.unamplified)}, for those who find out which nodes take part "
        f"in which round",
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
    return f"{text}, but for those of {_listed(unknown)}: not known" if unknown else text


def _epsilons(
    spent: Mapping[int, Spent], unknown: Collection[int], delta: float, *, sure: bool
) -> dict[str, str]:
    """Give the rows about ε of nodes; `sure` that they hold different examples."""
    known = [one for node, one in spent.items() if node not in unknown]
    rows = {}
    if known:
        epsilons = [one.epsilon for one in known]
        rows["epsilon"] = (
            f"max {shown(max(epsilons))}, median {shown(statistics.median(epsilons))} over "
            f"{counted(len(known), 'node')} at δ = {delta:g}; "
            + (
                "nodes hold different examples, so "
                if sure
                else "if nodes hold different examples, "
            )
            + "the largest is that of the run"
        )
    if spent:
        rows["epsilon of each node"] = _each(spent, unknown)
    if known:
        most = max(one.unamplified for one in known)
        rows[_UNAMPLIFIED] = (
            f"max {shown(most)}, for those who find out which examples are in which batch"
        )
    if unknown:
        rows["not known"] = (
            f"what {_listed(unknown)} spent in rounds without a good reply of theirs; their own "
            f"books have it"
        )
    return rows


def _maybe_again(joined: Collection[int], gone: Collection[int]) -> dict[str, str]:
    """Give the row about nodes that may be others who lost their homes."""
    if not joined:
        return {}
    return {
        "joined": f"{_listed(joined)} came later and may hold the examples of {_listed(gone)}, now "
        f"gone: without names nobody can tell a newcomer from one that lost its home, and with it "
        f"its book. If so, what both spent adds up for these examples"
    }


def _each(spent: Mapping[int, Spent], unknown: Collection[int]) -> str:
    """List nodes; of many, those who have spent most."""
    most = sorted(spent, key=lambda node: (-spent[node].epsilon, node))[:_LISTED]
    texts = [
        f"{node}: {'at least ' * (node in unknown)}{shown(spent[node].epsilon)}"
        for node in sorted(most)
    ]
    more = len(spent) - len(most)
    rest = f"; {more:,} more spent no more than the least of these" if more else ""
    return f"{', '.join(texts)}{rest}"


def _listed(nodes: Collection[int]) -> str:
    """Name nodes by their partitions; of many, the first."""
    first = sorted(nodes)[:_LISTED]
    more = f" and {len(nodes) - len(first):,} more" * (len(nodes) > len(first))
    return f"node{'s' * (len(nodes) > 1)} {', '.join(map(str, first))}{more}"
