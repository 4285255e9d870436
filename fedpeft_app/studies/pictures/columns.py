"""How rows fare as one key varies: skew, privacy, the number of examples."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from fedpeft_app.studies.pictures.canvas import Portrayal, look, name_of, panels, show_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ZERO_IS_NO_LIMIT = ("privacy.target-epsilon", "data.max-examples", "train.max-steps")
_APART = 0.008  # of the axis, from one series to the next
_WIDE = 20.0  # the largest over the smallest from which an axis is logarithmic


def across_columns(portrayal: Portrayal) -> bytes | None:
    """Draw each row's metric over the values of the one key that makes the columns.

    Args:
        portrayal: What is drawn.

    Returns:
        SVG; None unless one key makes at least two columns with figures.
    """
    told = [row for row in portrayal.story.rows if row.drawn]
    columns = [name for name in portrayal.places if any(row.column == name for row in told)]
    if len(portrayal.columns) != 1 or len(columns) < 2:
        return None
    unbounded = portrayal.columns[0] in _ZERO_IS_NO_LIMIT
    places = placed(columns, zero_is_no_limit=unbounded)

    def label(name: str) -> str:
        return "no limit" if unbounded and float(name) == 0 else name

    groups = list(dict.fromkeys(row.group for row in told))

    def draw(axes: "Axes", number: int) -> None:
        of_group = [row for row in told if row.group == groups[number]]
        series = list(dict.fromkeys(row.series for row in of_group))
        for at, name in enumerate(series):
            beside = (at - (len(series) - 1) / 2) * _APART
            fields = sorted(
                (shifted(places, row.column, beside), row.mean or 0.0, row.half_width or 0.0)
                for row in of_group
                if row.series == name
            )
            own = look(portrayal, name)
            axes.errorbar(
                [place for place, _, _ in fields],
                [mean for _, mean, _ in fields],
                yerr=[width for _, _, width in fields],
                label=name_of(name),
                color=own.colour,
                marker=own.mark,
                linestyle=own.dash,
                capsize=3,
                markersize=5,
            )
        if is_wide(places.values()):
            axes.set_xscale("log")
        axes.set_xticks([*places.values()], [*map(label, places)])
        axes.set_xticks([], minor=True)
        show_means(axes, of_group)

    return panels(
        [portrayal.title(group) for group in groups],
        draw,
        groups=groups,
        x_name=portrayal.columns[0],
        y_name=f"{portrayal.story.metric}, mean and 95 % interval",
    )


def placed(columns: Sequence[str], *, zero_is_no_limit: bool = False) -> dict[str, float]:
    """Place columns by their number; where one has none, one after the other.

    Args:
        columns: Values as written, at least two different ones.
        zero_is_no_limit: Whether 0 lies beyond all others.

    Returns:
        Value → where it is, from left to right.
    """
    try:
        numbers = {name: float(name) for name in columns}
    except ValueError:
        numbers = {}
    if not all(map(math.isfinite, numbers.values())) or not numbers:
        return {name: float(at) for at, name in enumerate(columns)}
    limits = [number for number in numbers.values() if number or not zero_is_no_limit]
    least, most = min(limits), max(limits)
    beyond = most * 2 if is_wide(limits) else most + max(most - least, most / 2) / 2
    found = {name: beyond if zero_is_no_limit and not n else n for name, n in numbers.items()}
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def shifted(places: Mapping[str, float], name: str, share: float) -> float:
    """Move a place sideways, for intervals not to hide one another.

    Args:
        places: All places.
        name: Which one.
        share: How far, of the way from the first place to the last.
    """
    least, most = min(places.values()), max(places.values())
    if is_wide(places.values()):
        return float(places[name] * (most / least) ** share)
    return places[name] + (most - least) * share


def is_wide(places: Collection[float]) -> bool:
    """Say whether numbers call for a logarithmic axis.

    Args:
        places: At least one.
    """
    return min(places) > 0 and max(places) / min(places) > _WIDE
