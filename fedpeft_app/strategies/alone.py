"""The local-only baseline as a strategy: everyone trains, nothing is folded."""

from collections.abc import Mapping, Sequence

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.strategies.ranks import require_one_rank
from fedpeft_app.strategies.strategy import Assignment, Member, Reply, everyone


class Alone:
    """Ask every node to train, and leave the state as it is."""

    name = "local"

    def prepare(self, spec: AdapterSpec, members: Sequence[Member]) -> None:
        """Refuse nodes of their own rank."""
        require_one_rank(self.name, members)

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Assignment]:
        """Ask the whole cohort."""
        return everyone(cohort, Assignment(state=state))

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Keep the state: there is no exchange."""
        return state
