"""SCAFFOLD: every node's gradients are corrected by how its own differ from those of all."""

from collections.abc import Mapping, Sequence

import numpy as np

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.aggregators import fold_mean
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.strategy import Assignment, Member, Reply, everyone
from fedpeft_app.wire.record import CONTROL


class Scaffold:
    """Send the server's control variate c with the state; nodes keep their own c_i.

    Nodes train with the gradients g − c_i + c, and send c_i⁺ − c_i with their delta, both ways
    in float32: a message is twice as long. x moves by the uniform mean of the deltas, and
    c by Σ (c_i⁺ − c_i) / N over all N nodes, also those that were not asked. What c_i⁺ is under
    adaptive optimizers: `training.corrections`.

    c is the mean of all c_i only while nodes keep theirs. One that lost its disk starts again
    from c_i = 0 and sends its whole new one, so c keeps the lost c_i / N for the rest of the
    run. To take it out, the server would have to remember what each of N nodes sent. Nor does
    anything but the guard bound what a node sends: this is no strategy for nodes that lie.

    Args:
        inner: Folds the deltas.

    Attributes:
        control: c; None before the first round.

    Reference:
        Karimireddy et al. 2019, arXiv 1910.06378, algorithm 1.
    """

    name = "scaffold"
    needs_each = True  # the control variates

    def __init__(self, inner: Composition) -> None:
        self._inner = inner
        self._population = 0
        self.control: AdapterState | None = None

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Count the nodes, and refuse those of their own rank."""
        self._inner.prepare(spec, members)
        self._population = len(members)

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Ask the whole cohort, and send it c."""
        if self.control is None:
            spec = trained_spec(state.spec)
            self.control = AdapterState.zeros(spec)
        task = Assignment(state=state, extras={CONTROL: self.control})
        return everyone(cohort, task)

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Fold the deltas, and move c.

        Raises:
            RuntimeError: If nobody was asked before.
        """
        if self.control is None:
            raise RuntimeError("Expected configure before aggregate.")
        shifts = ((reply.extras[CONTROL].decode().vector, 1.0) for reply in replies)
        gained = fold_mean(shifts, uniform=True) * (len(replies) / self._population)
        moved = (self.control.vector + gained).astype(np.float32)
        self.control = AdapterState(spec=self.control.spec, vector=moved)
        return self._inner.aggregate(round_number, state, replies)

    def snapshot(self) -> Snapshot:
        """Give c, and what the inner strategy holds."""
        own = {} if self.control is None else {CONTROL: self.control.vector}
        return Snapshot.of({"own": Snapshot(arrays=own), "inner": self._inner.snapshot()})

    def go_on(self, snapshot: Snapshot, state: AdapterState) -> None:
        """Take c back, and let the inner strategy go on."""
        self._inner.go_on(snapshot.part("inner"), state)
        if (vector := snapshot.part("own").arrays.get(CONTROL)) is not None:
            self.control = AdapterState(spec=trained_spec(state.spec), vector=vector)
