"""How the metric came about: over rounds, and over the bytes sent until then."""

from typing import TYPE_CHECKING

from fedpeft_app.studies.pictures.canvas import (
    Portrayal,
    by_panel,
    logarithmic,
    look,
    name_of,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MIB = 2**20


def over_rounds(portrayal: Portrayal) -> bytes | None:
    """Draw the mean over seeds, round by round.

    Args:
        portrayal: What is drawn.

    Returns:
        SVG; None if no round was judged but the last.
    """
    return _curves(portrayal, by_bytes=False)


def over_bytes(portrayal: Portrayal) -> bytes | None:
    """Draw the same by what had been sent.

    Args:
        portrayal: What is drawn.

    Returns:
        SVG; None if no round was judged but the last, or nothing is known of bytes.
    """
    return _curves(portrayal, by_bytes=True)


def _curves(portrayal: Portrayal, *, by_bytes: bool) -> bytes | None:
    """Draw a line for every field."""
    judged = [row for row in portrayal.story.rows if len(row.moments) > 1]
    if by_bytes:
        judged = [row for row in judged if all(moment.sent for moment in row.moments)]
    if not judged:
        return None
    shown = by_panel(judged)
    fields = list(shown.values())

    def draw(axes: "Axes", number: int) -> None:
        for row in fields[number]:
            own = look(portrayal, row.series)
            places = [(one.sent or 0.0) / _MIB if by_bytes else one.round for one in row.moments]
            values = [one.value for one in row.moments]
            axes.plot(
                places,
                values,
                label=name_of(row.series),
                color=own.colour,
                marker=own.mark,
                linestyle=own.dash,
                markersize=3.5,
            )
        if by_bytes:
            logarithmic(axes)

    return panels(
        [portrayal.title(*place) for place in shown],
        draw,
        groups=[group for group, _ in shown],
        x_name="MiB sent so far, both directions" if by_bytes else "round",
        y_name=f"{portrayal.story.curve_metric}, mean over seeds",
    )
