"""Options, as JSON has them → arguments of a plug-in, each of the type it is annotated with."""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from fedpeft_app.config.flat import worded


def typed(factory: Callable[..., object], given: Mapping[str, Any]) -> dict[str, Any]:
    """Check options against the annotations of what they are for.

    Args:
        factory: A function, or a class for the arguments of its constructor.
        given: Argument → value, as JSON has it.

    Returns:
        The same, each value as its annotation has it: 10 is 10.0 where a float is wanted. What
        has no annotation, or none that JSON could be checked against, stays as it is.

    Raises:
        ValueError: If a value is of another type; true is no number, and "false" no boolean.
    """
    try:
        parameters = inspect.signature(factory, eval_str=True).parameters
    except NameError:  # a plug-in that imports names for type checkers only
        return dict(given)
    wanted = {name: one.annotation for name, one in parameters.items()}
    return {
        name: _typed(name, value, wanted.get(name, inspect.Parameter.empty))
        for name, value in given.items()
    }


def _typed(name: str, value: Any, annotation: Any) -> Any:
    """Check one value."""
    if annotation is inspect.Parameter.empty:
        return value
    try:
        adapter = TypeAdapter(annotation)
    except PydanticSchemaGenerationError:  # a class of the plug-in's own
        return value
    try:
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, (name, *wrong["loc"])))
        raise ValueError(f"{place} {worded(wrong['msg'])}, got {wrong['input']!r}") from None
