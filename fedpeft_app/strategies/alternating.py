"""RoLoRA: nodes train B in odd rounds and A in even ones, so that plain means are exact."""

from collections.abc import Mapping, Sequence

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.strategy import Assignment, Member, Reply, in_part


class Alternating:
    """Train one factor of every low-rank module per round, by turns; everything else always.

    In a round one factor is common to all nodes, so the mean of the other is exact, and half of
    the factors travels up. B comes first: it starts at zero, which leaves A without a gradient.

    Args:
        inner: Folds the deltas; those of the factor that rests are zero.

    Reference:
        Chen et al. 2024, arXiv 2409.02346.
    """

    name = "rolora"

    def __init__(self, inner: Composition) -> None:
        self._inner = inner

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Refuse adapters without factors A and B, and nodes of their own rank."""
        for part in ("a", "b"):
            trained_spec(spec, part)
        self._inner.prepare(spec, members)

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Ask the whole cohort to train this round's factor."""
        part = "b" if round_number % 2 else "a"
        return in_part(part, self._inner.configure(round_number, state, cohort))

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Fold the deltas."""
        return self._inner.aggregate(round_number, state, replies)

    def snapshot(self) -> Snapshot:
        """Give what the inner strategy holds."""
        return self._inner.snapshot()

    def go_on(self, snapshot: Snapshot, state: AdapterState) -> None:
        """Let the inner strategy go on."""
        self._inner.go_on(snapshot, state)
