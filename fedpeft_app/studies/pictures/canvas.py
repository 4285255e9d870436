"""What all pictures share: colours, marks, panels, and how they become SVG."""

import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from fedpeft_app.observe.report.axis import reach
from fedpeft_app.observe.report.study import Row, StudyStory

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart; the report has the same ones.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")
_GREY = "#888888"
_PANEL_INCHES = (4.6, 3.4)
_ABREAST, _ABREAST_OF_GROUPS = 3, 4  # panels at most, of one group and of several
_ROOM = 0.05  # of the span, beyond what is shown
_DECADES = 100.0  # less than two: two and five are named, too
_LETTER_INCHES, _LINE_INCHES = 0.08, 0.17  # of a legend, more or less
_STYLE = {
    "svg.hashsalt": "fedpeft",
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.parse_math": False,  # names of rows are no formulas
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrayal:
    """What is drawn.

    Attributes:
        story: The study.
        columns: Keys whose values make a column.
        places: Column → the values of those keys, as written.
        nodes: (Row, column) → what single nodes measured, over all seeds.
        node_metric: Which metric that is.
    """

    story: StudyStory
    columns: Sequence[str] = ()
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)
    nodes: Mapping[tuple[str, str], Sequence[float]] = field(default_factory=dict)
    node_metric: str = ""

    @property
    def rows(self) -> list[str]:
        """The rows' names, in order."""
        return list(dict.fromkeys(row.row for row in self.story.rows))

    def title(self, group: str, column: str = "") -> str:
        """Name a panel; empty where there is one."""
        return ", ".join(filter(None, (group, column and f"{self.story.column_title} = {column}")))


def by_panel(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Put fields of a group and column together, the groups one after the other.

    Args:
        rows: The fields.
    """
    groups, found = (
        list(dict.fromkeys(row.group for row in rows)),
        dict[tuple[str, str], list[Row]](),
    )
    for row in sorted(rows, key=lambda row: groups.index(row.group)):
        found.setdefault((row.group, row.column), []).append(row)
    return found


@dataclass(frozen=True, slots=True)
class Look:
    """How a series looks, the same in every picture and group.

    Attributes:
        colour: Of marks and lines.
        mark: Of points.
        dash: Of lines.
    """

    colour: str
    mark: str
    dash: str


def look(portrayal: Portrayal, series: str) -> Look:
    """Give a series its look.

    Args:
        portrayal: What is drawn.
        series: A row's name without its group.
    """
    at = list(dict.fromkeys(row.series for row in portrayal.story.rows)).index(series)
    return Look(
        _COLOURS[at % len(_COLOURS)],
        _MARKS[at % len(_MARKS)],
        _DASHES[at // len(_COLOURS) % len(_DASHES)],
    )


def name_of(series: str) -> str:
    """Name a series in a legend: matplotlib leaves out names that are empty, or begin with "_".

    Args:
        series: A row's name, with its group or without.
    """
    return f" {series}" if series.startswith("_") else series or "all"


def show_means(axes: "Axes", fields: Sequence[Row]) -> None:
    """Let the vertical axis show means and what there is room for of their intervals.

    Args:
        axes: A panel in which they are drawn.
        fields: All fields of its group, that its panels have one axis.
    """
    low, high = reach(
        [row.mean or 0.0 for row in fields], [row.half_width or 0.0 for row in fields]
    )
    room = (high - low) * _ROOM or abs(high) * _ROOM or _ROOM
    axes.set_ylim(low - room, high + room)


def logarithmic(axes: "Axes") -> None:
    """Make the horizontal axis logarithmic, with plain numbers.

    Args:
        axes: A panel in which something is drawn.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    least, most = axes.get_xlim()
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    narrow = most / least < _DECADES
    axes.xaxis.set_major_formatter(plain)
    axes.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0) if narrow else "auto"))
    axes.xaxis.set_minor_formatter(plain if narrow else NullFormatter())


def panels(
    titles: Sequence[str],
    draw: Callable[["Axes", int], None],
    *,
    x_name: str,
    y_name: str,
    groups: Sequence[str] = (),
    legend: bool = True,
) -> bytes:
    """Draw panels, those of a group side by side with the same axis of the metric, and one legend.

    Args:
        titles: Of the panels, at least one.
        draw: Draws into a panel, given its number.
        x_name: What is along the horizontal axis.
        y_name: What is along the vertical one.
        groups: The panels' groups, one after the other; empty = all are of one.
        legend: Whether to say which look is whose.

    Returns:
        SVG.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    groups = groups or [""] * len(titles)
    places = _places(groups)
    high, abreast = (1 + max(place[way] for place in places) for way in (0, 1))
    with mpl.rc_context(_STYLE):
        width, height = _PANEL_INCHES
        figure = Figure(figsize=(width * abreast + 0.4, height * high + 0.6), layout="constrained")
        grid = figure.subplots(high, abreast, squeeze=False)
        every = [grid[place] for place in places]
        for number, (axes, title) in enumerate(zip(every, titles, strict=True)):
            draw(axes, number)
            axes.set_title(title)
            axes.grid(color=_GREY, alpha=0.25)
        for place in product(range(high), range(abreast)):
            grid[place].set_visible(place in places)
        for group in dict.fromkeys(groups):
            _level([axes for axes, of in zip(every, groups, strict=True) if of == group])
        figure.supxlabel(x_name, fontsize=9)
        figure.supylabel(y_name, fontsize=9)
        if legend:  # of at least one row that is drawn
            _explain(figure, every)
        text = io.BytesIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _places(groups: Sequence[str]) -> list[tuple[int, int]]:
    """Give each panel its line and its place there; a group of several begins a line."""
    sizes = Counter(groups)
    abreast = _ABREAST_OF_GROUPS if len(sizes) > 1 else _ABREAST
    places: list[tuple[int, int]] = []
    line, at = 0, 0
    for number, group in enumerate(groups):
        begins = number > 0 and group != groups[number - 1] and max(sizes.values()) > 1
        if begins or at == abreast:
            line, at = line + 1, 0
        places.append((line, at))
        at += 1
    return places


def _level(alike: Sequence["Axes"]) -> None:
    """Give panels one vertical axis, with its numbers where a line begins."""
    ends = [end for axes in alike for end in axes.get_ylim()]
    for number, axes in enumerate(alike):
        axes.set_ylim(min(ends), max(ends))
        place = axes.get_subplotspec()
        if number and place and not place.is_first_col():
            axes.tick_params(labelleft=False)


def _explain(figure: "Figure", every: Sequence["Axes"]) -> None:
    """Add a legend above the panels, each name once."""
    shown: dict[str, Artist] = {}
    for axes in every:
        handles, names = axes.get_legend_handles_labels()
        shown |= dict(zip(names, handles, strict=True))
    across = figure.get_figwidth() / (_LETTER_INCHES * (max(map(len, shown)) + 7))
    abreast = max(1, int(across))
    figure.set_figheight(figure.get_figheight() + len(shown) // abreast * _LINE_INCHES)
    figure.legend([*shown.values()], [*shown], loc="outside upper center", ncols=abreast)
