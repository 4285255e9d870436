"""Federated averaging of adapter deltas.

Reference:
    McMahan et al. 2017, arXiv 1602.05629, Algorithm 1; on adapters: Sun et al. 2022,
    arXiv 2210.01708, section 3. For LoRA this averages A and B separately (FedIT, Zhang et
    al. 2023, arXiv 2305.05644), which is not the average of the products BA.
"""

from collections.abc import Mapping, Sequence

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import shifted, weighted_mean
from fedpeft_app.strategies.strategy import Member, Reply
from fedpeft_app.wire.record import Scalar


class FedAvg:
    """w ← w + Σ n_k δ_k / Σ n_k, in float64, in the order of the partitions."""

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Mapping[str, Scalar]]:
        """Ask the whole cohort, with no extra options."""
        return {member.node_id: {} for member in cohort}

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Add the mean delta, weighted by examples, to the global state."""
        return shifted(state, weighted_mean((reply.delta, reply.weight) for reply in replies))
