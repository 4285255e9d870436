"""What an observer is: told the configuration once, then what the journal notes, then the end."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Outcome = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The run that is looked at.

    Attributes:
        folder: Its folder, where an observer may keep a file or a folder under its own name.
        config: Flat key → value; without what nobody else should read.
        round_number: The last round that counts of a run that goes on; 0 = it begins.
    """

    folder: Path
    config: Mapping[str, Any]
    round_number: int = 0

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name


class Observer(Protocol):
    """What may look on. It works in the server's process, in a thread of its own.

    Whatever it raises is noted once, and it is told nothing further; the run goes on. Its
    constructor is called before anything starts, to refuse options and to miss libraries; it
    connects to nothing.
    """

    def begin(self, watched: Watched) -> None:
        """Told first: the run begins, or goes on; in the latter case rounds may come again."""
        ...

    def tell(self, event: Mapping[str, Any]) -> None:
        """Told every event of the journal, as it has it; not what a private run keeps secret."""
        ...

    def end(self, outcome: Outcome) -> None:
        """Told last, if the run lives to say so: finished, failed, or stopped in between."""
        ...
