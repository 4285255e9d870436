"""Tables and lists of facts, as a reader can scroll, copy and hear them."""

from collections.abc import Mapping, Sequence

from fedpeft_app.observe.report.markup import Child, Html, element, join


def table(
    head: Sequence[str],
    body: Sequence[Sequence[Child]],
    *,
    label: str,
    names: int = 1,
    class_: str | None = None,
) -> Html:
    """Write a table that scrolls by itself where it is wider than the page.

    Args:
        head: A title per column.
        body: Rows; the first `names` cells of each are names, the others numbers.
        label: What it shows, for those who cannot see it.
        names: Columns of names, at least one; the first is the row's header.
        class_: A class of its style sheet.
    """
    titles = [
        element("th", one, scope="col", class_=_side(at, names)) for at, one in enumerate(head)
    ]
    rows = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", one, class_=_side(at, names)) for at, one in enumerate(row[1:], 1)),
        )
        for row in body
    ]
    inside = element(
        "table",
        element("thead", element("tr", *titles)),
        element("tbody", *rows),
        class_=class_,
    )
    return scrolling(inside, label)


def scrolling(content: Html, label: str) -> Html:
    """Let something scroll sideways by itself, with the keyboard too.

    Args:
        content: What may be wide.
        label: What it is.
    """
    return element("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")


def facts(rows: Mapping[str, Child], class_: str = "facts") -> Html:
    """Write names with what they stand for.

    Args:
        rows: Name → text; what is None is left out.
        class_: A class of its style sheet.
    """
    pairs = [
        element("div", element("dt", name), element("dd", value))
        for name, value in rows.items()
        if value is not None
    ]
    return element("dl", *pairs, class_=class_)


def folded(title: str, *content: Child, open_: bool = False) -> Html:
    """Write what a reader unfolds.

    Args:
        title: What it is.
        content: The thing itself.
        open_: Whether it is unfolded at first.
    """
    return element("details", element("summary", title), *content, open=open_)


def section(identifier: str, title: str, *content: Child) -> Html:
    """Write a section.

    Args:
        identifier: Its anchor.
        title: Its heading.
        content: What is in it; without any there is no section.
    """
    if not any(content):  # an empty part is none
        return Html("")
    heading = element("h2", title, id=f"{identifier}-title")
    return element(
        "section", heading, join(*content), id=identifier, aria_labelledby=f"{identifier}-title"
    )


def _side(column: int, names: int) -> str | None:
    """Put numbers to the right."""
    return "number" if column >= names else None
