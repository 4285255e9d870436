"""In a simulation, a node's messages are found without looking through those of all others.

For every node, ten times a second, Flower 1.41 goes through all messages that are out, checks each
and takes the first one for that node: nodes times messages. With 1,000 of both this is 2.6 s of
computing each time (`benchmarks/unit_costs.py`); a roll call of 10,000 would do little else.
"""

import logging
import sys
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

_STATE = "flwr.server.superlink.linkstate.in_memory_linkstate"  # imported by simulations alone
_TAKEN = ("store_message_ins", "get_message_ins", "_check_stored_messages", "message_ins_store")
_log = logging.getLogger(__name__)


def sort_mail(grid: object) -> None:
    """Let Flower, where it simulates nodes in this process, keep what waits for each apart.

    Does nothing the second time.

    Args:
        grid: Flower's connection.
    """
    state: Any = getattr(grid, "state", None)
    if _STATE not in sys.modules or "get_message_ins" in vars(state or object):
        return
    from flwr.server.superlink.linkstate import InMemoryLinkState

    if type(state) is not InMemoryLinkState:
        return
    if missing := [name for name in _TAKEN if not hasattr(state, name)]:
        _log.warning("This version of Flower has no %s; messages stay unsorted.", missing)
        return
    mailboxes = _Mailboxes(
        state=state, stored=state.store_message_ins, searched=state.get_message_ins
    )
    with state.lock:
        for message in state.message_ins_store.values():
            mailboxes.add(message)
        vars(state).update(store_message_ins=mailboxes.store, get_message_ins=mailboxes.take)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mailboxes:
    """Which messages wait for whom; whether they still do is for Flower's own store to say.

    Attributes:
        state: Flower's account of messages.
        stored: Its own way to store one.
        searched: Its own way to find those of a node.
    """

    state: Any
    stored: Callable[[Any], str | None]
    searched: Callable[..., list[Any]]
    _waiting: dict[int, deque[str]] = field(default_factory=lambda: defaultdict(deque))

    def add(self, message: Any) -> None:
        """Put a message into its node's box."""
        self._waiting[message.metadata.dst_node_id].append(message.metadata.message_id)

    def store(self, message: Any) -> str | None:
        """Store a message as Flower does, and note for whom it is."""
        with self.state.lock:
            known = message.metadata.message_id in self.state.message_ins_store
            message_id = self.stored(message)
            if message_id is not None and not known:
                self.add(message)
        return message_id

    def take(self, node_id: int, limit: int | None, *, run_id: int | None = None) -> list[Any]:
        """Give the messages of a node that were not given yet, the oldest first, as Flower does."""
        if run_id is not None or (limit is not None and limit < 1):  # not asked by a simulation
            return self.searched(node_id, limit, run_id=run_id)
        found: list[Any] = []
        if node_id not in self._waiting:
            return found
        with self.state.lock:
            box = self._waiting[node_id]
            while box and (limit is None or len(found) < limit):
                message = self._unsent(box.popleft())
                if message is not None:
                    message.metadata.delivered_at = datetime.now(UTC).isoformat()
                    found.append(message)
            if not box:
                del self._waiting[node_id]
        return found

    def _unsent(self, message_id: str) -> Any:
        """Give a message that is still to be sent; None if it is too old, deleted or sent."""
        self.state._check_stored_messages({message_id})
        message = self.state.message_ins_store.get(message_id)
        return message if message is not None and message.metadata.delivered_at == "" else None
