"""Strategies for LoRA that add to the frozen weights what the factors do not hold.

What is added lies in residuals of limited rank (`method.options.residual`): exact as long as there
is room; with less, the best approximation of that rank is kept, and the strategy's notes tell how
much was lost.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.lora import factors, whole_pairs, with_factors
from fedpeft_app.adapters.products import Factors, stack, truncated
from fedpeft_app.adapters.residuals import residual_factors, whole_residuals, with_residuals
from fedpeft_app.seeds import numpy_generator
from fedpeft_app.strategies.exact_lora import fedex, flora
from fedpeft_app.strategies.local_factors import local_factors, with_mean_of_others
from fedpeft_app.strategies.ranks import require_one_rank
from fedpeft_app.strategies.strategy import Assignment, Member, Reply, everyone, in_own_ranks

_log = logging.getLogger(__name__)

_NOTABLE = 1e-5  # of the norm; float32 rounds to 6e-8 of each value
_LOST = "residual-lost"


class FedEx:
    """Average A and B apart, and add what is then missing to the frozen weights.

    Attributes:
        notes: After each `aggregate`, "residual-lost": the share in [0, 1] of the residuals'
            norm that there was no room for.

    Reference:
        Singhal et al. 2024, arXiv 2410.09432.
    """

    name = "fedex"
    needs_each = True  # the products

    def __init__(self) -> None:
        self.notes: Mapping[str, float] = {}

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Refuse adapters without factors and residuals, and nodes of their own rank."""
        _require_residuals(spec)
        require_one_rank(self.name, members)

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Ask the whole cohort."""
        return everyone(cohort, Assignment(state=state))

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Fold factors into their means, and the residuals into the frozen ones."""
        means: dict[str, Factors] = {}

        def missing() -> Iterator[tuple[str, Factors]]:
            for module, _, contributions in local_factors(state, replies):
                means[module], residual = fedex(contributions)
                yield module, residual

        with threadpool_limits(1, "blas"):
            grown, lost = _with_added(state, missing())
        self.notes = _noted(self.name, lost)
        return with_mean_of_others(with_factors(grown, means), replies)


class Flora:
    """Add all that nodes learnt to the frozen weights, and let them start afresh.

    Nodes may have any rank: the mean of their products is stacked, never averaged by factor. The
    residual grows from round to round.

    Args:
        seed: Seeds the factors with which nodes start afresh.

    Attributes:
        notes: As `FedEx.notes`.

    Reference:
        Wang et al. 2024, arXiv 2409.05976.
    """

    name = "flora"
    needs_each = True  # the products

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.notes: Mapping[str, float] = {}

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Refuse adapters without factors and residuals."""
        _require_residuals(spec)

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Ask the whole cohort, those of their own rank with fresh factors of it."""
        with threadpool_limits(1, "blas"):
            return in_own_ranks(cohort, lambda rank: self._in_rank(state, round_number, rank))

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Move the mean of the products into the residuals, and draw new factors."""
        own = math.fsum(reply.weight for reply in replies if reply.member.rank)
        own /= math.fsum(reply.weight for reply in replies)
        with threadpool_limits(1, "blas"):
            learnt = (  # nodes of their own rank had the server's product in their residuals
                (module, stack([(1.0, flora(contributions)), (own, server)]))
                for module, server, contributions in local_factors(state, replies)
            )
            grown, lost = _with_added(state, learnt)
        self.notes = _noted(self.name, lost)
        return with_mean_of_others(self._afresh(grown, round_number + 1), replies)

    def _in_rank(self, state: AdapterState, round_number: int, rank: int) -> AdapterState:
        """Give the state in a node's rank; the state itself where that is the run's.

        The server's factors hold something in round 1 only, of a run that goes on from an
        adapter. Another rank might not hold it: such nodes find it in their residuals.
        """
        if rank == 0:
            return state
        if any(found.b.any() for found in factors(state).values()):
            state, _ = _with_added(state, factors(state).items())
        return self._afresh(state, round_number, rank)

    def _afresh(self, state: AdapterState, round_number: int, rank: int = 0) -> AdapterState:
        """Draw A as PEFT does, uniform within 1 / √in, and set B to zero."""
        generator = numpy_generator(self._seed, "fresh-factors", round_number=round_number)
        drawn = {}
        for module, old in factors(state).items():
            own, bound = rank or old.rank, 1 / math.sqrt(old.a.shape[1])
            a = generator.uniform(-bound, bound, size=(own, old.a.shape[1]))
            drawn[module] = Factors(a=a, b=np.zeros((len(old.b), own)))
        return with_factors(state, drawn)


def _with_added(
    state: AdapterState, updates: Iterable[tuple[str, Factors]]
) -> tuple[AdapterState, float]:
    """Add updates, times the scaling, to the frozen residuals, as exactly as there is room.

    Both halves of a residual are of one size, so that a coarse or sparse downlink, which leaves
    out what is small, leaves out small components and not one half of all.

    Args:
        state: The state with the residuals.
        updates: (module, update) for every one of them; read one at a time, for they are large.

    Returns:
        The state, and the share of the residuals' norm that is lost.
    """
    residuals, lost, norm = residual_factors(state), 0.0, 0.0
    for module, update in updates:
        old = residuals[module]
        terms = [(1.0, old), (state.spec.scaling, update)]
        new, values = truncated(terms, rank=old.rank, split="balanced")
        residuals[module] = new
        lost += float(np.sum(values[new.rank :] ** 2))
        norm += float(np.sum(values**2))
    return with_residuals(state, residuals), math.sqrt(lost / norm) if norm else 0.0


def _noted(name: str, lost: float) -> dict[str, float]:
    """Note what is lost, and warn of it."""
    if lost > _NOTABLE:
        _log.warning(
            "%s: the frozen residuals have room for all but %.2g of their norm. Raise 'residual' "
            "in method.options to keep more.",
            name,
            lost,
        )
    return {_LOST: lost}


def _require_residuals(spec: AdapterSpec) -> None:
    """Refuse an adapter without residuals, or without factors."""
    whole_residuals(spec)
    whole_pairs(spec)
