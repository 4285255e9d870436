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
    and maybe its data. Whoever is refused, or does not answer, is asked again after one round, two,
    four, …; and at once when somebody has left, whose number it may have: until Flower misses a
    node that was killed, it still counts as connected.

    Attributes:
        grid: Flower's connection.
        call: Calls the roll of some Flower ids, and says who of them may take part beside some
            members.
        came: Told of those who join, and of those who are refused: node → reason.
        left: Told of those who are gone.
        patience_s: Seconds to wait where there are too few.
        refused: Flower ids of those whom the roll call refused.
    """

    grid: Grid
    call: Callable[[Sequence[int], Sequence[Member]], Roster]
    came: Callable[[Roster], None]
    left: Callable[[Sequence[Member]], None]
    patience_s: float
    refused: frozenset[int] = frozenset()
    _pauses: dict[int, tuple[int, int]] = field(init=False)  # Flower id → rounds left, and in all

    def __post_init__(self) -> None:
        """Leave those alone whom the roll call refused just now."""
        self._pauses = dict.fromkeys(self.refused, (1, 1))

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
            self._pauses.clear()
            self.left(gone)
        strangers = self._due(connected - {one.node_id for one in staying})
        if not strangers:
            return staying
        roster = self.call(sorted(strangers), staying)
        for node_id in roster.refused_ids:
            pause = 2 * self._pauses.get(node_id, (0, 0))[1] or 1
            self._pauses[node_id] = (pause, pause)
        self.came(roster)
        return sorted([*staying, *roster.members], key=lambda member: member.partition)

    def _due(self, strangers: set[int]) -> set[int]:
        """Leave out those who were refused lately, and count down how long they are left out."""
        paused = {one: self._pauses[one] for one in strangers if self._pauses.get(one, (0, 0))[0]}
        self._pauses.update({one: (left - 1, pause) for one, (left, pause) in paused.items()})
        return strangers - paused.keys()

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
