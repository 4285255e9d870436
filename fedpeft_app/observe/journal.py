"""The journal: one JSON object per line, the single source of every view and plot."""

import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Journal:
    """Append-only log of a run's events.

    Args:
        path: The file; its folder must exist.
        listener: Told every event after it is written.

    Every event has "event" (its name), "at" (UTC, ISO 8601) and "clock" (seconds of a clock
    that never jumps, for durations).
    """

    def __init__(
        self, path: Path, listener: Callable[[Mapping[str, Any]], None] = lambda event: None
    ) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._listener = listener

    def note(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append an event, visible to readers at once, and give it back."""
        entry = {
            "event": event,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "clock": round(time.monotonic(), 4),
            **fields,
        }
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()
        self._listener(entry)
        return entry

    def sync(self) -> None:
        """Force everything noted so far to the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        self._file.close()
