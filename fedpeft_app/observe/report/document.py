"""The page around a report: one file, nothing that a browser would have to fetch."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from string import Template

from fedpeft_app.observe.report.chart import MARK_SHAPES
from fedpeft_app.observe.report.markup import Child, Html, element, join, text


def document(title: str, header: Html, sections: Mapping[str, Html]) -> str:
    """Write a whole page.

    Args:
        title: What the browser's window is called.
        header: What stands above everything.
        sections: What the links at the top say → a section with an id; empty ones are left out.

    Guarantee:
        The page's own policy (CSP) lets a browser load nothing, and run nothing but report.js.
    """
    style, script = _part("report.css"), _part("report.js")
    shown = {name: one for name, one in sections.items() if one}
    return Template(_part("report.html")).substitute(
        title=text(title),
        policy=text(
            f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
            f"img-src data:; base-uri 'none'; form-action 'none'"
        ),
        style=style,
        script=script,
        header=header,
        links=_links(shown),
        body=join(MARK_SHAPES, *shown.values()),
    )


def _links(sections: Mapping[str, Html]) -> Html:
    """Lead to the sections."""
    items: list[Child] = [
        element("li", element("a", name, href=f"#{_anchor(one)}")) for name, one in sections.items()
    ]
    return element("ul", *items)


def _anchor(section: Html) -> str:
    """Find a section's id, which `tables.section` wrote."""
    return section.partition('<section id="')[2].partition('"')[0]


@cache
def _part(name: str) -> str:
    """Read one of the page's own files."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    """Name what may stand in the page, as its policy does."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
