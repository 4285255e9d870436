"""What a process has in memory, read for itself alone; and what one of a run has beyond that."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

_STATUS = Path("/proc/self/status")
_BYTES_PER_KIB = 2**10
_MIB = 2**20
# What Ray and Flower take at work, beyond what they take when imported: the least that processes
# of the demo, and of it with batches of 64, had more than `probe` (59 to 140, 111 to 178 MiB).
_RAY_CLIENT_BYTES = 60 * _MIB
_FLOWER_SERVER_BYTES = 110 * _MIB
_MOST_BATCHES = 1000  # from which lengths repeat, we suppose; measured were 310


def peak_bytes() -> int:
    """Give the most memory that this process has had at once: its resident set.

    Pages that it maps from files, as of libraries and weights, count as far as they were touched,
    also those that it shares with other processes.
    """
    if _STATUS.exists():  # getrusage would count what the parent had before it started us
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * _BYTES_PER_KIB
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * _BYTES_PER_KIB


def client_peak(grown: Sequence[tuple[int, int]], batches: float) -> int:
    """Forecast the peak of a client's process.

    It grows while it trains, with batches of ever new lengths: oneDNN keeps a program for every
    shape, and the allocator has gaps. On the demo the peak grew by the root of the batches, from
    691 MiB after 3 to 1,305 after 187 (docs/planning.md); it is taken to do so here, at the pace
    of what was measured, and no further than `_MOST_BATCHES`.

    Args:
        grown: (batches until then, peak in bytes) of the process that did as a client does, at
            least one, in their order.
        batches: What one process trains in the whole run, from 0.

    Returns:
        Bytes; no less than was measured.
    """
    first, last = grown[0], grown[-1]
    apart = math.sqrt(last[0]) - math.sqrt(first[0])
    pace = max(0.0, (last[1] - first[1]) / apart) if apart > 0 else 0.0
    ahead = math.sqrt(min(batches, _MOST_BATCHES)) - math.sqrt(last[0])
    return last[1] + round(pace * max(0.0, ahead)) + _RAY_CLIENT_BYTES


def server_peak(measured: int, *, cohort: float, message: float) -> int:
    """Forecast the peak of the server's process.

    Args:
        measured: Of the process that did as the server does.
        cohort: Nodes of a round.
        message: Bytes of a message's payload.

    Returns:
        Bytes. Flower's simulation runs in the server's process: it keeps each order as it was
        serialised, and Ray maps each reply, and an order, from its store.
    """
    return measured + _FLOWER_SERVER_BYTES + round((2 * cohort + 1) * message)
