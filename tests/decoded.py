"""A state that never was encoded, where a reply has one that was."""

from dataclasses import dataclass

from fedpeft_app.adapters import AdapterState


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Stands for a section of a payload."""

    state: AdapterState

    def decode(self) -> AdapterState:
        """Give the state."""
        return self.state
