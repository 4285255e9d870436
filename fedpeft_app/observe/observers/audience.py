"""The journal with those who look on: none of them can end a run, or hold it up."""

import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from fedpeft_app.observe.journal import Journal
from fedpeft_app.observe.observers.observer import Observer, Outcome, Watched

PATIENCE_S = 30.0  # of a run that has ended, for those who are still sending
_ENDS: dict[str, Outcome] = {"run_finished": "finished", "run_failed": "failed"}
_CREDENTIALS = re.compile(r"(?<=//)\S+(?=@)|(?i:(?<=bearer )|(?<=basic ))\S+")  # that errors name
_LONGEST = 500  # characters of what went wrong

Listener = Callable[[Mapping[str, Any]], None]


class Audience:
    """A run's journal, and those who are told what it notes.

    Each is told in a thread of its own, in order. One that raises is left out from then on; why is
    noted with the next event, or only said to `listener` where the run has ended.

    Args:
        path: The journal's file.
        watched: The run.
        observers: Name → observer; nothing was told to them yet.
        listener: Told every event after it is written, at once.

    Attributes:
        journal: The journal; `close` closes it.
    """

    def __init__(
        self, path: Path, watched: Watched, observers: Mapping[str, Observer], listener: Listener
    ) -> None:
        self.journal = Journal(path, self._heard)
        self._listener = listener
        self._outcome: Outcome = "stopped"
        self._seats = [_Seat(name, observer, watched) for name, observer in observers.items()]

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Let observers end, and close the journal.

        Args:
            patience_s: Seconds they are given, together.

        Raises:
            RunFolderError: If the journal cannot be forced to disk.
        """
        deadline = time.monotonic() + patience_s
        for seat in self._seats:
            seat.leave(self._outcome)
        for seat in self._seats:
            seat.wait(deadline)
        for event in self._new_failures():
            self._listener(event)
        self.journal.close()

    def _heard(self, event: Mapping[str, Any]) -> None:
        """Pass an event on, and note who has failed since the last."""
        self._listener(event)
        self._outcome = _ENDS.get(event["event"], self._outcome)
        for seat in self._seats:
            seat.tell(deepcopy(event))  # whatever one does with it
        if self._outcome == "stopped":  # else the journal has its last line
            for failure in self._new_failures():
                self.journal.note(**failure)

    def _new_failures(self) -> list[dict[str, Any]]:
        """Take out who has failed; say why."""
        failed = [seat for seat in self._seats if seat.problem]
        self._seats = [seat for seat in self._seats if seat not in failed]
        return [
            {"event": "observer_failed", "observer": seat.name, "problem": seat.problem}
            for seat in failed
        ]


class _Seat:
    """One observer, its thread, and what it was not yet told."""

    def __init__(self, name: str, observer: Observer, watched: Watched) -> None:
        self.name, self.problem = name, ""
        self._observer = observer
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._calls.put(lambda: observer.begin(watched))
        self._thread = threading.Thread(target=self._work, name=f"observer-{name}", daemon=True)
        self._thread.start()

    def tell(self, event: Mapping[str, Any]) -> None:
        self._calls.put(lambda: self._observer.tell(event))

    def leave(self, outcome: Outcome) -> None:
        self._calls.put(lambda: self._observer.end(outcome))
        self._calls.put(None)

    def wait(self, deadline: float) -> None:
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        if self._thread.is_alive() and not self.problem:
            self.problem = (
                "it had not sent everything when the run had ended, and was not waited for"
            )

    def _work(self) -> None:
        """Make calls until one fails, or there are no more."""
        while call := self._calls.get():
            try:
                call()
            except BaseException as error:  # noqa: BLE001  sys.exit, too, must not end the run
                problem = _CREDENTIALS.sub("…", f"{type(error).__name__}: {error}")
                self.problem = problem[:_LONGEST]
                return
