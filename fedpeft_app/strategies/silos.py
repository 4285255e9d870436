"""Which node of a run is which, where nodes know who they are: over all rounds and resumes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_REMEDY = "Bring that home back from a backup, or start a new run"


@dataclass(slots=True, kw_only=True)
class Silos:
    """Who has taken part in a run, so that nobody comes back as somebody else.

    What a node has spent of its privacy lies in its home, beside its identity. If both are lost, it
    is a new node with a new book, and its examples would be spent twice.

    Attributes:
        numbers: Identity → number, of all who ever answered.
        by_flower_id: Flower id → identity that has taken part from there. Flower's id stays the
            same as long as a node's key, where nodes have keys.
        by_name: Name → identity that has taken part under it.
        joined: Identities that came when others had taken part before.
        present: Identities of those who take part now.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    by_flower_id: dict[int, str] = field(default_factory=dict)
    by_name: dict[str, str] = field(default_factory=dict)
    joined: set[str] = field(default_factory=set)
    present: set[str] = field(default_factory=set)
    _before: frozenset[str] = frozenset()

    def begin_call(self, present: Iterable[int] = ()) -> None:
        """Get ready for a roll call.

        Args:
            present: Numbers of those who take part already.
        """
        numbers = set(present)
        self.present = {who for who, number in self.numbers.items() if number in numbers}
        self._before = frozenset(self.by_flower_id.values())

    def admit(self, node_id: int, identity: str, name: str) -> str:
        """Take a node in, or say why it cannot be.

        Args:
            node_id: Flower's id of it.
            identity: Its identity; empty if it has none.
            name: Its name; may be empty.

        Returns:
            The reason; empty if it is taken in, and remembered if it has an identity.
        """
        if self.by_flower_id.get(node_id, identity) != identity:
            return (
                f"expected the home (FEDPEFT_HOME) and name with which this node took part in the "
                f"run before: what it spent of its privacy is written down there. {_REMEDY}"
            )
        if name and self.by_name.get(name, identity) != identity:
            return (
                f"'{name}' took part in this run with another home (FEDPEFT_HOME), in which what "
                f"it spent of its privacy is written down. {_REMEDY}; if this is another node, "
                f"give it a name of its own"
            )
        if identity:
            self._remember(node_id, identity, name)
        return ""

    def leave(self, numbers: Iterable[int]) -> None:
        """Take in who is gone."""
        gone = set(numbers)
        self.present -= {who for who in self.present if self.numbers[who] in gone}

    def doubtful(self) -> tuple[list[int], list[int]]:
        """Give who joined that may be one of those who are gone, under another identity.

        Returns:
            Their numbers, and the numbers of those who are gone; of nodes that have names nobody
            is taken for another.
        """
        gone = set(self.by_flower_id.values()) - self.present
        named = set(self.by_name.values())
        news, olds = _matched(self.joined, gone, named), _matched(gone, self.joined, named)
        return sorted(self.numbers[who] for who in news), sorted(self.numbers[who] for who in olds)

    def told(self) -> dict[str, Any]:
        """Write it for an event of the journal; empty where nobody has an identity."""
        if not self.numbers:
            return {}
        took_part = {
            "flower-ids": {str(node_id): who for node_id, who in self.by_flower_id.items()},
            "names": dict(self.by_name),
            "joined": sorted(self.joined),
        }
        return {
            "identities": dict(self.numbers),
            **({"took_part": took_part} if self.by_flower_id else {}),
        }

    @classmethod
    def from_events(cls, events: Iterable[Mapping[str, Any]]) -> "Silos":
        """Read what `told` wrote into events of a journal, in whatever order."""
        found = cls()
        for event in events:
            found.numbers.update(event.get("identities", {}))
            took_part = event.get("took_part", {})
            for node_id, who in took_part.get("flower-ids", {}).items():
                found.by_flower_id[int(node_id)] = who
            found.by_name.update(took_part.get("names", {}))
            found.joined.update(took_part.get("joined", ()))
        return found

    def _remember(self, node_id: int, identity: str, name: str) -> None:
        """Remember who takes part."""
        if self._before and identity not in self._before:
            self.joined.add(identity)
        self.by_flower_id[node_id] = identity
        self.present.add(identity)
        if name:
            self.by_name[name] = identity


def _matched(ones: set[str], others: set[str], named: set[str]) -> set[str]:
    """Give those that may be another one of the others: of two that have names, neither is."""
    unnamed = others - named
    return {one for one in ones if _any_but(one, unnamed if one in named else others)}


def _any_but(one: str, others: set[str]) -> bool:
    """Say whether there is anybody else, without looking at all of them."""
    return len(others) > (one in others)
