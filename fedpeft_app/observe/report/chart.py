"""A chart: inline SVG that stretches with the page, the same numbers as a table, data for hovering.

Positions are shares of the plot, so the browser lays it out at any width; text keeps its size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedpeft_app.observe.report.axis import Axis
from fedpeft_app.observe.report.figures import ABSENT
from fedpeft_app.observe.report.markup import Html, element, embedded
from fedpeft_app.observe.report.tables import folded, table

COLOURS, MARKS, DASHES = 7, 7, 4  # of report.css and of `MARK_SHAPES`
_MOST_MARKED = 60  # points of a line that have marks
_MOST_DRAWN = 400  # points of a line; a screen shows no more
_FEW_TICKS = 5  # fit on a phone
MARK_SHAPES = Html(
    '<svg width="0" height="0" aria-hidden="true" class="shapes"><defs>'
    '<circle id="m0" r="3.5"/><path id="m1" d="M-3.2-3.2h6.4v6.4h-6.4z"/>'
    '<path id="m2" d="M0-4.6 4.4 3.4h-8.8z"/><path id="m3" d="M0-4.8 4.8 0 0 4.8-4.8 0z"/>'
    '<path id="m4" d="M0 4.6 4.4-3.4h-8.8z"/>'
    '<path id="m5" d="M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z"/>'
    '<path id="m6" d="M0-2.1 2.5-4.6 4.6-2.5 2.1 0 4.6 2.5 2.5 4.6 0 2.1-2.5 4.6-4.6 2.5-2.1 0'
    '-4.6-2.5-2.5-4.6z"/></defs></svg>'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value.

    Attributes:
        x: Where it lies.
        y: Its value; None where nothing was measured.
        half_width: Of its interval; 0 = none is drawn.
    """

    x: float
    y: float | None
    half_width: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values that belong together.

    Attributes:
        name: What they are.
        points: By rising x.
        texts: How each point is written in full; empty = as the axis writes it.
        look: Which colour, mark and dashes; None = by its place in the chart.
    """

    name: str
    points: Sequence[Point]
    texts: Sequence[str] = ()
    look: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Series over one quantity.

    Attributes:
        title: What it shows.
        x_name: The quantity below, with its unit.
        x: Its axis.
        y: The axis of the values.
        series: At least one.
        tab: What tells it from others in its place.
        mark: An x that is drawn as a line, and why; None = none.
        apart: Whether every point stands for itself, and no line joins them.
        own_x: Whether series have points at places of their own.
        note: What else there is to know.
    """

    title: str
    x_name: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    tab: str = ""
    mark: tuple[float, str] | None = None
    apart: bool = False
    own_x: bool = False
    note: str = ""


def figure(chart: Chart) -> Html:
    """Draw a chart.

    Args:
        chart: What to draw.
    """
    return element(
        "figure",
        element("figcaption", chart.title),
        _legend(chart),
        element(
            "div",
            _y_labels(chart),
            element("div", _area(chart), class_="plot", data_free=chart.own_x),
            _x_labels(chart),
            class_="frame",
        ),
        element("p", chart.x_name, class_="axis"),
        element("p", chart.note, class_="note") if chart.note else None,
        folded("Numbers", _table(chart)),
        embedded(_stops(chart)),
        class_="chart",
        data_tab=chart.tab or None,
    )


def panel(charts: Sequence[Chart]) -> Html:
    """Put charts into one place, of which a reader sees one at a time; all, without scripts.

    Args:
        charts: What to draw, each with a tab of its own.
    """
    return element("div", *map(figure, charts), class_="panel") if charts else Html("")


# ------------------------------------------------------------------ drawing


def _legend(chart: Chart) -> Html | None:
    """Name the series beside their marks; the script lets a reader hide them."""
    if len(chart.series) == 1 and not chart.apart:
        return None
    items = [
        element(
            "li",
            element(
                "svg",
                None if chart.apart else _line("0", "50%", "100%", "50%", class_=_dash(look)),
                _use(look, "50%", "50%"),
                class_=f"key {_colour(look)}",
                aria_hidden="true",
            ),
            element("span", one.name),
            data_series=at,
        )
        for at, one in enumerate(chart.series)
        for look in [_look(one, at)]
    ]
    return element("ul", *items, class_="legend")


def _area(chart: Chart) -> Html:
    """Draw the lines and marks."""
    grid = [
        _line("0", _down(chart.y, tick), "100%", _down(chart.y, tick)) for tick in chart.y.ticks
    ]
    chosen = []
    if chart.mark:
        across = _percent(chart.x.share(chart.mark[0]))
        chosen.append(
            element(
                "g",
                _line(across, "0", across, "100%"),
                element("title", chart.mark[1]),
                class_="chosen",
            )
        )
    names = ", ".join(one.name for one in chart.series)
    return element(
        "svg",
        element("g", *grid, class_="grid"),
        *chosen,
        *(_drawn(chart, at, one) for at, one in enumerate(chart.series)),
        role="img",
        aria_label=f"{chart.title}: {names}. The numbers follow in a table.",
        class_="area",
    )


def _drawn(chart: Chart, at: int, series: Series) -> Html:
    """Draw one series."""
    points, look = thinned(series.points), _look(series, at)
    parts: list[Html] = []
    if not chart.apart:
        lines = [
            Html(f'<polyline points="{places}" class="{_dash(look)}"/>')
            for run in _runs(points)
            if (places := _places(chart, run))
        ]
        parts.append(
            element(
                "svg", *lines, viewBox="0 0 1000 1000", preserveAspectRatio="none", class_="lines"
            )
        )
    for point in points:
        if point.y is not None and point.half_width:
            across = _percent(chart.x.share(point.x))
            far = [point.y + side * point.half_width for side in (-1, 1)]
            ends = [_down(chart.y, min(max(end, chart.y.low), chart.y.high)) for end in far]
            parts.append(_line(across, ends[0], across, ends[1], class_="interval"))
    if chart.apart or len(points) <= _MOST_MARKED:
        parts += [
            _use(look, _percent(chart.x.share(point.x)), _down(chart.y, point.y))
            for point in points
            if point.y is not None
        ]
    return element("g", *parts, class_=_colour(look), data_series=at)


def _runs(points: Iterable[Point]) -> list[list[Point]]:
    """Part points where something was not measured, so that no line claims it was."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if point.y is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if len(run) > 1]


def _places(chart: Chart, run: Iterable[Point]) -> str:
    """Write points in thousandths of the plot."""
    return " ".join(
        f"{1000 * chart.x.share(point.x):.1f},{1000 * (1 - chart.y.share(point.y)):.1f}"
        for point in run
        if point.y is not None
    )


def _y_labels(chart: Chart) -> Html:
    """Write the values beside the plot."""
    return element(
        "svg",
        *(
            element("text", chart.y.form(tick), x="100%", y=_down(chart.y, tick), dy="0.32em")
            for tick in chart.y.ticks
        ),
        class_="y",
        aria_hidden="true",
    )


def _x_labels(chart: Chart) -> Html:
    """Write the values below the plot."""
    ticks = [(chart.x.share(tick), chart.x.form(tick)) for tick in chart.x.ticks]
    return element(
        "svg",
        *(
            element(
                "text",
                name,
                x=_percent(share),
                y="1em",
                class_="odd" if at % 2 and len(ticks) > _FEW_TICKS else None,
            )
            for at, (share, name) in enumerate(ticks)
        ),
        class_="x",
        aria_hidden="true",
    )


def _table(chart: Chart) -> Html:
    """Write the same numbers."""
    if chart.own_x:
        rows = [
            [one.name, chart.x.form(point.x), _text(chart, one, at)]
            for one in chart.series
            for at, point in enumerate(one.points)
        ]
        return table(["", chart.x_name, chart.title], rows, label=chart.title)
    found: dict[float, dict[int, str]] = {}
    for number, one in enumerate(chart.series):
        for at, point in enumerate(one.points):
            found.setdefault(point.x, {})[number] = _text(chart, one, at)
    rows = [
        [chart.x.form(x), *(found[x].get(number, ABSENT) for number in range(len(chart.series)))]
        for x in sorted(found)
    ]
    return table([chart.x_name, *(one.name for one in chart.series)], rows, label=chart.title)


def _stops(chart: Chart) -> list[list[object]]:
    """Give the script each place where it may stop: its share, title, and what is there."""
    stops: dict[tuple[float, int], list[list[object]]] = {}
    for number, one in enumerate(chart.series):
        drawn = {id(point) for point in thinned(one.points)}
        for at, point in enumerate(one.points):
            if id(point) in drawn and point.y is not None:
                key = (point.x, number if chart.own_x else 0)
                share = round(1 - chart.y.share(point.y), 4)
                stops.setdefault(key, []).append([number, share, _text(chart, one, at)])
    return [
        [round(chart.x.share(x), 4), chart.x.form(x), items]
        for (x, _), items in sorted(stops.items())
    ]


def thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Leave points out where there are more than can be seen; the last one stays.

    Args:
        points: Of one series.
    """
    if len(points) <= _MOST_DRAWN:
        return points
    every = -(-len(points) // _MOST_DRAWN)
    return [point for at, point in enumerate(points) if at % every == 0 or at == len(points) - 1]


def _text(chart: Chart, series: Series, at: int) -> str:
    """Write a point's value."""
    if series.texts:
        return series.texts[at]
    value = series.points[at].y
    return ABSENT if value is None else chart.y.form(value)


def _line(x1: str, y1: str, x2: str, y2: str, class_: str | None = None) -> Html:
    """Write a line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _look(series: Series, at: int) -> int:
    """Choose how a series looks."""
    return at if series.look is None else series.look


def _use(at: int, x: str, y: str) -> Html:
    """Write a series' mark."""
    return element("use", href=f"#m{(at + at // COLOURS) % MARKS}", x=x, y=y)


def _colour(at: int) -> str:
    """Name a series' colour."""
    return f"c{at % COLOURS}"


def _dash(at: int) -> str:
    """Name how a series' line is broken."""
    return f"d{at % DASHES}"


def _down(axis: Axis, value: float) -> str:
    """Say how far below the top a value lies."""
    return _percent(1 - axis.share(value))


def _percent(share: float) -> str:
    """Write a share of the plot."""
    return f"{100 * share:.2f}%"
