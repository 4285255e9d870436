"""Any of our strategies under Flower's own loop, `flwr.serverapp.strategy.Strategy.start`.

For those who bring their own ServerApp. Our ClientApp is what runs on the nodes, so the roll
is called first, and orders and updates have our form on the wire; the arrays that `start`
takes and returns are plain float32, one per tensor. Covered: sampling (uniform), guard, quorum,
aggregation. Not covered: byte ledger, journal, checkpoints, evaluation by the nodes, and whatever
nodes keep from round to round: personal parameters, error feedback, SCAFFOLD's control variates.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.strategies.broadcast import Broadcast
from fedpeft_app.strategies.flower import from_arrays, to_arrays
from fedpeft_app.strategies.guard import admit, require_quorum
from fedpeft_app.strategies.orders import Courier
from fedpeft_app.strategies.sampling import sample_cohort
from fedpeft_app.strategies.strategy import (
    Assignment,
    Member,
    Reply,
    Strategy,
    name_of,
    train_loss,
)
from fedpeft_app.strategies.versions import Versions

_log = logging.getLogger(__name__)


class StockStrategy(FlowerStrategy):
    """One of our strategies as one of Flower's.

    Args:
        strategy: Our strategy.
        spec: The run's adapter.
        members: Nodes that passed the roll call.
        fraction_train: Share of them that trains in a round, in (0, 1].
        min_replies: Good replies a round needs, from 1.
        seed: Seeds the cohorts, as in our own loop.
    """

    def __init__(
        self,
        strategy: Strategy,
        spec: AdapterSpec,
        members: Sequence[Member],
        *,
        fraction_train: float = 1.0,
        min_replies: int = 1,
        seed: int = 0,
    ) -> None:
        self._strategy = strategy
        self._spec = spec
        self._members = members
        self._fraction = fraction_train
        self._minimum = min_replies
        self._seed = seed
        self._state: AdapterState | None = None
        self._assigned: Mapping[int, Assignment] = {}
        self._asked: dict[Member, Message] = {}
        strategy.prepare(spec, members)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Sample a cohort and write its orders.

        Raises:
            AdapterMismatchError: If the arrays are no state of this adapter.
            ValueError: If there is a train_config: nodes take options from our strategy only;
                or the strategy counts on what nodes keep.
        """
        if config:
            raise ValueError(f"Expected no train_config, got {sorted(config)}.")
        cohort = sample_cohort(
            self._members,
            fraction=self._fraction,
            minimum=self._minimum,
            seed=self._seed,
            round_number=server_round,
        )
        self._state = from_arrays(self._spec, arrays)
        self._assigned = self._strategy.configure(server_round, self._state, cohort)
        if any(task.extras for task in self._assigned.values()):
            raise ValueError(
                f"{name_of(self._strategy)} counts on what nodes keep from round to round, which "
                f"they do in fedpeft's own loop only."
            )
        courier = Courier(broadcast=Broadcast(state=self._state), versions=Versions())
        asked = {m: self._assigned[m.node_id] for m in cohort if m.node_id in self._assigned}
        self._asked = courier.messages("train", server_round, asked)
        return list(self._asked.values())

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Guard the replies and fold them, by partition.

        Raises:
            QuorumError: If there are too few good replies.
            RuntimeError: If no round was configured.
        """
        if self._state is None:
            raise RuntimeError("Expected configure_train before aggregate_train.")
        came = {reply.metadata.reply_to_message_id: reply for reply in replies}
        good: list[Reply] = []
        rejected: dict[int, str] = {}
        for member, message in self._asked.items():  # by partition
            reply = came.get(message.metadata.message_id)
            assigned = self._assigned[member.node_id]
            outcome = admit(reply, member, assigned, server_round) if reply else "no reply"
            if isinstance(outcome, str):
                rejected[member.partition] = outcome
            else:
                good.append(outcome)
        require_quorum(server_round, good, rejected, self._minimum)
        state = self._strategy.aggregate(server_round, self._state, good)
        return to_arrays(state), MetricRecord({"loss": train_loss(good)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nobody; pass `evaluate_fn` to `start` instead."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Have nothing to aggregate."""
        return None

    def summary(self) -> None:
        """Log which strategy this is, and over how many nodes."""
        name, nodes = name_of(self._strategy), len(self._members)
        _log.info("%s of adapters (%s) over %d nodes", name, self._spec.method, nodes)
