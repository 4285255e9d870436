"""A study as it stands → what its pictures are drawn of."""

from math import isfinite

from fedpeft_app.observe.report.study import StudyStory
from fedpeft_app.studies.conduct import Standing
from fedpeft_app.studies.grid import shown
from fedpeft_app.studies.pictures.canvas import Portrayal
from fedpeft_app.studies.study import Study, usual


def portray(study: Study, now: Standing, story: StudyStory) -> Portrayal:
    """Add to a study's story what only pictures show.

    Args:
        study: What the file says.
        now: How the study stands.
        story: What its report is made of.
    """
    keys = study.layout.columns
    places: dict[str, list[str]] = {}
    nodes: dict[tuple[str, str], list[float]] = {}
    for slot in now.slots:
        settings = {**usual(), **slot.entry.settings}
        places[slot.entry.column] = [shown(settings[key]) for key in keys]
        measured = slot.record.measured if slot.record else None
        over_nodes = (measured.clients_test or measured.clients) if measured else {}
        values = over_nodes.get("nodes", {}).values()
        told = [value for value in values if value is not None and isfinite(value)]
        nodes.setdefault((slot.entry.row, slot.entry.column), []).extend(told)
    return Portrayal(
        story=story,
        columns=keys,
        places=places,
        nodes=nodes,
        node_metric=study.layout.node_metric,
    )
