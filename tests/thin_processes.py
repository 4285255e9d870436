"""Watches the processes that Flower starts for messages: how much memory, which libraries."""

import contextlib
import threading
from dataclasses import dataclass, field
from typing import Self

import psutil

_HEAVY = ("libtorch", "_raylet", "libarrow")  # shared libraries that only heavy imports load
_KIB = 1024


@dataclass(slots=True)
class ThinProcesses:
    """Looks at every `flwr-clientapp` some ten times a second, for as long as it is entered.

    Attributes:
        peaks: Process id → most memory that it ever held, in bytes.
        heavy: Heavy libraries that were seen in one of them.
    """

    peaks: dict[int, int] = field(default_factory=dict)
    heavy: set[str] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._over.set()
        if self._thread:
            self._thread.join()

    def _watch(self) -> None:
        """Look again and again."""
        while not self._over.wait(0.1):
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error, OSError):
                    if any(part.endswith("flwr-clientapp") for part in process.cmdline()[:2]):
                        self._look_at(process.pid)

    def _look_at(self, pid: int) -> None:
        """Read what the system knows of one."""
        with open(f"/proc/{pid}/status", encoding="utf-8") as status:
            lines = dict(line.split(":", 1) for line in status)
        self.peaks[pid] = int(lines["VmHWM"].split()[0]) * _KIB
        with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
            mapped = maps.read()
        self.heavy |= {name for name in _HEAVY if name in mapped}
