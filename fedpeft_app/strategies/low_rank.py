"""Strategies that fold LoRA by module: the mean of the products counts, not that of the factors.

Which rule makes what of the factors: `exact_lora` and `hetero_lora`. Everything that belongs to no
low-rank module, such as the head, is averaged, weighted by examples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from threadpoolctl import threadpool_limits

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.lora import factors, whole_pairs, with_factors
from fedpeft_app.adapters.products import Factors
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.exact_lora import Contributions, fedsvd
from fedpeft_app.strategies.local_factors import local_factors, with_mean_of_others
from fedpeft_app.strategies.ranks import require_one_rank
from fedpeft_app.strategies.strategy import Assignment, Member, Reply, in_own_ranks, in_part

Rule = Callable[[Contributions, Factors], Factors]  # what nodes have, what the server has
Serve = Callable[[Factors, int], Factors]  # the server's factors, a node's rank


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """Fold A and B of each module by a rule.

    Attributes:
        name: What it is called in messages.
        rule: Makes one pair of factors of many.
        serve: Gives a node of its own rank its factors; None refuses such nodes.
    """

    needs_each: ClassVar[bool] = True  # the products
    name: str
    rule: Rule
    serve: Serve | None = None

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Refuse adapters without factors, and nodes of their own rank where none are served."""
        whole_pairs(spec)
        if self.serve is None:
            require_one_rank(self.name, members)

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Ask the whole cohort, each in its own rank."""
        with threadpool_limits(1, "blas"):
            return in_own_ranks(cohort, lambda rank: self._served(state, rank))

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Fold the factors of each module by the rule, and average what remains."""
        with threadpool_limits(1, "blas"):  # more threads round differently, and gain nothing
            folded = {
                module: self.rule(contributions, server)
                for module, server, contributions in local_factors(state, replies)
            }
        return with_mean_of_others(with_factors(state, folded), replies)

    def _served(self, state: AdapterState, rank: int) -> AdapterState:
        """Give the state in a node's rank; the state itself where that is the run's."""
        if rank == 0 or self.serve is None:
            return state
        serve = self.serve
        own = {module: serve(found, rank) for module, found in factors(state).items()}
        return with_factors(state, own)


class FedSvd:
    """Train B alone; once the deltas are folded, give every A orthonormal rows.

    Of the replies only the mean is needed, so they are folded one at a time.

    Args:
        inner: Folds the deltas; those of A are zero.

    Reference:
        Lee et al. 2025, arXiv 2505.12805.
    """

    name = "fedsvd"

    def __init__(self, inner: Composition) -> None:
        self._inner = inner

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Refuse adapters without factors, and nodes of their own rank."""
        whole_pairs(spec)
        self._inner.prepare(spec, members)

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Ask the whole cohort to train B."""
        return in_part("b", self._inner.configure(round_number, state, cohort))

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Fold the deltas, and turn the factors; their product stays."""
        mean = self._inner.aggregate(round_number, state, replies)
        with threadpool_limits(1, "blas"):
            turned = {module: fedsvd(found) for module, found in factors(mean).items()}
        return with_factors(mean, turned)

    def snapshot(self) -> Snapshot:
        """Give what the inner strategy holds."""
        return self._inner.snapshot()

    def go_on(self, snapshot: Snapshot, state: AdapterState) -> None:
        """Let the inner strategy go on."""
        self._inner.go_on(snapshot, state)
