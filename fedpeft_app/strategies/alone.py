"""The local-only baseline as a strategy: everyone trains, nothing is folded."""

from collections.abc import Mapping, Sequence

from fedpeft_app.adapters import AdapterState
from fedpeft_app.strategies.strategy import Member, Reply
from fedpeft_app.wire.record import Scalar


class Alone:
    """Ask every node for the whole run's training at once, and leave the state as it is.

    Args:
        epochs: Passes over its data that each node makes.
    """

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def configure(
        self, round_number: int, state: AdapterState, cohort: Sequence[Member]
    ) -> Mapping[int, Mapping[str, Scalar]]:
        """Ask the whole cohort."""
        return {member.node_id: {"epochs": self._epochs} for member in cohort}

    def aggregate(
        self, round_number: int, state: AdapterState, replies: Sequence[Reply]
    ) -> AdapterState:
        """Keep the state: there is no exchange."""
        return state
