"""What all pictures share: colours, marks, panels, and how they become SVG."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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

    def title(self, column: str) -> str:
        """Name a column's panel; empty where there is one column."""
        return f"{self.story.column_title} = {column}" if column else ""


def by_column(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Put fields of a column together.

    Args:
        rows: The fields.
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.column, []).append(row)
    return found


@dataclass(frozen=True, slots=True)
class Look:
    """How a row looks, the same in every picture.

    Attributes:
        colour: Of marks and lines.
        mark: Of points.
        dash: Of lines.
    """

    colour: str
    mark: str
    dash: str


def look(portrayal: Portrayal, row: str) -> Look:
    """Give a row its look.

    Args:
        portrayal: What is drawn.
        row: The row's name.
    """
    at = portrayal.rows.index(row)
    return Look(
        _COLOURS[at % len(_COLOURS)],
        _MARKS[at % len(_MARKS)],
        _DASHES[at // len(_COLOURS) % len(_DASHES)],
    )


def name_of(row: str) -> str:
    """Name a row in a legend: matplotlib leaves out names that are empty, or begin with "_".

    Args:
        row: The row's name.
    """
    return f" {row}" if row.startswith("_") else row or "all"


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
) -> bytes:
    """Draw panels side by side, with the same axis of the metric, and one legend.

    Args:
        titles: Of the panels, at least one.
        draw: Draws into a panel, given its number.
        x_name: What is along the horizontal axis.
        y_name: What is along the vertical one.
        legend: Whether to say which look is whose.

    Returns:
        SVG.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    abreast = min(len(titles), _ABREAST)
    high = math.ceil(len(titles) / abreast)
    with mpl.rc_context(_STYLE):
        width, height = _PANEL_INCHES
        figure = Figure(figsize=(width * abreast + 0.4, height * high + 0.6), layout="constrained")
        grid = figure.subplots(high, abreast, sharey=True, squeeze=False)
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
