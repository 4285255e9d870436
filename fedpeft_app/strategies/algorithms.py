"""The federated algorithms by name: each a row that says which pair it is.

Reference:
    FedAvg: McMahan et al. 2017, arXiv 1602.05629; on adapters: Sun et al. 2022,
    arXiv 2210.01708. The others name theirs in `aggregators`, `robust` and `server_optimizers`.
"""

import math
from collections.abc import Mapping
from typing import Any

from fedpeft_app.adapters.products import Factors
from fedpeft_app.registry import Registry
from fedpeft_app.strategies import exact_lora, hetero_lora
from fedpeft_app.strategies.aggregators import Aggregator, Mean, NormBounded
from fedpeft_app.strategies.alternating import Alternating
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.exact_lora import Contributions
from fedpeft_app.strategies.low_rank import FedSvd, LowRank
from fedpeft_app.strategies.ranges import require_number
from fedpeft_app.strategies.residual_lora import FedEx, Flora
from fedpeft_app.strategies.robust import Krum, Median, MultiKrum, TrimmedMean
from fedpeft_app.strategies.scaffold import Scaffold
from fedpeft_app.strategies.server_optimizers import Adagrad, Adam, ServerOptimizer, Sgd, Yogi

AGGREGATORS = Registry(
    kind="aggregator",
    group="fedpeft.aggregators",
    builtin={
        "mean": "fedpeft_app.strategies.aggregators:Mean",
        "norm-bounded": "fedpeft_app.strategies.aggregators:NormBounded",
        "median": "fedpeft_app.strategies.robust:Median",
        "trimmed-mean": "fedpeft_app.strategies.robust:TrimmedMean",
        "krum": "fedpeft_app.strategies.robust:Krum",
        "multi-krum": "fedpeft_app.strategies.robust:MultiKrum",
    },
)
SERVER_OPTIMIZERS = Registry(
    kind="server optimizer",
    group="fedpeft.server_optimizers",
    builtin={
        "sgd": "fedpeft_app.strategies.server_optimizers:Sgd",
        "adam": "fedpeft_app.strategies.server_optimizers:Adam",
        "yogi": "fedpeft_app.strategies.server_optimizers:Yogi",
        "adagrad": "fedpeft_app.strategies.server_optimizers:Adagrad",
    },
)
Part = str | Mapping[str, Any]  # a name, or {"name": …} and its arguments


def aggregator(part: Part) -> Aggregator:
    """Make an aggregator.

    Args:
        part: A name or path; with arguments, `{"name": "trimmed-mean", "trim": 0.1}`.

    Raises:
        UnknownNameError: If there is none of that name.
        TypeError: If it has no such argument.
        ValueError: If an argument is out of its range, or there is no name.
    """
    name, arguments = _read(part, "aggregator")
    if "then" in arguments:
        arguments["then"] = aggregator(arguments["then"])
    made: Aggregator = AGGREGATORS.get(name)(**arguments)
    return made


def server_optimizer(part: Part) -> ServerOptimizer:
    """Make a server optimiser; arguments and errors as for `aggregator`."""
    name, arguments = _read(part, "server optimizer")
    made: ServerOptimizer = SERVER_OPTIMIZERS.get(name)(**arguments)
    return made


def fedavg(weights: str = "examples", optimizer: Part = "sgd") -> Composition:
    """Average, weighted by "examples" or "uniform"."""
    return Composition("fedavg", Mean(weights=weights), server_optimizer(optimizer))


def fedavgm(
    lr: float = 1.0, momentum: float = 0.9, *, nesterov: bool = False, folded_by: Part = "mean"
) -> Composition:
    """Average, then momentum on the server."""
    rule = Sgd(lr=lr, momentum=momentum, nesterov=nesterov)
    return Composition("fedavgm", aggregator(folded_by), rule)


def fedadam(*, folded_by: Part = "mean", **arguments: float) -> Composition:
    """Average, then Adam on the server; the arguments are Adam's."""
    return Composition("fedadam", aggregator(folded_by), Adam(**arguments))


def fedyogi(*, folded_by: Part = "mean", **arguments: float) -> Composition:
    """Average, then Yogi on the server; the arguments are Yogi's."""
    return Composition("fedyogi", aggregator(folded_by), Yogi(**arguments))


def fedadagrad(*, folded_by: Part = "mean", **arguments: float) -> Composition:
    """Average, then Adagrad on the server; the arguments are Adagrad's."""
    return Composition("fedadagrad", aggregator(folded_by), Adagrad(**arguments))


def median(optimizer: Part = "sgd") -> Composition:
    """Take the coordinate-wise median."""
    return Composition("median", Median(), server_optimizer(optimizer))


def trimmed_mean(trim: float = 0.1, optimizer: Part = "sgd") -> Composition:
    """Leave out the share `trim` at each end of every coordinate."""
    return Composition("trimmed-mean", TrimmedMean(trim=trim), server_optimizer(optimizer))


def krum(byzantine: int = 1, optimizer: Part = "sgd") -> Composition:
    """Take the delta nearest to its neighbours."""
    return Composition("krum", Krum(byzantine=byzantine), server_optimizer(optimizer))


def multi_krum(byzantine: int = 1, keep: int = 2, optimizer: Part = "sgd") -> Composition:
    """Average the deltas nearest to their neighbours."""
    rule = MultiKrum(byzantine=byzantine, keep=keep)
    return Composition("multi-krum", rule, server_optimizer(optimizer))


def norm_bounded(
    max_norm: float = 1.0, folded_by: Part = "mean", optimizer: Part = "sgd"
) -> Composition:
    """Scale deltas down to a norm, then fold them."""
    rule = NormBounded(max_norm=max_norm, then=aggregator(folded_by))
    return Composition("norm-bounded", rule, server_optimizer(optimizer))


def fedprox(mu: float = 0.01, *, folded_by: Part = "mean", optimizer: Part = "sgd") -> Composition:
    """Average; nodes are pulled back to where they set out, with strength `mu`."""
    require_number("mu", mu, 0, math.inf)
    parts = aggregator(folded_by), server_optimizer(optimizer)
    return Composition("fedprox", *parts, options={"proximal-mu": float(mu)})


def scaffold(optimizer: Part = "sgd") -> Scaffold:
    """Average uniformly; control variates correct every node's gradients."""
    return Scaffold(Composition("scaffold", Mean(weights="uniform"), server_optimizer(optimizer)))


def fedit(weights: str = "examples") -> Composition:
    """Average A and B apart: the baseline of the rules for LoRA; `fedavg` by another name."""
    return Composition("fedit", Mean(weights=weights))


def rolora(weights: str = "examples") -> Alternating:
    """Train B and A by turns, and average."""
    return Alternating(Composition("rolora", Mean(weights=weights)))


def flexlora(energy: float = 1.0) -> LowRank:
    """Average the products BA; keep the best approximation of the run's rank.

    With `energy` below 1, as FLoRIST does, only the components that hold so much of it; the
    others can be learnt anew.
    """
    if energy != 1:
        require_number("energy", energy, 0, 1, or_low=False)

    def rule(contributions: Contributions, server: Factors) -> Factors:
        return exact_lora.flexlora(contributions, server.rank, energy if energy < 1 else None)

    return LowRank(name="flexlora", rule=rule, serve=hetero_lora.served)


def fedsvd() -> FedSvd:
    """Train B alone, average it, and turn the product into factors with an orthonormal A."""
    return FedSvd(Composition("fedsvd"))


def lora_fair(ridge: float = 0.01) -> LowRank:
    """Average A; correct the mean of B so that the product comes near the mean of products."""
    require_number("ridge", ridge, 0, math.inf)

    def rule(contributions: Contributions, _: Factors) -> Factors:
        return exact_lora.lora_fair(contributions, ridge)

    return LowRank(name="lora-fair", rule=rule)


def hetlora() -> LowRank:
    """Average each component over those who have it, weighted by their products' norms."""

    def rule(contributions: Contributions, server: Factors) -> Factors:
        return hetero_lora.hetlora([update for _, update in contributions], server)

    return LowRank(name="hetlora", rule=rule, serve=hetero_lora.cut)


def fedex() -> FedEx:
    """Average A and B apart, and add what is then missing to the frozen weights."""
    return FedEx()


def flora(seed: int = 0) -> Flora:
    """Add what nodes learnt to the frozen weights; nodes start afresh in every round."""
    return Flora(seed)


def _read(part: Part, kind: str) -> tuple[str, dict[str, Any]]:
    """Separate a part's name from its arguments."""
    if isinstance(part, str):
        return part, {}
    if not isinstance(part, Mapping) or not isinstance(part.get("name"), str):
        raise ValueError(  # noqa: TRY004  one kind for every wrong option
            f'Expected a name as {kind}, or an object such as {{"name": "…"}} with its '
            f"arguments, got {part!r}."
        )
    return part["name"], {key: value for key, value in part.items() if key != "name"}
