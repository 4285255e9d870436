"""Orders addressed to nodes: who gets which message of a round."""

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict

from fedpeft_app.adapters import AdapterState
from fedpeft_app.errors import ConfigError, Fault
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.broadcast import Broadcast
from fedpeft_app.strategies.strategy import Assignment, Member
from fedpeft_app.strategies.versions import Versions
from fedpeft_app.wire.payload import Section
from fedpeft_app.wire.record import STATE, Order, Scalar, section_of, write_order

_OWN = ("trains", "version", "experiment", "base", "received")


@dataclass(frozen=True, slots=True, kw_only=True)
class Courier:
    """Writes orders: the same state, and the same content, is encoded once.

    Attributes:
        broadcast: What nodes have of the global state.
        versions: Which of its own parameters each node goes on from.
    """

    broadcast: Broadcast
    versions: Versions

    def messages(
        self, kind: str, round_number: int, assignments: Mapping[Member, Assignment]
    ) -> dict[Member, Message]:
        """Write the messages of a round.

        Args:
            kind: Flower's message type, "train" or "evaluate".
            round_number: Round, from 1.
            assignments: Who is to do what.

        Raises:
            ValueError: If a strategy uses the name of an option that orders carry themselves.
        """
        return {
            member: Message(
                content=content,
                dst_node_id=member.node_id,
                message_type=kind,
                group_id=str(round_number),
            )
            for member, content in self.contents(round_number, assignments).items()
        }

    def contents(
        self, round_number: int, assignments: Mapping[Member, Assignment]
    ) -> dict[Member, RecordDict]:
        """Write what the messages of a round carry; those that carry the same share it.

        Args:
            round_number: Round, from 1.
            assignments: Who is to do what.

        Raises:
            ValueError: As `messages`.
        """
        contents: dict[tuple[object, ...], RecordDict] = {}
        encoded: dict[tuple[str, int], Section] = {}
        found = {}
        for member, assignment in assignments.items():
            order = self._order(member, assignment, round_number, encoded)
            same = tuple(id(section) for section in order.sections)
            key = (order.spec.fingerprint, same, tuple(sorted(order.options.items())))
            if key not in contents:
                contents[key] = write_order(order)
            found[member] = contents[key]
        return found

    def note_arrivals(self, answered: Mapping[Member, bool]) -> None:
        """Note what nodes hold now, as far as their answers tell.

        Args:
            answered: Everyone who was sent the state of record → whether the answer was good.
        """
        for member, well in answered.items():
            (self.broadcast.arrived if well else self.broadcast.lost)(member)

    def snapshot(self, *, nameless: bool = False) -> Snapshot:
        """Give what the next orders depend on, but for the state.

        Args:
            nameless: Whether it must not tell who took part. What codecs left out on nodes is
                forgotten then, once.
        """
        parts = {"broadcast": self.broadcast.snapshot()}
        if not nameless:
            parts["versions"] = self.versions.snapshot()
        return Snapshot.of(parts)

    def go_on(self, snapshot: Snapshot) -> None:
        """Go on from there, with the state of that time."""
        self.broadcast.go_on(snapshot.part("broadcast"))
        if "versions" in snapshot.values:
            self.versions.go_on(snapshot.part("versions"))

    def _order(
        self,
        member: Member,
        assignment: Assignment,
        round_number: int,
        encoded: dict[tuple[str, int], Section],
    ) -> Order:
        """Write one order; the state itself only where the node cannot have it."""
        if taken := sorted(set(_OWN) & set(assignment.options)):
            raise ValueError(
                f"Expected options other than {sorted(_OWN)}, which orders carry themselves, got "
                f"{taken}. Rename them where the strategy sets its options."
            )
        remembered = self.versions.options(member, extras=bool(assignment.extras))
        options: dict[str, Scalar] = {**assignment.options, **remembered}
        if assignment.part:
            options["trains"] = assignment.part

        def once(name: str, state: AdapterState) -> Section:
            if (name, id(state)) not in encoded:
                encoded[name, id(state)] = section_of(name, state)
            return encoded[name, id(state)]

        sections: tuple[Section, ...]
        if assignment.state is self.broadcast.state:
            sections = self.broadcast.sections(member)
            if not self.broadcast.exact:
                options["version"] = self.broadcast.version
        else:
            self._require_exact(member)
            sections = (once(STATE, assignment.state),)
        extras = (once(name, state) for name, state in assignment.extras.items())
        return Order(
            spec=assignment.state.spec,
            sections=(*sections, *extras),
            round_number=round_number,
            options=options,
        )

    def _require_exact(self, member: Member) -> None:
        """Refuse a state of a node's own where nodes keep the one that all have."""
        if not self.broadcast.exact:
            problem = (
                f"it brings all nodes from one state to the next, but node {member.partition} "
                f"gets a state of its own (rank {member.rank or 'as in method.rank'}). Use "
                f"'float32', or one rank for all nodes."
            )
            codec = self.broadcast.codec.name
            raise ConfigError([Fault(key="wire.downlink", value=codec, problem=problem)])
