"""How differently nodes fare: what each measured on data of its own."""

from typing import TYPE_CHECKING

from fedpeft_app.studies.pictures.canvas import Portrayal, look, name_of, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def across_nodes(portrayal: Portrayal) -> bytes | None:
    """Draw a box for every field: quartiles, 5th and 95th percentile, and the nodes beyond.

    Args:
        portrayal: What is drawn.

    Returns:
        SVG; None if no node measured anything.
    """
    told = {place: values for place, values in portrayal.nodes.items() if len(values) > 1}
    if not told:
        return None
    columns = list(dict.fromkeys(column for _, column in told))
    series = {row.row: row.series for row in portrayal.story.rows}

    def draw(axes: "Axes", number: int) -> None:
        fields = {
            row: values for (row, column), values in told.items() if column == columns[number]
        }
        drawn = axes.boxplot(
            [*fields.values()],
            tick_labels=[*map(name_of, fields)],
            whis=(5, 95),
            widths=0.5,
            patch_artist=True,
            medianprops={"color": "black"},
            flierprops={"markersize": 3},
        )
        for box, row in zip(drawn["boxes"], fields, strict=True):
            box.set(facecolor=look(portrayal, series[row]).colour, alpha=0.6)
        axes.tick_params(axis="x", rotation=30)

    return panels(
        [portrayal.title("", name) for name in columns],
        draw,
        x_name="boxes: quartiles; whiskers: 5th and 95th percentile of the nodes of all seeds",
        y_name=f"{portrayal.node_metric} of single nodes",
        legend=False,
    )
