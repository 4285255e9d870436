"""Flower's flat scalars ↔ the schema, with every fault reported at once."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fedpeft_app.config.checks import cross_section_faults
from fedpeft_app.config.schema import RunConfig
from fedpeft_app.errors import ConfigError, Fault, UnknownNameError
from fedpeft_app.registry import near_miss

Scalar = str | int | float | bool
NameCheck = Callable[[str], object]

_WORDING = (  # pydantic's phrase → ours
    ("Input should be", "must be"),
    ("String should", "must"),
    ("Value error, ", ""),
)


def fields() -> dict[str, FieldInfo]:
    """List every flat key with its field, in the order of the schema.

    Returns:
        Dotted kebab-case key → pydantic's description of the field.
    """
    found: dict[str, FieldInfo] = {}
    for name, field in RunConfig.model_fields.items():
        key = field.alias or name
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            for inner_name, inner in section.model_fields.items():
                found[f"{key}.{inner.alias or inner_name}"] = inner
        else:
            found[key] = field
    return found


def flatten(config: RunConfig) -> dict[str, Scalar]:
    """Write a configuration as Flower's flat scalars, every key present.

    Guarantee:
        `parse(flatten(config)) == config`.
    """
    flat: dict[str, Scalar] = {}
    for key, value in config.model_dump(by_alias=True).items():
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": scalar for inner, scalar in value.items()})
        else:
            flat[key] = value
    return flat


def defaults() -> dict[str, Scalar]:
    """Give the default of every flat key."""
    return flatten(RunConfig())


def parse(flat: Mapping[str, object], names: Mapping[str, NameCheck] | None = None) -> RunConfig:
    """Read flat scalars into a checked configuration.

    Args:
        flat: Dotted kebab-case key → scalar; missing keys take their defaults.
        names: Key → a look-up that raises `UnknownNameError` for a name it does not know.

    Returns:
        The frozen configuration.

    Raises:
        ConfigError: With every fault: unknown keys, wrong values, unknown names, and
            combinations that make no sense.
    """
    known = fields()
    faults = [
        Fault(key=key, value=value, problem=f"unknown key.{near_miss(key, known)}")
        for key, value in flat.items()
        if key not in known
    ]
    given = {key: value for key, value in flat.items() if key in known}
    faults += _schema_faults(given, known) + _name_faults(given, names or {})
    wrong = {fault.key for fault in faults}
    sound = {key: value for key, value in given.items() if key not in wrong}
    config = RunConfig.model_validate(_nest(sound))
    faults += cross_section_faults(config, unsure=wrong)
    if faults:
        raise ConfigError(faults)
    return config


def join(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join nested tables, as TOML has them, into dotted keys.

    Args:
        nested: Key → value or table.
        prefix: What stands before every key.
    """
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat.update(join(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def worded(problem: str) -> str:
    """Say in our words what pydantic finds wrong.

    Args:
        problem: Its message.
    """
    for theirs, ours in _WORDING:
        problem = problem.replace(theirs, ours)
    return problem


def _nest(flat: Mapping[str, object]) -> dict[str, Any]:
    """Group dotted keys by section, as the schema does."""
    top_level = {field.alias or name for name, field in RunConfig.model_fields.items()}
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        if key in top_level:
            nested[key] = value
        else:
            section, _, rest = key.partition(".")
            nested.setdefault(section, {})[rest] = value
    return nested


def _schema_faults(given: Mapping[str, object], known: Mapping[str, FieldInfo]) -> list[Fault]:
    """Collect what pydantic finds wrong, in the user's terms."""
    try:
        RunConfig.model_validate(_nest(given))
    except ValidationError as error:
        return [_fault(detail, known) for detail in error.errors()]
    return []


def _fault(detail: ErrorDetails, known: Mapping[str, FieldInfo]) -> Fault:
    """Word one pydantic error."""
    key = ".".join(str(part) for part in detail["loc"])
    problem = worded(detail["msg"])
    choices = str(detail.get("ctx", {}).get("expected", ""))
    named = choices.replace(" or ", ", ").replace("'", "").split(", ") if choices else []
    hint = near_miss(str(detail["input"]), named)
    meaning = known[key].description if key in known else None
    return Fault(
        key=key,
        value=detail["input"],
        problem=f"{problem} ({meaning}).{hint}" if meaning else problem,
    )


def _name_faults(given: Mapping[str, object], names: Mapping[str, NameCheck]) -> list[Fault]:
    """Look every plug-in name up."""
    faults = []
    for key, check in names.items():
        value = given.get(key)
        if isinstance(value, str) and value:
            try:
                check(value)
            except UnknownNameError as error:
                faults.append(Fault(key=key, value=value, problem=str(error)))
    return faults
