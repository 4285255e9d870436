"""What the bytes buy: the metric against the bytes of whole runs, with the Pareto front."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fedpeft_app.observe.report.study import Row
from fedpeft_app.studies.pictures.canvas import (
    Portrayal,
    by_panel,
    logarithmic,
    look,
    name_of,
    panels,
    show_means,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MIB = 2**20
Points = list[tuple[float, float]]


def against_bytes(portrayal: Portrayal) -> bytes | None:
    """Draw every field with a figure and messages as a point with its interval.

    Args:
        portrayal: What is drawn.

    Returns:
        SVG; None if fewer than two fields of a column have both.
    """
    told = [row for row in portrayal.story.rows if row.drawn and row.run_bytes]
    shown = {place: rows for place, rows in by_panel(told).items() if len(rows) > 1}
    if not shown:
        return None
    fields = list(shown.values())
    lower = portrayal.story.lower_is_better

    def draw(axes: "Axes", number: int) -> None:
        points = [_place(row) for row in fields[number]]
        front = pareto_front(points, lower_is_better=lower)
        axes.step(*zip(*front, strict=True), where="post", color="#888888", linewidth=1, zorder=1)
        for row, (sent, mean) in zip(fields[number], points, strict=True):
            own = look(portrayal, row.series)
            width = row.half_width or 0.0
            axes.errorbar(
                sent,
                mean,
                yerr=width,
                label=name_of(row.series),
                color=own.colour,
                fmt=own.mark,
                capsize=3,
            )
        axes.margins(x=0.15)
        group = [row for rows in fields for row in rows if row.group == fields[number][0].group]
        show_means(axes, group)
        logarithmic(axes)

    return panels(
        [portrayal.title(*place) for place in shown],
        draw,
        groups=[group for group, _ in shown],
        x_name="MiB of a whole run, both directions; grey: the Pareto front",
        y_name=f"{portrayal.story.metric}, mean and 95 % interval",
    )


def pareto_front(points: Iterable[tuple[float, float]], *, lower_is_better: bool = False) -> Points:
    """Give the points that no other one beats: as few bytes, and as good.

    Args:
        points: Bytes and the metric.
        lower_is_better: Whether less of the metric is better.

    Returns:
        The front, by rising bytes.
    """
    sign = -1 if lower_is_better else 1
    front: Points = []
    for sent, value in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * value > sign * front[-1][1]:
            front.append((sent, value))
    return front


def _place(row: Row) -> tuple[float, float]:
    """Give a field's mebibytes and metric."""
    return (row.run_bytes or 0.0) / _MIB, row.mean or 0.0
