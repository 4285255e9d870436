"""What must be kept to go on later: JSON values and arrays, by whom they belong to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_BETWEEN = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of something that goes on.

    Attributes:
        values: JSON values, by name.
        arrays: Arrays, by name.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Mapping[str, "Snapshot"]) -> Self:
        """Put the snapshots of several things into one.

        Args:
            parts: Name → snapshot; names have no slash.
        """
        return cls(
            values={name: dict(one.values) for name, one in parts.items()},
            arrays={
                f"{name}{_BETWEEN}{key}": array
                for name, one in parts.items()
                for key, array in one.arrays.items()
            },
        )

    def part(self, name: str) -> "Snapshot":
        """Take one of those out again.

        Raises:
            KeyError: If there is none of that name.
        """
        prefix = f"{name}{_BETWEEN}"
        return Snapshot(
            values=self.values[name],
            arrays={
                key.removeprefix(prefix): array
                for key, array in self.arrays.items()
                if key.startswith(prefix)
            },
        )


def as_bytes(data: bytes) -> Array:
    """Write bytes as an array."""
    return np.frombuffer(data, dtype=np.uint8)
