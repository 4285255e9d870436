"""The journal: one JSON object per line, the single source of every view and plot."""

import contextlib
import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedpeft_app.errors import RunFolderError

_POLL_S = 0.1


class Journal:
    """Append-only log of a run's events.

    Args:
        path: The file; its folder must exist. A last line that a killed process left
            half-written is cut off.
        listener: Told every event after it is written.

    Every event has "event" (its name), "at" (UTC, ISO 8601) and "clock" (seconds of a clock
    that never jumps, for durations).
    """

    def __init__(
        self, path: Path, listener: Callable[[Mapping[str, Any]], None] = lambda event: None
    ) -> None:
        _cut_half_line(path)
        self._path = path
        self._file = path.open("ab", buffering=0)  # whole lines or nothing waits to be written
        self._listener = listener
        _lock(self._file.fileno(), shared=True)

    def note(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append an event, visible to readers at once.

        Args:
            event: Its name.
            fields: What it says, JSON values; numbers that are not finite become null.

        Returns:
            The event as it was written.

        Raises:
            RunFolderError: If there is no room for it.
        """
        entry = {
            "event": event,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "clock": round(time.monotonic(), 4),
            **_finite(fields),
        }
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with self._told():
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._listener(entry)
        return entry

    def sync(self) -> None:
        """Force everything noted so far to the disk.

        Raises:
            RunFolderError: If that fails.
        """
        with self._told():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close.

        Raises:
            RunFolderError: If the former fails; it is closed all the same.
        """
        try:
            self.sync()
        finally:
            self._file.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say of what fails which file it was, and what to do."""
        try:
            yield
        except OSError as error:
            raise RunFolderError(
                f"Cannot write the journal {self._path}: {error.strerror}. Make room there; the "
                f"run can go on from the rounds that are kept (fedpeft run --resume)."
            ) from error


def is_being_written(path: Path) -> bool:
    """Say whether a process has a journal open, so that its run is still going on.

    Args:
        path: The journal. Where the file system has no locks, the answer is no.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return not _lock(file.fileno(), shared=False)


def wait_until_written(path: Path, patience_s: float) -> None:
    """Wait until no process has a journal open.

    Args:
        path: The journal. Where the file system has no locks, nobody waits.
        patience_s: Seconds at most.
    """
    deadline = time.monotonic() + patience_s
    while is_being_written(path) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _finite(value: Any) -> Any:
    """Put null where JSON has no word for a number; Python's own, NaN, is none to other readers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _lock(descriptor: int, *, shared: bool) -> bool:
    """Lock an open file, with others or alone; False if alone is not possible."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _cut_half_line(path: Path) -> None:
    """Cut off what follows the last line feed."""
    with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
