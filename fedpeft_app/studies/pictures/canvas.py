"""What all pictures share: colours, marks, panels, and how they become SVG."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedpeft_app.observe.report.axis import reach
from fedpeft_app.observe.report.study import Row, StudyStory

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers tell apart; the report has the same ones.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")
_GREY = "#888888"
_PANEL_INCHES = (4.6, 3.4)
_ABREAST = 3  # panels at most
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
    told = [(row.mean, row.half_width or 0.0) for row in fields if row.mean is not None]
    low, high = reach([mean for mean, _ in told], [half for _, half in told])
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
    legend: bool = True,
    abreast: int = 0,
) -> bytes:
    """Draw panels side by side, each line with the same axis of the metric, and one legend.

    Args:
        titles: Of the panels, at least one.
        draw: Draws into a panel, given its number.
        x_name: What is along the horizontal axis.
        y_name: What is along the vertical one.
        legend: Whether to say which look is whose.
        abreast: Panels side by side; 0 = as many as are easily read.

    Returns:
        SVG.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    abreast = abreast or min(len(titles), _ABREAST)
    high = math.ceil(len(titles) / abreast)
    with mpl.rc_context(_STYLE):
        width, height = _PANEL_INCHES
        figure = Figure(figsize=(width * abreast + 0.4, height * high + 0.6), layout="constrained")
        grid = figure.subplots(high, abreast, sharey="row", squeeze=False)
        every = [axes for line in grid for axes in line]
        for number, (axes, title) in enumerate(zip(every, titles, strict=False)):
            draw(axes, number)
            axes.set_title(title)
            axes.grid(color=_GREY, alpha=0.25)
        for axes in every[len(titles) :]:
            axes.set_visible(False)
        figure.supxlabel(x_name, fontsize=9)
        figure.supylabel(y_name, fontsize=9)
        if legend:  # of at least one row that is drawn
            shown: dict[str, Artist] = {}
            for axes in every[: len(titles)]:
                handles, names = axes.get_legend_handles_labels()
                shown |= dict(zip(names, handles, strict=True))
            across = figure.get_figwidth() / (_LETTER_INCHES * (max(map(len, shown)) + 7))
            abreast = max(1, int(across))
            figure.set_figheight(figure.get_figheight() + len(shown) // abreast * _LINE_INCHES)
            figure.legend([*shown.values()], [*shown], loc="outside upper center", ncols=abreast)
        text = io.BytesIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
