"""An aggregator, then a server optimiser: most federated algorithms are such a pair."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.state import Vector
from fedpeft_app.errors import AdapterMismatchError
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.aggregators import Aggregator, Mean
from fedpeft_app.strategies.ranks import require_one_rank
from fedpeft_app.strategies.server_optimizers import Moments, ServerOptimizer, Sgd
from fedpeft_app.strategies.strategy import Assignment, Member, Reply, everyone
from fedpeft_app.wire.record import Scalar


class Composition:
    """Ask the whole cohort, fold the deltas into one, let the state follow it.

    Every tensor is folded on its own. For LoRA that averages A and B apart (FedIT, Zhang et al.
    2023, arXiv 2305.05644), which is not the average of the products BA.

    Args:
        name: What the pair is called in messages.
        aggregator: Makes one delta of many; the mean by examples where none is given.
        optimizer: Makes the next state of it; adds it where none is given.
        options: What every node is told.

    Attributes:
        moments: What the optimiser remembers of past rounds; None before the first.
    """

    def __init__(
        self,
        name: str = "fedavg",
        aggregator: Aggregator | None = None,
        optimizer: ServerOptimizer | None = None,
        options: Mapping[str, Scalar] | None = None,
    ) -> None:
        self.name = name
        self._aggregator = aggregator or Mean()
        self._optimizer = optimizer or Sgd()
        self._options = options or {}
        self.moments: Moments | None = None

    @property
    def needs_each(self) -> bool:
        """Say whether it does anything but average."""
        return not isinstance(self._aggregator, Mean)

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Refuse nodes of their own rank."""
        require_one_rank(self.name, members)

    def rehearse(self, replies: int) -> None:
        """Fold so many deltas of nothing, to see before a run whether that is enough.

        Args:
            replies: How many a round has if nobody fails.

        Raises:
            QuorumError: If they are too few for the aggregator.
        """
        self._aggregator([(np.zeros(1, dtype=np.float32), 1.0)] * replies)

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Ask the whole cohort alike."""
        return everyone(cohort, Assignment(state=state, options=self._options))

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Fold the replies, and take the optimiser's step in float64."""
        mean = self._aggregator(_DeltasOf(spec=state.spec, replies=replies))
        moments = self._optimizer.start(state.spec.size) if self.moments is None else self.moments
        moved, self.moments = self._optimizer.step(moments, state.vector.astype(np.float64), mean)
        return AdapterState(spec=state.spec, vector=moved.astype(np.float32))

    def snapshot(self) -> Snapshot:
        """Give the optimiser's moments."""
        return Snapshot(arrays=self.moments or {})

    def go_on(self, snapshot: Snapshot, state: AdapterState) -> None:
        """Take the moments back; none were given before the first round."""
        self.moments = dict(snapshot.arrays) or None


@dataclass(frozen=True, slots=True, kw_only=True)
class _DeltasOf:
    """The deltas of replies, each refused if it is not of this adapter."""

    spec: AdapterSpec
    replies: Sequence[Reply]

    def __iter__(self) -> Iterator[tuple[Vector, float]]:
        for reply in self.replies:
            if reply.start.spec.fingerprint != self.spec.fingerprint:
                raise AdapterMismatchError(
                    f"Cannot fold a delta of adapter {reply.start.spec.fingerprint} into a state "
                    f"of {self.spec.fingerprint}."
                )
            yield reply.delta.vector, reply.weight

    def __len__(self) -> int:
        return len(self.replies)
