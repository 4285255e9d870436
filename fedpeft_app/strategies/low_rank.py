"""Strategies that fold LoRA by module: the mean of the products counts, not that of the factors.

Which rule makes what of the factors: `exact_lora` and `hetero_lora`. Everything that belongs to no
low-rank module, such as the head, is averaged, weighted by examples.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.algebra import shifted
from fedpeft_app.adapters.lora import (
    Factors,
    factors,
    other_tensors,
    stack,
    truncated,
    with_factors,
)
from fedpeft_app.adapters.parts import taken
from fedpeft_app.adapters.residuals import residual_factors, with_residuals
from fedpeft_app.seeds import numpy_generator
from fedpeft_app.strategies.aggregators import fold_mean
from fedpeft_app.strategies.exact_lora import Contributions, fedex
from fedpeft_app.strategies.ranks import require_one_rank
from fedpeft_app.strategies.strategy import Assignment, Member, Reply

_log = logging.getLogger(__name__)

Rule = Callable[[Contributions, int], Factors]  # what nodes have, the rank of the result
Serve = Callable[[Factors, int], Factors]  # the server's factors, a node's rank


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """Fold A and B of each module by a rule.

    Attributes:
        name: What it is called in messages.
        rule: Makes one pair of factors of many.
        serve: Gives a node of its own rank its factors; None refuses such nodes.
        part: What nodes train, as in `Assignment`.
    """

    name: str
    rule: Rule
    serve: Serve | None = None
    part: str = ""

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Refuse adapters without factors, and nodes of their own rank where none are served."""
        _require_factors(spec)
        if self.serve is None:
            require_one_rank(self.name, members)

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Ask the whole cohort, each in its own rank."""
        with threadpool_limits(1, "blas"):
            states = {rank: self._served(state, rank) for rank in {one.rank for one in cohort}}
        tasks = {rank: Assignment(state=own, part=self.part) for rank, own in states.items()}
        return {member.node_id: tasks[member.rank] for member in cohort}

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Fold the factors of each module by the rule, and average what remains."""
        with threadpool_limits(1, "blas"):  # more threads round differently, and gain nothing
            folded = {
                module: self.rule(contributions, rank)
                for module, rank, contributions in _by_module(state, replies)
            }
        return _with_mean_of_others(with_factors(state, folded), replies)

    def _served(self, state: AdapterState, rank: int) -> AdapterState:
        """Give the state in a node's rank; the state itself where that is the run's."""
        if rank == 0 or self.serve is None:
            return state
        serve = self.serve
        own = {module: serve(found, rank) for module, found in factors(state).items()}
        return with_factors(state, own)


@dataclass(frozen=True, slots=True, kw_only=True)
class FedEx:
    """Average A and B apart, and add what is then missing to the frozen weights.

    Exact as long as there is room for the residual (`method.options.residual`): with less, the
    best approximation of that rank is kept.

    Reference:
        Singhal et al. 2024, arXiv 2410.09432.
    """

    name: str = "fedex"

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Refuse adapters without factors and residuals, and nodes of their own rank."""
        _require_residuals(spec)
        require_one_rank(self.name, members)

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Ask the whole cohort."""
        return {member.node_id: Assignment(state=state) for member in cohort}

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Fold factors into their means, and the residuals into the frozen ones."""
        means: dict[str, Factors] = {}
        missing: dict[str, Factors] = {}
        with threadpool_limits(1, "blas"):
            for module, _, contributions in _by_module(state, replies):
                means[module], missing[module] = fedex(contributions)
            grown = _with_added(self.name, state, missing)
        return _with_mean_of_others(with_factors(grown, means), replies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flora:
    """Add all that nodes learnt to the frozen weights, and let them start afresh.

    Nodes may have any rank: the mean of their products is stacked, never averaged by factor. It
    is exact as long as there is room for the residual, which grows from round to round.

    Attributes:
        name: What it is called in messages.
        seed: Seeds the factors with which nodes start afresh.

    Reference:
        Wang et al. 2024, arXiv 2409.05976.
    """

    name: str = "flora"
    seed: int = 0

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Refuse adapters without factors and residuals."""
        _require_residuals(spec)

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Ask the whole cohort, each with fresh factors of its own rank."""
        states = {
            rank: self._afresh(state, round_number, rank) if rank else state
            for rank in {member.rank for member in cohort}
        }
        return {member.node_id: Assignment(state=states[member.rank]) for member in cohort}

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Move the mean of the products into the residuals, and draw new factors."""
        with threadpool_limits(1, "blas"):
            learnt = {
                module: stack(contributions)
                for module, _, contributions in _by_module(state, replies)
            }
            grown = _with_added(self.name, state, learnt)
        grown = self._afresh(grown, round_number + 1)
        return _with_mean_of_others(grown, replies)

    def _afresh(self, state: AdapterState, round_number: int, rank: int = 0) -> AdapterState:
        """Draw A as PEFT does, uniform within 1 / √in, and set B to zero."""
        generator = numpy_generator(self.seed, "fresh-factors", round_number=round_number)
        drawn = {}
        for module, old in factors(state).items():
            own, bound = rank or old.rank, 1 / math.sqrt(old.a.shape[1])
            a = generator.uniform(-bound, bound, size=(own, old.a.shape[1]))
            drawn[module] = Factors(a=a, b=np.zeros((len(old.b), own)))
        return with_factors(state, drawn)


def _by_module(
    state: AdapterState, replies: Sequence[Reply]
) -> list[tuple[str, int, list[tuple[float, Factors]]]]:
    """Give module, rank and what nodes made of it: (share of the examples, factors)."""
    total = math.fsum(reply.weight for reply in replies)
    local = [
        (reply.weight / total, factors(shifted(reply.start, reply.delta.vector)))
        for reply in replies
    ]
    return [
        (module, found.rank, [(share, own[module]) for share, own in local])
        for module, found in factors(state).items()
    ]


def _with_mean_of_others(state: AdapterState, replies: Sequence[Reply]) -> AdapterState:
    """Add the mean delta of everything that belongs to no low-rank module."""
    spec = other_tensors(state.spec)
    if not spec.tensors:
        return state
    mean = fold_mean(
        ((taken(one.delta, spec).vector, one.weight) for one in replies), uniform=False
    )
    moved = shifted(taken(state, spec), mean)
    return AdapterState.from_tensors(state.spec, {**state.tensors(), **moved.tensors()})


def _with_added(name: str, state: AdapterState, updates: Mapping[str, Factors]) -> AdapterState:
    """Add updates, times the scaling, to the frozen residuals, as exactly as there is room."""
    added, lost, norm = {}, 0.0, 0.0
    for module, residual in residual_factors(state).items():
        terms = [(1.0, residual), (state.spec.scaling, updates[module])]
        added[module], values = truncated(terms, rank=residual.rank)
        lost += float(np.sum(values[added[module].rank :] ** 2))
        norm += float(np.sum(values**2))
    if lost > _NOTABLE**2 * norm:
        _log.warning(
            "%s: the frozen residuals have room for all but %.2g of their norm. Raise 'residual' "
            "in method.options to keep more.",
            name,
            math.sqrt(lost / norm),
        )
    return with_residuals(state, added)


_NOTABLE = 1e-5  # of the norm; float32 rounds to 6e-8 of each value


def _require_factors(spec: AdapterSpec) -> None:
    """Refuse an adapter whose factors do not both travel."""
    factors(AdapterState(spec=spec, vector=np.zeros(spec.size, dtype=np.float32)))


def _require_residuals(spec: AdapterSpec) -> None:
    """Refuse an adapter without residuals, or without factors."""
    zeros = AdapterState(spec=spec, vector=np.zeros(spec.size, dtype=np.float32))
    residual_factors(zeros)
    factors(zeros)
