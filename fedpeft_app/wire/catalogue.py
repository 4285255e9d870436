"""Codecs by their text: `topk(0.1)+int8+zstd`.

A chain has at most one sparsifier, one number format and at most one lossless stage, in this
order. Packages add number formats by entry points. A dotted path is no codec, other than in
other registries: codecs are named by messages, and no message says what is imported here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from fedpeft_app.errors import UnknownNameError
from fedpeft_app.registry import Registry, near_miss
from fedpeft_app.wire.codec import Codec
from fedpeft_app.wire.lossless import Zstd
from fedpeft_app.wire.sparsify import Sparse, Sparsifier, Threshold, TopK

_HERE = "fedpeft_app.wire"

NUMBERS = Registry(
    kind="number format",
    group="fedpeft.codecs",
    builtin={
        "float32": f"{_HERE}.cast:float32",
        "bfloat16": f"{_HERE}.cast:bfloat16",
        "float16": f"{_HERE}.cast:float16",
        "int8": f"{_HERE}.quantize:int8",
        "int4": f"{_HERE}.quantize:int4",
    },
)

_SPARSIFIERS: Mapping[str, Callable[[float], Sparsifier]] = {
    "topk": lambda share: TopK(share=share),
    "threshold": lambda value: Threshold(value=value),
}
_MOST = {"topk": 1.0, "threshold": 1e9}  # parameters; larger ones than 1e9 would print a "+"
_LOSSLESS: Mapping[str, Callable[[Codec], Codec]] = {"zstd": lambda inner: Zstd(inner=inner)}
_STAGE = re.compile(r"([^()]*)(?:\((.*)\))?")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?(e-?[0-9]+)?")
_MOST_CHARACTERS = 100  # the text may come from anyone


class _Kind(IntEnum):
    """What a stage does; chains rise strictly."""

    SPARSIFIER = 0
    NUMBERS = 1
    LOSSLESS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """One part of a chain; a parameter of 0 is none."""

    kind: _Kind
    name: str
    parameter: float = 0.0


@lru_cache(maxsize=64)
def parse_codec(text: str) -> Codec:
    """Make the codec of a text, strictly.

    Args:
        text: Stages joined by "+", such as "int8" or "topk(0.1)+int4+zstd".

    Returns:
        The codec; its `name` is the text in its one canonical spelling.

    Raises:
        UnknownNameError: If a stage is unknown, misplaced, or has a wrong parameter.
    """
    if len(text) > _MOST_CHARACTERS:
        raise UnknownNameError(
            f"Expected a codec in {_MOST_CHARACTERS} characters, got {len(text)}."
        )
    stages = [_stage(part) for part in text.split("+")]
    kinds = [stage.kind for stage in stages]
    if kinds != sorted(set(kinds)) or _Kind.NUMBERS not in kinds:
        raise UnknownNameError(
            f"Expected one number format in codec {text!r}, at most one sparsifier before it and "
            f"at most one lossless stage behind it, as in 'topk(0.1)+int8+zstd'. "
            f"Number formats: {', '.join(NUMBERS.names())}."
        )
    by_kind = {stage.kind: stage for stage in stages}
    codec: Codec = NUMBERS.get(by_kind[_Kind.NUMBERS].name)()
    if sparsifier := by_kind.get(_Kind.SPARSIFIER):
        choice = _SPARSIFIERS[sparsifier.name](sparsifier.parameter)
        codec = Sparse(sparsifier=choice, numbers=codec)
    if lossless := by_kind.get(_Kind.LOSSLESS):
        codec = _LOSSLESS[lossless.name](codec)
    return codec


def _stage(text: str) -> _Stage:
    """Read one stage of a chain."""
    match = _STAGE.fullmatch(text)
    name, argument = match.groups() if match else (text, None)
    kind = _kind(name)
    if kind is not _Kind.SPARSIFIER:
        if argument is not None:
            raise UnknownNameError(f"Expected no parameter for '{name}', got {text!r}.")
        return _Stage(kind=kind, name=name)
    parameter = float(argument) if argument and _NUMBER.fullmatch(argument) else 0.0
    if not 0 < parameter <= _MOST[name]:
        raise UnknownNameError(
            f"Expected a parameter of '{name}' in (0, {_MOST[name]:g}], got {text!r}. "
            f"Write '{name}(0.1)', for example."
        )
    return _Stage(kind=kind, name=name, parameter=parameter)


def _kind(name: str) -> _Kind:
    """Tell what a stage does by its name."""
    if name in _SPARSIFIERS:
        return _Kind.SPARSIFIER
    if name in _LOSSLESS:
        return _Kind.LOSSLESS
    if name in NUMBERS.builtin or name in NUMBERS.names():  # the latter looks at what is installed
        return _Kind.NUMBERS
    known = [*_SPARSIFIERS, *NUMBERS.names(), *_LOSSLESS]
    raise UnknownNameError(
        f"unknown codec stage {name!r}. Known: {', '.join(known)}.{near_miss(name, known)}"
    )
