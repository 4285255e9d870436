"""All books of a machine: what every run that ever trained there has spent of its data."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from fedpeft_app.errors import NodeStateError
from fedpeft_app.mirrors import home
from fedpeft_app.node.book import Book
from fedpeft_app.node.memory import PRIVACY, REPLY, SPENT
from fedpeft_app.node.shared_home import require_shared_home

_SHELF = "nodes"  # as in `node.memory`
_ALL = "all-books"


def books() -> list[Book]:
    """List the books of all nodes and experiments in $FEDPEFT_HOME.

    Whether two of them are about the same data nobody knows, so all count.

    Raises:
        NodeStateError: If a folder cannot be read, there is a reply without the book in which it
            would have been written down first, or this machine of a cluster has another home.
    """
    require_shared_home()
    return [
        Book(path=folder / PRIVACY / SPENT)
        for experiment in _folders(home() / _SHELF)
        for folder in _folders(experiment)
        if _has_book(folder / PRIVACY)
    ]


def held(wait_s: float) -> AbstractContextManager[None]:
    """Keep everyone else on this machine from spending while all books are counted.

    Args:
        wait_s: As for `Book.held`.
    """
    # No such book, only its lock; beside the experiments, whose names come from servers.
    return Book(path=home() / _ALL).held(wait_s)


def _has_book(folder: Path) -> bool:
    """Say whether something was spent here."""
    names = _names(folder)
    if REPLY in names and SPENT not in names:
        raise NodeStateError(
            f"Expected a record of what was spent beside {folder / REPLY}, found none. Nobody "
            f"knows what is left: restore {SPENT} from a backup."
        )
    return SPENT in names


def _folders(folder: Path) -> Iterator[Path]:
    """List what may be a folder in a folder."""
    return (folder / name for name in sorted(_names(folder)))


def _names(folder: Path) -> set[str]:
    """List what is in a folder; `Path.glob` would pass over one that it may not read."""
    try:
        return set(os.listdir(folder))
    except OSError as error:
        none = isinstance(error, FileNotFoundError | NotADirectoryError)
        if none and not folder.is_symlink():  # which leads to a disk that is not there
            return set()
        raise NodeStateError(
            f"Cannot read {folder}, in which there may be a record of what was spent: "
            f"{error.strerror}. Nobody knows what is left: make it readable."
        ) from error
