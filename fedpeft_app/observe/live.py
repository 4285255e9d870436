"""The live view of a run: a line per finished round, and a few moving ones below."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live

from fedpeft_app.observe.block import ASCII, BLOCKS, block
from fedpeft_app.observe.lines import describe, hung
from fedpeft_app.observe.progress import Progress, entered, follow


class LiveView:
    """Follows journal events on a terminal; plain lines where there is none.

    What else is printed or logged in this process meanwhile goes above the moving lines.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._moves = console.is_terminal and not console.is_dumb_terminal
        self._glyphs = ASCII if console.options.ascii_only else BLOCKS
        self._progress = Progress()
        self._started = self._stage_began = time.monotonic()
        self._ahead = 0.0  # our clock less that of the journal
        self._entered = ExitStack()
        self._live = Live(
            get_renderable=self._render,
            console=console,
            refresh_per_second=4,
            transient=True,
            auto_refresh=self._moves,
            redirect_stderr=sys.stderr.isatty(),  # else it is somebody's file, and stays so
        )

    def __enter__(self) -> Self:
        if self._moves:
            self._entered.enter_context(self._live)
            self._entered.enter_context(_logs_above())
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    def stage(self, text: str) -> None:
        """Say what happens before the first event.

        Args:
            text: A few words, such as "checking model and data".
        """
        if text != self._progress.stage:
            self._stage_began = time.monotonic()
        self._progress = entered(self._progress, text)
        if not self._moves:
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
        if "clock" in event:  # of a run that goes on, earlier events have another clock
            self._ahead = time.monotonic() - event["clock"]
        self._progress = follow(self._progress, event)
        if line := describe(event):
            self.say(line, wrap=event["event"] == "privacy_statement")

    def _render(self) -> Group:
        """Draw the moving lines."""
        now = time.monotonic()
        before = self._progress.since is None  # no event yet
        lines = block(
            self._progress,
            elapsed=now - (self._stage_began if before else self._started),
            clock=now - self._ahead,
            width=self._console.width,
            glyphs=self._glyphs,
        )
        return Group(*lines)


@contextmanager
def _logs_above() -> Iterator[None]:
    """Have log handlers write where `print` writes now.

    They keep the stream that they were made with, the terminal itself, and what goes there past
    the view breaks its lines.
    """
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {
        handler
        for logger in loggers
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler)
    }
    streams = {
        old: new
        for old, new in ((sys.__stdout__, sys.stdout), (sys.__stderr__, sys.stderr))
        if old is not new
    }
    moved = [
        (handler, handler.setStream(streams[handler.stream]))
        for handler in handlers
        if handler.stream in streams
    ]
    try:
        yield
    finally:
        for handler, stream in moved:
            if stream is not None:  # it wrote there already
                handler.setStream(stream)
