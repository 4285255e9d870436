"""What the bytes buy: a study's metric against the bytes of its runs, as a picture."""

import io
from collections.abc import Sequence

from fedpeft_app.studies.table import Line

_INCHES = (7.0, 4.5)
_GREY = "#888888"


def to_svg(table: Sequence[Line], metric: str) -> bytes | None:
    """Draw each line of a table as a point with its interval.

    Args:
        table: The lines.
        metric: What they measured, for the axis.

    Returns:
        The picture as SVG, the same bytes for the same lines; None if fewer than two lines have
        both a figure and messages.
    """
    points = [
        (line.run_bytes / 2**20, line.mean, line.half_width or 0.0, _name(line))
        for line in table
        if line.mean is not None and line.run_bytes
    ]
    if len(points) < 2:
        return None
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "fedpeft", "svg.fonttype": "none"}):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.subplots()
        for mebibytes, mean, half_width, name in points:
            axes.errorbar(mebibytes, mean, yerr=half_width, fmt="o", capsize=3)
            axes.annotate(name, (mebibytes, mean), (6, 4), textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.margins(x=0.15)
        axes.grid(color=_GREY, alpha=0.25)
        axes.set_xlabel("MiB of a whole run, both directions")
        axes.set_ylabel(f"{metric}, mean and 95 % interval over seeds")
        text = io.BytesIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _name(line: Line) -> str:
    """Name a point."""
    return f"{line.row}, {line.column}" if line.column else line.row
