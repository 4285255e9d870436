"""What a run sent, against what full fine-tuning would have."""

from collections.abc import Mapping
from typing import Any

from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.observe.report import figures
from fedpeft_app.observe.report.markup import Child, Html, element
from fedpeft_app.observe.report.run import RunStory
from fedpeft_app.observe.report.tables import facts
from fedpeft_app.privacy.statement import counted


def traffic(story: RunStory) -> list[Html]:
    """Say what was sent.

    Args:
        story: The run.

    Returns:
        Parts of a section; none where nothing travels, or nothing is known yet.
    """
    if story.mode != "federated":
        return []
    rows = _whole(story.finished) if story.finished else _so_far(story)
    if not rows:
        return []
    note = "Messages are measured as Flower serialises them"
    if story.finished.get("expected"):
        note = "Who takes part is secret, so this is what was expected before the run"
    if not story.finished.get("bytes_per_message"):
        return [facts(rows), element("p", f"{note}.", class_="note")]
    note += "; of full fine-tuning the payload alone is counted."
    return [_bars(story.finished), facts(rows), element("p", note, class_="note")]


def _whole(finished: Mapping[str, Any]) -> dict[str, Child]:
    """Give what a finished run counted."""
    expected = finished.get("expected")
    counts = expected or finished
    if "down" not in counts:
        return {}
    said = "expected: " if expected else ""
    rows: dict[str, Child] = {
        "down, server to nodes": said + human_bytes(counts["down"]),
        "up, nodes to server": said + human_bytes(counts["up"]),
    }
    if finished.get("payload") is not None:
        total = counts["down"] + counts["up"]
        share = f" ({finished['payload'] / total:.1%})" if total else ""
        rows["of both, encoded states"] = human_bytes(finished["payload"]) + share
    rows["the model itself, once per node"] = figures.shown(
        finished.get("backbone_bytes"), human_bytes
    )
    return rows


def _so_far(story: RunStory) -> dict[str, Child]:
    """Add up what the rounds say that ended."""
    rounds = [event for event in story.rounds if "down" in event]
    rows: dict[str, Child] = {}
    if rounds:
        after = f" in {counted(len(rounds), 'round')}"
        rows["down, server to nodes"] = human_bytes(sum(event["down"] for event in rounds)) + after
        rows["up, nodes to server"] = human_bytes(sum(event["up"] for event in rounds)) + after
    if told := story.last("roll_call").get("bytes"):
        rows["roll call, both directions"] = human_bytes(told)
    return rows


def _bars(finished: Mapping[str, Any]) -> Html:
    """Draw a message beside one of full fine-tuning, to scale."""
    message, full = finished["bytes_per_message"], finished["full_bytes_per_message"]
    most = max(message, full)
    named = {"this run": message, "full fine-tuning": full}
    bars = [
        element(
            "div",
            element("dt", name),
            element(
                "dd",
                element(
                    "svg",
                    element("rect", width=f"{100 * size / most:.3f}%", height="100%"),
                    class_="bar",
                    aria_hidden="true",
                ),
                element("b", human_bytes(size)),
            ),
        )
        for name, size in named.items()
    ]
    title = "Bytes per message, client and direction"
    title += ", expected" * bool(finished.get("expected"))
    if finished["times_fewer"] > 1:
        title += f": {figures.times(finished['times_fewer'])} fewer"
    return element("figure", element("figcaption", title), element("dl", *bars, class_="bars"))
