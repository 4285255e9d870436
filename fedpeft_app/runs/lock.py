"""One process at a time writes to a run's folder."""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from fedpeft_app.errors import RunFolderError
from fedpeft_app.runs.directory import RunFolder

_LOCK = ".lock"


@contextmanager
def writing(folder: RunFolder) -> Iterator[None]:
    """Keep others from writing to a folder; a process that is killed gives way.

    Args:
        folder: The run's folder.

    Raises:
        RunFolderError: If another process is writing to it, or it cannot be written to.
    """
    lock = FileLock(folder.path / _LOCK)
    try:
        (folder.path / _LOCK).touch()  # a lock that cannot be made looks like one that is held
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunFolderError(
            f"Another process is writing to {folder.path}: the run is still going on. Wait until "
            f"it has ended, or end it."
        ) from error
    except (OSError, NotImplementedError) as error:
        why = getattr(error, "strerror", None) or error
        raise RunFolderError(
            f"Cannot write to the run folder {folder.path}: {why}. See that it is there, that its "
            f"disk has room, and that you may write to it."
        ) from error
    try:
        yield
    finally:
        lock.release()
