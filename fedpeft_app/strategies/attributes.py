"""What objects that nobody here wrote hold: their attributes, as far as they are plain data.

Plain are None, numbers, texts, NumPy arrays, adapter states, Flower's array records, and lists,
tuples and dictionaries (with texts as keys) of these. Nothing is pickled: reading a checkpoint runs
no code.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.errors import RunFolderError
from fedpeft_app.snapshot import Array, Snapshot

_DEPTH = 3  # of objects within objects
_MARK = "is"  # in JSON: what a dictionary stands for


class NotPlainError(TypeError):
    """Something is no plain data."""


def held(thing: object) -> dict[str, str]:
    """Tell the attributes of an object apart from what they are later.

    Args:
        thing: The object.

    Returns:
        Attribute → digest of its value.
    """
    return {name: _digest(value) for name, value in _attributes(thing)}


def read(thing: object, before: Mapping[str, str]) -> Snapshot:
    """Read the attributes that changed.

    Args:
        thing: The object.
        before: What `held` gave when it was made.

    Returns:
        Their values; under "unknown" the names of those that are no plain data.
    """
    arrays: dict[str, Array] = {}
    values: dict[str, Any] = {}
    unknown: list[str] = []
    for name, value in _attributes(thing):
        if before.get(name) == _digest(value):
            continue
        try:
            values[name] = _written(value, name, arrays)
        except NotPlainError:
            unknown.append(name)
    return Snapshot(values={"known": values, "unknown": unknown}, arrays=arrays)


def write(thing: object, snapshot: Snapshot) -> None:
    """Give an object the attributes that `read` read.

    Raises:
        RunFolderError: If there were others.
    """
    if unknown := snapshot.values.get("unknown"):
        raise RunFolderError(
            f"{type(thing).__name__} held {', '.join(unknown)} between rounds, which is no plain "
            f"data, so the checkpoint lacks it. Give the strategy snapshot() and go_on() "
            f"(docs/plugins.md), and start the run anew."
        )
    for name, written in snapshot.values.get("known", {}).items():
        setattr(thing, name, _read(written, snapshot.arrays))


def _attributes(thing: object) -> Iterator[tuple[str, Any]]:
    """Walk over what an object holds; notes are of the last round alone."""
    slots = (name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()))
    for name in sorted({*getattr(thing, "__dict__", {}), *slots} - {"notes", "__dict__"}):
        if hasattr(thing, name):
            yield name, getattr(thing, name)


def _digest(value: object, depth: int = _DEPTH) -> str:
    """Tell a value from another; objects by what they hold, and in the end by which they are."""
    arrays: dict[str, Array] = {}
    try:
        digest = hashlib.sha256(json.dumps(_written(value, "", arrays)).encode())
    except NotPlainError:
        own = vars(value) if depth and hasattr(value, "__dict__") else {}
        parts = sorted((name, _digest(one, depth - 1)) for name, one in own.items())
        return f"object {id(value)} {parts}"
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def _written(value: Any, name: str, arrays: dict[str, Array]) -> Any:
    """Write plain data as JSON, and arrays beside it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray) and value.dtype != object:
        arrays[name] = value
        return {_MARK: "array", "of": name}
    kind, parts = _apart(value)
    return {
        _MARK: kind,
        "of": {key: _written(one, f"{name}.{key}", arrays) for key, one in parts.items()},
    }


def _apart(value: Any) -> tuple[str, dict[str, Any]]:
    """Take plain data apart: what it is, and of what."""
    if isinstance(value, np.generic):
        return "scalar", {"of": np.asarray(value)}
    if isinstance(value, AdapterState):
        return "state", {"spec": json.dumps(value.spec.to_json()), "vector": value.vector}
    if isinstance(value, ArrayRecord):
        return "record", {key: array.numpy() for key, array in value.items()}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return kind, {str(at): one for at, one in enumerate(value)}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return "dict", value
    raise NotPlainError


def _read(written: Any, arrays: Mapping[str, Array]) -> Any:
    """Read what `_written` wrote."""
    if not isinstance(written, dict):
        return written
    if written[_MARK] == "array":
        return np.array(arrays[written["of"]])
    return _JOINED[written[_MARK]]({key: _read(one, arrays) for key, one in written["of"].items()})


_JOINED: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "scalar": lambda parts: parts["of"][()],
    "state": lambda parts: AdapterState(
        spec=AdapterSpec.from_json(json.loads(parts["spec"])), vector=parts["vector"]
    ),
    "record": lambda parts: ArrayRecord({key: FlowerArray(one) for key, one in parts.items()}),
    "list": lambda parts: list(parts.values()),
    "tuple": lambda parts: tuple(parts.values()),
    "dict": dict,
}
