"""The live view of a run: a line per finished round, and one moving line below."""

import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from fedpeft_app.observe.lines import describe, hung


class LiveView:
    """Follows journal events on a terminal; plain lines where there is none.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = self._stage = "starting"
        self._since = time.monotonic()
        self._done = 0
        self._asked = 0
        self._live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=4,
            transient=True,
            auto_refresh=console.is_terminal,
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def stage(self, text: str) -> None:
        """Say what happens before the first event.

        Args:
            text: A few words, such as "checking model and data".
        """
        self._set(text)
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def say(self, text: str, *, wrap: bool = False) -> None:
        """Print lines.

        Args:
            text: The lines; an empty text is none.
            wrap: Whether to wrap them on a terminal; others stay whole, for whoever copies a path.
        """
        if wrap and self._console.is_terminal:
            text = hung(text, self._console.width)
        if text:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take the next event of the journal.

        Args:
            event: The event.
        """
        if line := describe(event):
            self.say(line, wrap=event["event"] == "privacy_statement")
        match event["event"]:
            case "round_started":
                self._done, self._asked = 0, event.get("asked", 0)  # 0 = that is secret
                self._set(f"round {event['round']}/{event['rounds']}: training")
            case "asked_again":
                self._asked += len(event["cohort"])
            case "reply":
                self._done += 1
                if self._done == self._asked:
                    self._set(f"round {event['round']}: aggregating")
            case "evaluating":
                self._set(f"evaluating on the {event['split']} set: {event['share']:.0%}")

    def _set(self, status: str) -> None:
        """Change the moving line; its clock starts anew with every stage."""
        stage = status.partition(":")[0]
        if stage != self._stage:
            self._since = time.monotonic()
        self._status, self._stage = status, stage

    def _render(self) -> Group:
        """Draw the moving line."""
        elapsed = time.monotonic() - self._since
        counted = self._asked and "training" in self._status
        clients = f" {self._done}/{self._asked} clients" if counted else ""
        return Group(Spinner("dots", Text(f"{self._status}{clients} ({elapsed:.0f} s)")))
