"""What a mechanism leaves behind: all that an accountant needs to know of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from fedpeft_app.errors import PrivacyError


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Gaussian mechanisms of one kind, each on a Poisson sample of the units.

    A unit is what privacy is promised to: an example of a node, or a node. Each mechanism adds
    up what the units of its sample contribute, every vector no longer than C, and adds normal
    noise of standard deviation z·C to each value of the sum.

    Attributes:
        noise_multiplier: z, in [0, inf); without noise there is no guarantee.
        sampling: Probability q of each unit to be in a sample, independently, in (0, 1].
        steps: How many mechanisms, from 1.

    Raises:
        PrivacyError: If one is out of its range.
    """

    noise_multiplier: float
    sampling: float
    steps: int

    def __post_init__(self) -> None:
        sound = (
            _is_number(self.noise_multiplier)
            and 0 <= self.noise_multiplier < math.inf
            and _is_number(self.sampling)
            and 0 < self.sampling <= 1
            and type(self.steps) is int
            and self.steps >= 1
        )
        if not sound:
            raise PrivacyError(
                f"Expected noise_multiplier in [0, inf), sampling in (0, 1] and steps from 1, got "
                f"{asdict(self)}. What cannot be read was spent nevertheless: restore the record."
            )

    def to_row(self) -> dict[str, float | int]:
        """Write the event as JSON values."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read what `to_row` wrote; other keys of the row are not looked at.

        Raises:
            PrivacyError: If a value is missing or out of its range: what was spent is not known.
        """
        values: dict[str, Any] = {one.name: row.get(one.name) for one in fields(cls)}
        return cls(**values)


def summed(events: Sequence[Event]) -> Event:
    """Sum events up for people, who are told the worst of them: no accountant may count by it.

    Args:
        events: At least one.

    Returns:
        The least noise of any, the largest sampling probability, and the steps of all.
    """
    return Event(
        noise_multiplier=min(event.noise_multiplier for event in events),
        sampling=max(event.sampling for event in events),
        steps=sum(event.steps for event in events),
    )


def _is_number(value: object) -> bool:
    """Say whether a value is one; a file may hold anything, and a bool is an int to Python."""
    return isinstance(value, int | float) and not isinstance(value, bool)
