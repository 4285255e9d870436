"""A payload's header: what its sections are called, how they are encoded, what they are of.

JSON in the one spelling that `to_bytes` gives it: sorted keys, no blanks, ASCII, filled up
with blanks. A header that its own content would not be written as is no header; so doubled keys,
numbers in other spellings and fields that nobody knows are refused without a rule for each.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedpeft_app.adapters import AdapterSpec
from fedpeft_app.errors import WireError

MOST_BYTES = 2**20  # ten thousand tensors of an embedded spec

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_MOST_AXES = 8
_ROW = {"bytes": int, "codec": str, "name": str, "spec": str}
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the header says about a section.

    Attributes:
        name: "delta", "state", "control", …: a letter, then up to 31 letters, digits and dashes.
        spec: Fingerprint of the adapter that its values belong to.
        codec: The codec's text.
        bytes: Length in the body, without what fills it up.
    """

    name: str
    spec: str
    codec: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """All rows, and the specs that the receiver cannot know.

    Attributes:
        rows: In the order of the body, at least one, with different names.
        specs: Embedded specs; each is of a row, and none occurs twice.

    Raises:
        WireError: If they are not.
    """

    rows: tuple[Row, ...]
    specs: tuple[AdapterSpec, ...] = ()

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        _require_distinct(names, "names of sections")
        if not names or not all(_NAME.fullmatch(name) for name in names):
            raise WireError(
                f"Expected sections with names of a letter, then up to 31 letters, digits and "
                f"dashes, got {names!r:.80}."
            )
        embedded = [spec.fingerprint for spec in self.specs]
        _require_distinct(embedded, "embedded specs")
        if not set(embedded) <= {row.spec for row in self.rows}:
            raise WireError("Expected embedded specs of the sections' adapters, got others.")

    def to_bytes(self, before: int, align: int) -> bytes:
        """Write the header in its one spelling.

        Args:
            before: Bytes of the payload in front of it.
            align: The body starts at a multiple of so many bytes.

        Raises:
            WireError: If it is longer than 1 MiB, or has a number that JSON has not.
        """
        value: dict[str, Any] = {"sections": [asdict(row) for row in self.rows]}
        if self.specs:
            value["specs"] = [spec.to_json() for spec in self.specs]
        try:
            text = _canonical(value)
        except ValueError as error:
            raise WireError(
                f"Expected finite numbers in an adapter's spec, got {error}."
            ) from error
        text += " " * (-(before + len(text)) % align)
        if len(text) > MOST_BYTES:
            raise WireError(
                f"Expected a header of at most {MOST_BYTES} bytes, got {len(text)}. "
                f"Embed fewer specs, or adapters of fewer tensors."
            )
        return text.encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes, before: int, align: int, most_values: int) -> "Header":
        """Read a header, trusting nothing.

        Args:
            data: Exactly the header, at most 1 MiB.
            before: As for `to_bytes`.
            align: As for `to_bytes`.
            most_values: No axis of an embedded tensor may be longer.

        Raises:
            WireError: If it is not the spelling of a header.
        """
        try:
            value = json.loads(data)
            header = cls(
                rows=tuple(_row(row) for row in value["sections"]),
                specs=tuple(_spec(spec, most_values) for spec in value.get("specs", [])),
            )
            if header.to_bytes(before, align) != data:
                raise ValueError("another spelling than the one there is")
        except _MALFORMED as error:
            raise WireError(
                f"Expected the header that docs/wire-format.md describes, got {_short(error)}."
            ) from error
        return header


def _canonical(value: Mapping[str, Any]) -> str:
    """Spell a JSON value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _row(value: Mapping[str, Any]) -> Row:
    """Read one row; fields that it should not have show in the spelling."""
    row = Row(**{key: value[key] for key in _ROW})
    wrong = [key for key, kind in _ROW.items() if type(getattr(row, key)) is not kind]
    if wrong or not 0 <= row.bytes < 2**63:
        raise ValueError(f"a section with a wrong {', '.join(wrong) or 'size'}")
    return row


def _spec(value: Mapping[str, Any], most_values: int) -> AdapterSpec:
    """Read an embedded spec; other fields, and a scaling that is no float, show in the spelling."""
    spec = AdapterSpec.from_json(value)
    lengths = [length for tensor in spec.tensors for length in tensor.shape]
    sound = (
        all(type(text) is str for text in (spec.method, spec.backbone))
        and all(type(rank) is int and rank > 0 for rank in spec.ranks.values())
        and all(type(tensor.name) is str for tensor in spec.tensors)
        and all(type(flag) is bool for one in spec.tensors for flag in (one.head, one.frozen))
        and all(len(tensor.shape) <= _MOST_AXES for tensor in spec.tensors)
        and all(type(length) is int and 0 <= length <= most_values for length in lengths)
    )
    if not sound:
        raise ValueError("an adapter's spec with a wrong type, or an axis that is too long")
    _require_distinct([tensor.name for tensor in spec.tensors], "names of tensors")
    return spec


def _require_distinct(names: list[str], what: str) -> None:
    """Refuse names that occur twice."""
    if len(set(names)) != len(names):
        raise WireError(f"Expected different {what}, got one twice.")


def _short(error: Exception) -> str:
    """Word what went wrong in one short line: the bytes may come from anyone."""
    return f"{type(error).__name__}: {error}"[:120]
