"""Who is asked again because the server missed their reply, and who is left alone for a while."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.strategy import Member


class Excused(str):
    """Why a node's reply is missing, or not used, though the node did not fail."""

    __slots__ = ()


class Unneeded(Excused):
    """Why a reply is not used, or was not waited for: others were faster."""

    __slots__ = ()


@dataclass(slots=True, kw_only=True)
class Attendance:
    """The server's account of nodes that fail, round by round.

    Whose reply a round missed is asked again in the next one, whoever else is drawn. Who failed
    `tolerance` times in a row is left alone, for as many rounds as it has failed in a row. So one
    that is broken for good costs less and less, and one that recovers comes back.

    Attributes:
        tolerance: Failures in a row after which a node is left alone; 0 = it never is.
        failures: Partition → rounds in a row that missed its reply, of those that failed last.
        resting: Partition → the last round in which it is left alone.
        missed: Partitions whose reply the last round missed.
    """

    tolerance: int
    failures: dict[int, int] = field(default_factory=dict)
    resting: dict[int, int] = field(default_factory=dict)
    missed: set[int] = field(default_factory=set)

    def reachable(self, members: Sequence[Member], round_number: int, least: int) -> list[Member]:
        """List who may be asked.

        Args:
            members: Everyone who is there.
            round_number: Round, from 1.
            least: Nodes that a round needs; if fewer may be asked, all are.
        """
        found = [one for one in members if self.resting.get(one.partition, 0) < round_number]
        return found if len(found) >= min(least, len(members)) else list(members)

    def owed(self, reachable: Iterable[Member]) -> list[Member]:
        """List whose reply the last round missed.

        Args:
            reachable: Who may be asked.
        """
        return [member for member in reachable if member.partition in self.missed]

    def note(
        self, round_number: int, good: Iterable[int], rejected: Mapping[int, str]
    ) -> dict[int, int]:
        """Take in what came of a round.

        Args:
            round_number: Round, from 1.
            good: Partitions whose reply counts.
            rejected: Partition → reason, for everyone else who was asked.

        Returns:
            Partition → the last round in which it is left alone, of those for whom that begins.
        """
        failed = [node for node, why in rejected.items() if not isinstance(why, Excused)]
        surplus = [node for node, why in rejected.items() if isinstance(why, Unneeded)]
        for node in {*good, *rejected} - {*failed, *surplus}:  # of a surplus one nothing is known
            self.failures.pop(node, None)
            self.resting.pop(node, None)
        for node in failed:
            self.failures[node] = self.failures.get(node, 0) + 1
        self.missed = set(failed)
        begun = {
            node: round_number + self.failures[node]
            for node in failed
            if 0 < self.tolerance <= self.failures[node]
        }
        self.resting.update(begun)
        return begun

    def snapshot(self) -> Snapshot:
        """Give what the next round depends on."""
        return Snapshot(
            values={
                "failures": {str(node): count for node, count in self.failures.items()},
                "resting": {str(node): number for node, number in self.resting.items()},
                "missed": sorted(self.missed),
            }
        )

    def go_on(self, snapshot: Snapshot) -> None:
        """Take the account up again."""
        values = snapshot.values
        self.failures = {int(node): count for node, count in values["failures"].items()}
        self.resting = {int(node): number for node, number in values["resting"].items()}
        self.missed = set(values["missed"])


def without(members: Iterable[Member], partitions: Collection[int]) -> list[Member]:
    """Leave out some nodes.

    Args:
        members: Nodes.
        partitions: Whom to leave out.
    """
    return [member for member in members if member.partition not in partitions]
