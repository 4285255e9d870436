"""A row's metric over two keys, as a grid of fields: how stable it is."""

from typing import TYPE_CHECKING

from fedpeft_app.studies.pictures.canvas import Portrayal, panels
from fedpeft_app.studies.pictures.columns import placed

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def heat_map(portrayal: Portrayal) -> bytes | None:
    """Draw a grid for each row, the first key of the columns upwards, the second to the right.

    Args:
        portrayal: What is drawn.

    Returns:
        SVG; None unless two keys make the columns, with figures.
    """
    told = {(r.row, r.column): r.mean or 0.0 for r in portrayal.story.rows if r.drawn}
    if len(portrayal.columns) != 2 or len(told) < 2:
        return None
    rows = [name for name in portrayal.rows if any(row == name for row, _ in told)]
    high, wide = (
        list(placed(list(dict.fromkeys(values[at] for values in portrayal.places.values()))))
        for at in (0, 1)
    )
    least, most = min(told.values()), max(told.values())

    def draw(axes: "Axes", number: int) -> None:
        values = [[float("nan")] * len(wide) for _ in high]
        for column, (first, second) in portrayal.places.items():
            value = told.get((rows[number], column))
            if value is not None:
                up, right = high.index(first), wide.index(second)
                values[up][right] = value
                dark = value - least < 0.5 * (most - least)
                ink = "white" if dark else "black"
                axes.text(right, up, f"{value:.3f}", ha="center", va="center", color=ink)
        axes.imshow(values, cmap="cividis", vmin=least, vmax=most, origin="lower", aspect="auto")
        axes.set_xticks(range(len(wide)), wide)
        axes.set_yticks(range(len(high)), high)

    return panels(
        [f"{name}: {portrayal.story.metric}" for name in rows],
        draw,
        x_name=portrayal.columns[1],
        y_name=portrayal.columns[0],
        legend=False,
    )
