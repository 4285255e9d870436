"""TensorBoard: event files in the run's folder, during the run."""

from collections.abc import Mapping
from typing import Any

from fedpeft_app.observe.observers.event_file import EventFile
from fedpeft_app.observe.observers.observer import Outcome, Watched
from fedpeft_app.observe.observers.scalars import scalars


class TensorBoard:
    """Writes what rounds measure to `tensorboard/` in the run's folder; steps are rounds.

    It needs no library. `tensorboard --logdir` of the folder that holds run folders shows all of
    them beside each other.
    """

    _file: EventFile

    def begin(self, watched: Watched) -> None:
        """Begin a file; what earlier ones have of rounds that do not count is void."""
        since = watched.round_number + 1 if _has_files(watched) else 0
        self._file = EventFile(watched.folder / "tensorboard", since)
        rows = "".join(f"\n| {key} | {_cell(value)} |" for key, value in watched.config.items())
        self._file.text(since, "configuration", f"| key | value |\n|---|---|{rows}")

    def tell(self, event: Mapping[str, Any]) -> None:
        """Write an event's numbers, and have them on the disk before the next."""
        if measured := scalars(event):
            self._file.numbers(int(event["round"]), measured)

    def end(self, outcome: Outcome) -> None:
        """Close the file."""
        self._file.close()


def _has_files(watched: Watched) -> bool:
    """Say whether an earlier attempt at the run wrote some."""
    return any((watched.folder / "tensorboard").glob("events.*"))


def _cell(value: object) -> str:
    """Write a value into a cell of a Markdown table."""
    return f"`{value}`".replace("|", "\\|") if value != "" else ""
