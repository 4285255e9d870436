"""Which version of its own parameters each node goes on from: the last one that counted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.strategy import Member, Reply
from fedpeft_app.wire.record import Scalar


@dataclass(slots=True, kw_only=True)
class Versions:
    """The server's account of what nodes keep for themselves.

    Attributes:
        experiment: Name under which nodes keep it.
        keeps: Whether nodes keep something in every round: parameters of their own, what a
            codec left out, or the state that increments are added to.
        personal: Whether they keep parameters of their own, which start as they were drawn.
        accepted: Partition → last round in which a reply of the node was good.
        received: Partition → last round in which an update of the node came, good or not.
    """

    experiment: str = ""
    keeps: bool = False
    personal: bool = False
    accepted: dict[int, int] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)

    def options(self, member: Member, *, extras: bool = False) -> Mapping[str, Scalar]:
        """Tell a node in its order where to go on; nothing if it keeps nothing.

        Args:
            member: The node.
            extras: Whether the order carries something whose counterpart the node keeps.
        """
        if not (self.keeps or extras):
            return {}
        base = self.accepted.get(member.partition, 0)
        received = self.received.get(member.partition, 0)
        options: dict[str, Scalar] = {"experiment": self.experiment, "base": base}
        return {**options, "received": received} if received > base else options

    def note_received(self, round_number: int, members: Iterable[Member]) -> None:
        """Note who has released something, whatever comes of it.

        An update is known of once it is pulled, be it late. Should the node lose its book before
        that, nothing here tells; what it spent is stated as unknown until it replies.

        Args:
            round_number: The round that it was for, from 1.
            members: Those of whom an update was pulled, needed or not.
        """
        for member in members:
            last = self.received.get(member.partition, 0)
            self.received[member.partition] = max(last, round_number)

    def advance(self, round_number: int, good: Iterable[Reply]) -> None:
        """Note whose new version counts.

        Args:
            round_number: Round, from 1.
            good: The replies that were folded in it.
        """
        self.accepted.update((reply.member.partition, round_number) for reply in good)

    def snapshot(self) -> Snapshot:
        """Give the account."""
        return Snapshot(
            values={
                "accepted": {str(node): number for node, number in self.accepted.items()},
                "received": {str(node): number for node, number in self.received.items()},
            }
        )

    def go_on(self, snapshot: Snapshot) -> None:
        """Take the account up again."""
        for name, account in (("accepted", self.accepted), ("received", self.received)):
            account.update({int(node): number for node, number in snapshot.values[name].items()})

    def untrained(self, nodes: Iterable[int]) -> tuple[int, ...]:
        """List nodes that would have parameters of their own, but none that counted yet.

        Args:
            nodes: Partitions.
        """
        if not self.personal:
            return ()
        return tuple(node for node in nodes if node not in self.accepted)
