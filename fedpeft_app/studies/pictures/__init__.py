"""A study's pictures for print: SVG, the same bytes for the same records."""

from collections.abc import Callable, Mapping

from fedpeft_app.studies.pictures.canvas import Portrayal
from fedpeft_app.studies.pictures.columns import across_columns
from fedpeft_app.studies.pictures.heat_map import heat_map
from fedpeft_app.studies.pictures.nodes import across_nodes
from fedpeft_app.studies.pictures.rounds import over_bytes, over_rounds
from fedpeft_app.studies.pictures.traffic import against_bytes

PICTURES: Mapping[str, Callable[[Portrayal], bytes | None]] = {
    "bytes": against_bytes,
    "rounds": over_rounds,
    "rounds-by-bytes": over_bytes,
    "columns": across_columns,
    "grid": heat_map,
    "nodes": across_nodes,
}


def pictures(portrayal: Portrayal) -> dict[str, bytes]:
    """Draw all that there is something to draw of.

    Args:
        portrayal: What is drawn.

    Returns:
        Name → picture.
    """
    drawn = {name: draw(portrayal) for name, draw in PICTURES.items()}
    return {name: picture for name, picture in drawn.items() if picture}
