"""HTML from trees of elements: whatever is not HTML already is escaped, by its type."""

import json
import re
from html import escape
from typing import Any

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")  # a browser shows none of them


class Html(str):
    """Text that is HTML already; `element` makes it, and nothing else should."""

    __slots__ = ()


Child = str | None
"""What an element holds: `Html` as it is, other text escaped, None left out."""


def text(content: str) -> Html:
    """Escape text.

    Args:
        content: Anything, such as a reason that a node gave.

    Returns:
        The same to a reader; characters that cannot be written, or are none, as a mark.
    """
    if isinstance(content, Html):
        return content
    writable = content.encode("utf-8", "replace").decode("utf-8")
    return Html(escape(_CONTROL.sub("\ufffd", writable)))


def element(name: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """Write an element.

    Args:
        name: Its tag.
        children: What it holds.
        attributes: Name → value, "_" for "-", and one at the end left out (`class_`); True for
            an attribute without a value, False and None for none.
    """
    inside = "".join(text(child) for child in children if child is not None)
    return Html(f"<{name}{_attributes(attributes)}>{inside}</{name}>")


def join(*parts: Child) -> Html:
    """Write one thing after another.

    Args:
        parts: As the children of an element.
    """
    return Html("".join(text(part) for part in parts if part is not None))


def embedded(value: Any) -> Html:
    """Write data for the page's script, in an element that no browser runs.

    Args:
        value: JSON values.
    """
    written = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for mark in "<>&":  # else "</script>" in a name would end the element
        written = written.replace(mark, f"\\u{ord(mark):04x}")
    return Html(f'<script type="application/json">{written}</script>')


def _attributes(attributes: dict[str, str | float | bool | None]) -> str:
    """Write attributes."""
    written = []
    for name, value in attributes.items():
        plain = name.removesuffix("_").replace("_", "-")
        if value is True:
            written.append(f" {plain}")
        elif value is not None and value is not False:
            written.append(f' {plain}="{text(str(value))}"')
    return "".join(written)
