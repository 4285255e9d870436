"""Recipes and KEY=VALUE arguments → a checked configuration, and back to TOML."""

import json
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpeft_app.config import RunConfig, flatten, parse
from fedpeft_app.config.flat import fields
from fedpeft_app.errors import ConfigError, Fault, SourceError
from fedpeft_app.names import NAME_CHECKS

_PATH_KEYS = ("model.name", "data.name", "method.init-from", "output.dir")


def read_settings(recipe: Path | None, settings: Sequence[str]) -> RunConfig:
    """Read and check a configuration: defaults, then the recipe, then the arguments.

    Relative paths of existing files become absolute, since Flower's processes have a
    working directory of their own.

    Raises:
        SourceError: If the recipe cannot be read.
        ConfigError: With every fault.
    """
    flat = {**_read_recipe(recipe), **_read_arguments(settings)}
    for key in _PATH_KEYS:
        value = flat.get(key)
        if isinstance(value, str) and value and Path(value).expanduser().exists():
            flat[key] = str(Path(value).expanduser().absolute())
    return parse(flat, NAME_CHECKS)


def to_toml(flat: Mapping[str, Any]) -> str:
    """Write flat scalars as TOML with quoted dotted keys, as Flower reads them."""
    return "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in flat.items())


def describe_settings(config: RunConfig, *, explain: bool) -> str:
    """Print a configuration as TOML, optionally with a comment above each key."""
    meaning = {key: field.description or "" for key, field in fields().items()}
    lines = []
    for key, value in flatten(config).items():
        if explain:
            lines += textwrap.wrap(meaning[key], 90, initial_indent="# ", subsequent_indent="# ")
        quoted = json.dumps(key) if key == "task.options" else key
        lines.append(f"{quoted} = {json.dumps(value)}")
    return "\n".join(lines)


def _read_recipe(recipe: Path | None) -> dict[str, object]:
    """Read a TOML file of keys, nested or dotted."""
    if recipe is None:
        return {}
    try:
        nested = tomllib.loads(recipe.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"Cannot read the recipe {recipe}: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:
        raise SourceError(f"The recipe {recipe} is not valid TOML: {error}") from error
    return _flat(nested)


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Join nested tables into dotted keys."""
    flat: dict[str, object] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read_arguments(settings: Sequence[str]) -> dict[str, object]:
    """Read KEY=VALUE arguments; a value is TOML where it can be, else text."""
    flat: dict[str, object] = {}
    faults = []
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            faults.append(Fault(key=setting, value="", problem="expected KEY=VALUE."))
            continue
        try:
            value: object = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        flat[key.strip()] = value if isinstance(value, str | int | float | bool) else text
    if faults:
        raise ConfigError(faults)
    return flat
