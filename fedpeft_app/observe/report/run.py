"""What a run's report is made of, and what its journal says in all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStory:
    """A run, as plain data.

    Attributes:
        name: Its name.
        standing: "finished", "failed", "running", or "unfinished" for one whose process was ended.
        events: Its journal: what anybody may read.
        config: Every key of its configuration → value.
        defaults: Key → default.
        meanings: Key → what it means.
        commands: What to type to do it again, and why: title → command.
    """

    name: str
    standing: str
    events: Sequence[Event]
    config: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)

    def all(self, name: str) -> list[Event]:
        """Give the events of a kind, in order."""
        return [event for event in self.events if event["event"] == name]

    def last(self, name: str) -> Event:
        """Give the last event of a kind; empty if there is none."""
        return next((event for event in reversed(self.events) if event["event"] == name), {})

    @property
    def rounds(self) -> list[Event]:
        """The rounds that ended."""
        return self.all("round_finished")

    @property
    def finished(self) -> Event:
        """The end of a whole run; empty for another."""
        return self.last("run_finished")

    @property
    def mode(self) -> str:
        """The run's `mode`."""
        return str(self.config.get("mode", "federated"))

    def differing(self) -> dict[str, Any]:
        """Give the settings that are not the defaults."""
        return {key: value for key, value in self.config.items() if value != self.defaults.get(key)}
