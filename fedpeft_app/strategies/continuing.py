"""What a strategy holds between rounds, so that a run can go on where it stopped."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from fedpeft_app.adapters import AdapterState
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies import attributes
from fedpeft_app.strategies.strategy import Strategy


@runtime_checkable
class Continuing(Protocol):
    """A strategy that says itself what it holds."""

    def snapshot(self) -> Snapshot:
        """Give what the next round depends on, but for the global state."""
        ...

    def go_on(self, snapshot: Snapshot, state: AdapterState) -> None:
        """Go on from there, after `prepare`.

        Args:
            snapshot: What `snapshot` gave.
            state: The global state at that time.
        """
        ...


@dataclass(slots=True)
class Continuity:
    """Reads and restores any strategy.

    Of a strategy that does not say what it holds, the attributes that rounds have changed are read,
    if they are plain data (`attributes`).

    Args:
        strategy: The strategy, prepared.
    """

    strategy: Strategy
    _before: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        """Look at the strategy as it was made."""
        says = isinstance(self.strategy, Continuing)
        self._before = {} if says else attributes.held(self.strategy)

    def snapshot(self) -> Snapshot:
        """Give what the next round depends on, but for the global state."""
        if isinstance(self.strategy, Continuing):
            return self.strategy.snapshot()
        return attributes.read(self.strategy, self._before)

    def go_on(self, snapshot: Snapshot, state: AdapterState) -> None:
        """Go on from there.

        Args:
            snapshot: What `snapshot` gave.
            state: The global state at that time.

        Raises:
            RunFolderError: If what it held could not be read.
        """
        if isinstance(self.strategy, Continuing):
            self.strategy.go_on(snapshot, state)
            return
        attributes.write(self.strategy, snapshot)
