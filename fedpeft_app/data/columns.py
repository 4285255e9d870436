"""Which columns a source has, and which of them a task reads."""

from dataclasses import dataclass
from typing import Literal

_KEYS = {"group": "data.partition-column"}  # the others are named after what they hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns hold what.

    Attributes:
        text: Column of the text.
        image: Column of the image, or of its path.
        prompt: Column of an instruction.
        response: Column of the answer to it.
        messages: Column of a whole conversation.
        label: Column of the label; blanks around a label do not count.
        group: Column whose values are natural nodes (a hospital, an author); "" = none.
        labels: Label names in order; empty = those the source declares, or found in the
            data and sorted.
    """

    text: str = "text"
    image: str = "image"
    prompt: str = "prompt"
    response: str = "response"
    messages: str = "messages"
    label: str = "label"
    group: str = ""
    labels: tuple[str, ...] = ()

    def of(self, field: str) -> str:
        """Give the column that holds a field, an attribute of this class."""
        column: str = getattr(self, field)
        return column

    def described(self, *fields: str) -> str:
        """Name the columns of fields with the keys that choose them, for messages."""
        return " and ".join(f"'{self.of(field)}' ({_key(field)})" for field in fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What a task needs of a source.

    Attributes:
        inputs: Alternatives, each the fields of one form of input; the first whose columns
            the source has is taken.
        labels: "one" label per example, "many" (any number of them), or "optional": a
            category that only decides which node an example goes to.
        separator: Between several labels in one cell of text.
        otherwise: What to do about a source that has none of these inputs; a sentence.
    """

    inputs: tuple[tuple[str, ...], ...]
    labels: Literal["one", "many", "optional"] = "one"
    separator: str = ","
    otherwise: str = ""


def _key(field: str) -> str:
    """Name the configuration key of a field."""
    return _KEYS.get(field, f"data.{field}-column")
