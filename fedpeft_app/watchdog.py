"""Ends a run whose launcher is gone, so that nothing trains on unseen."""

import os
import signal
import threading
import time

_POLL_S = 2.0


def follow_launcher() -> None:
    """End this process when the `fedpeft run` that started it is no more.

    Does nothing in runs that something else started. The launcher ends its processes itself
    where it can; this is for when it was killed.
    """
    launcher = os.environ.get("FEDPEFT_LAUNCHER", "")
    if launcher.isdigit():
        threading.Thread(target=_watch, args=(int(launcher),), daemon=True).start()


def _watch(launcher: int) -> None:
    """Wait until a process is gone, then end this one as Flower expects."""
    while _exists(launcher):
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)


def _exists(pid: int) -> bool:
    """Say whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
