"""What a process has in memory: read where the system says it, for itself alone."""

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_BYTES_PER_KIB = 2**10


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
