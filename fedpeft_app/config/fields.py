"""The kinds of fields that the configuration is made of, and the group they stand in."""

import json
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _kebab(name: str) -> str:
    """Name a key as Flower does: `batch_size` → `batch-size`."""
    return name.replace("_", "-")


def _json_object(text: str) -> str:
    """Refuse text that is not a JSON object."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # JSONDecodeError is a ValueError
        raise ValueError(f"must be a JSON object such as '{{\"eta\": 0.1}}' ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004  pydantic collects ValueErrors only
            f"must be a JSON object such as '{{\"eta\": 0.1}}', not a {type(value).__name__}"
        )
    return text


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads but JSON does not have."""
    raise ValueError(f"{name} is no JSON number")


def _layer_choice(text: str) -> str:
    """Refuse what chooses no layers."""
    if not _LAYERS.fullmatch(text):
        raise ValueError("must be 'all', 'first:K', 'last:K', or numbers and ranges: '0-3,5'")
    return text


def _dropout_or_own(value: float) -> float:
    """Refuse what is neither a probability nor the mark for the checkpoint's own."""
    if value < 0.0 and value != -1.0:
        raise ValueError("must be -1, or at least 0 and less than 1")
    return value


_LAYERS = re.compile(r"all|(first|last):[1-9][0-9]*|[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")

JsonObject = Annotated[str, AfterValidator(_json_object)]
LayerChoice = Annotated[str, AfterValidator(_layer_choice)]
DropoutOrOwn = Annotated[float, Field(ge=-1.0, lt=1.0), AfterValidator(_dropout_or_own)]
Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Held = Annotated[float, Field(ge=0.0, lt=1.0)]
Rate = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Section(BaseModel):
    """A frozen group of keys; unknown keys and wrong types are faults."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=_kebab,
        populate_by_name=True,
        protected_namespaces=(),
    )
