"""Nodes that come and go between rounds."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flwr.serverapp import Grid

from fedpeft_app.errors import RollCallError
from fedpeft_app.strategies.roll_call import Roster, wait_for_nodes
from fedpeft_app.strategies.strategy import Member

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Door:
    """Looks who is there whenever a round begins.

    A node that is no longer connected is not asked. Whoever connects is asked who it is, as
    everyone was at the roll call, also a node that was there before: its process is another now,
    and maybe its data. Whoever is refused is asked again when somebody has left, whose number it
    may have: until Flower misses a node that was killed, it still counts as connected.

    Attributes:
        grid: Flower's connection.
        call: Calls the roll of some Flower ids, and says who of them may take part beside some
            members.
        came: Told of those who join, and of those who are refused: node → reason.
        left: Told of those who are gone.
        patience_s: Seconds to wait where there are too few.
    """

    grid: Grid
    call: Callable[[Sequence[int], Sequence[Member]], Roster]
    came: Callable[[Roster], None]
    left: Callable[[Sequence[Member]], None]
    patience_s: float
    _refused: set[int] = field(default_factory=set)

    def __call__(self, members: Sequence[Member], least: int) -> Sequence[Member]:
        """Say who is there.

        Args:
            members: Whom the last round knew.
            least: How many to wait for.

        Returns:
            Members, by partition; fewer than `least` if no more came in time.
        """
        connected = self._connected(least)
        staying = [one for one in members if one.node_id in connected]
        if gone := [one for one in members if one.node_id not in connected]:
            self._refused.clear()
            self.left(gone)
        self._refused &= connected
        strangers = connected - {one.node_id for one in staying} - self._refused
        if not strangers:
            return staying
        roster = self.call(sorted(strangers), staying)
        joined = {one.node_id for one in roster.members}
        self._refused |= strangers - joined
        self.came(roster)
        return sorted([*staying, *roster.members], key=lambda member: member.partition)

    def _connected(self, least: int) -> set[int]:
        """List the Flower ids that are connected, after waiting for so many if need be."""
        found = set(self.grid.get_node_ids())
        if len(found) >= least:
            return found
        try:
            return set(wait_for_nodes(self.grid, least, self.patience_s))
        except RollCallError as error:
            _log.warning("%s", error)
            return set(self.grid.get_node_ids())
