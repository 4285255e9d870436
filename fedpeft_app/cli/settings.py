"""Recipes and KEY=VALUE arguments → a checked configuration, and back to TOML."""

import json
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpeft_app.backbone.scratch import PREFIX as SCRATCH
from fedpeft_app.config import RunConfig, flatten, parse
from fedpeft_app.config.flat import fields, join
from fedpeft_app.errors import ConfigError, Fault, SourceError
from fedpeft_app.mirrors import MIRRORS
from fedpeft_app.names import NAME_CHECKS

_NAME_OR_PATH = ("model.name", "data.name")  # a path only where there is such a file
_PATHS = ("method.init-from", "output.dir")


def read_settings(
    recipe: Path | None, settings: Sequence[str], began: Mapping[str, Any] | None = None
) -> RunConfig:
    """Read and check a configuration: defaults, then the recipe, then the arguments.

    Relative paths become absolute, since Flower's processes have a working directory of
    their own.

    Args:
        recipe: TOML file of keys, nested or dotted; None for none.
        settings: "KEY=VALUE" each; the last one of a key counts.
        began: What a run began with that is to go on, in place of the defaults.

    Raises:
        SourceError: If the recipe cannot be read.
        ConfigError: With every fault.
    """
    given, faults = read_arguments(settings)
    try:
        config = check_settings({**(began or {}), **_read_recipe(recipe), **given})
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    return config


def said(recipe: Path | None, settings: Sequence[str], key: str) -> str:
    """Give what a recipe or the arguments say of a key that is a text; empty if neither does.

    Args:
        recipe: As in `read_settings`, which finds fault with what is wrong.
        settings: Likewise.
        key: The key.

    Raises:
        SourceError: If the recipe cannot be read.
    """
    given, _ = read_arguments(settings)
    value = _absolute({**_read_recipe(recipe), **given}).get(key, "")
    return value if isinstance(value, str) else ""


def check_settings(flat: Mapping[str, object]) -> RunConfig:
    """Check flat settings; relative paths become absolute.

    Args:
        flat: Dotted key → scalar.

    Raises:
        ConfigError: With every fault.
    """
    return parse(_absolute(flat), NAME_CHECKS)


def to_toml(flat: Mapping[str, Any]) -> str:
    """Write flat scalars as TOML with quoted dotted keys, as Flower reads them.

    Args:
        flat: Key → string, number or boolean.
    """
    return "".join(f"{literal(key)} = {literal(value)}\n" for key, value in flat.items())


def describe_settings(config: RunConfig, *, explain: bool) -> str:
    """Write a configuration as a recipe that can be read back.

    Args:
        config: The configuration.
        explain: Whether to put a comment above each key.
    """
    meaning = {key: field.description or "" for key, field in fields().items()}
    lines = []
    for key, value in flatten(config).items():
        if explain:
            lines += textwrap.wrap(meaning[key], 80, initial_indent="# ", subsequent_indent="# ")
        # TOML cannot have a key `task` and a table of that name, so this one is quoted.
        shown = literal(key) if key == "task.options" else key
        lines.append(f"{shown} = {literal(value)}")
    return "\n".join(lines)


def literal(value: str | float) -> str:
    """Write a scalar as TOML: JSON, but for characters that only one of them escapes.

    Args:
        value: The scalar.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _absolute(flat: Mapping[str, object]) -> dict[str, object]:
    """Make relative paths absolute."""
    resolved = dict(flat)
    for key in (*_NAME_OR_PATH, *_PATHS):
        value = flat.get(key)
        if not isinstance(value, str) or not value:
            continue
        prefix = SCRATCH if key == "model.name" and value.startswith(SCRATCH) else ""
        path = Path(value.removeprefix(prefix)).expanduser()
        known = key == "data.name" and value in MIRRORS  # wins over a folder of that name
        if key in _PATHS or (path.exists() and not known):
            resolved[key] = f"{prefix}{path.absolute()}"
    return resolved


def _read_recipe(recipe: Path | None) -> dict[str, object]:
    """Read a TOML file of keys, nested or dotted."""
    if recipe is None:
        return {}
    recipe = shipped(recipe)
    try:
        nested = tomllib.loads(recipe.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(f"Cannot read the recipe {recipe}: {error.strerror}.") from error
    except ValueError as error:  # TOML or UTF-8
        raise SourceError(f"The recipe {recipe} is not valid TOML: {error}") from error
    return join(nested)


def shipped(recipe: Path) -> Path:
    """Let a bare name mean a recipe that comes with fedpeft.

    Args:
        recipe: A path, or the name of a shipped recipe or study.
    """
    if recipe.exists() or recipe.parent != Path():
        return recipe
    candidates = [folder / f"{recipe.stem}.toml" for folder in _recipe_folders()]
    return next((path for path in candidates if path.exists()), recipe)


def shipped_studies() -> list[Path]:
    """List the studies that come with fedpeft."""
    return sorted(path for folder in _recipe_folders() for path in folder.glob("study-*.toml"))


def _recipe_folders() -> tuple[Path, Path]:
    """Say where recipes are: in a wheel, and in a checkout."""
    package = Path(__file__).parents[1]
    return package / "recipes", package.parent / "recipes"


def read_arguments(settings: Sequence[str]) -> tuple[dict[str, object], list[Fault]]:
    """Read KEY=VALUE arguments.

    Args:
        settings: "KEY=VALUE" each; the last one of a key counts.

    Returns:
        Key → scalar, and a fault for each argument that has no equals sign.
    """
    flat: dict[str, object] = {}
    faults = []
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if equals:
            flat[key] = _value(key, text)
        else:
            faults.append(Fault(key=setting, value="", problem="expected KEY=VALUE."))
    return flat, faults


def _value(key: str, text: str) -> object:
    """Read a value: a TOML number or boolean where the key wants one, else text."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    field = fields().get(key)
    wants_text = field is not None and field.annotation not in (int, float, bool)
    if isinstance(value, str) or (isinstance(value, int | float) and not wants_text):
        return value
    return text
