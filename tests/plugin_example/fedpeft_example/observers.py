"""An observer: writes down which rounds were better than all before them."""

from collections.abc import Mapping
from typing import Any

from fedpeft_app.observe.observers.observer import Outcome, Watched
from fedpeft_app.observe.observers.scalars import scalars


class Milestones:
    """Appends a line to a file in the run's folder whenever a round is the best so far."""

    def __init__(self, file: str = "milestones.txt") -> None:
        self._file, self._best = file, 0.0

    def begin(self, watched: Watched) -> None:
        self._path = watched.folder / self._file

    def tell(self, event: Mapping[str, Any]) -> None:
        accuracy = scalars(event).get("validation/accuracy", 0.0)
        if accuracy > self._best:
            self._best = accuracy
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{event['event']} {event['round']}: {accuracy:.4f}\n")

    def end(self, outcome: Outcome) -> None:
        pass
