"""The shelf: every book is found, and what cannot be looked at is not taken for empty."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedpeft_app.errors import NodeStateError
from fedpeft_app.node import shelf
from fedpeft_app.node.book import Book
from fedpeft_app.node.memory import PRIVACY, REPLY, SPENT, erase, memory_of
from fedpeft_app.node.shared_home import SHARED_MARK


def privacy_folder(experiment: str, partition: int) -> Path:
    return memory_of(experiment, partition, PRIVACY).folder


def spend(experiment: str, partition: int) -> Path:
    """Write a row, and give the book's path."""
    path = privacy_folder(experiment, partition) / SPENT
    Book(path=path).append({"round": 1})
    return path


def test_where_nothing_was_spent_there_are_no_books(own_home: Path) -> None:
    assert shelf.books() == []
    memory_of("a", 0).folder.mkdir(parents=True)
    (own_home / "nodes" / "stray").touch()
    with Book(path=privacy_folder("a", 1) / SPENT).held():  # nothing is written yet
        assert shelf.books() == []


def test_books_of_all_runs_and_nodes_are_found() -> None:
    paths = [spend("a", 0), spend("b", 0), spend("b", 7)]
    assert [book.path for book in shelf.books()] == paths


def test_a_run_that_is_erased_still_counts() -> None:
    path = spend("a", 0)
    (path.parent / REPLY).touch()
    erase("a")
    assert [book.path for book in shelf.books()] == [path]


def test_a_reply_without_its_book_is_refused() -> None:
    path = spend("a", 0)
    (path.parent / REPLY).touch()
    path.unlink()
    with pytest.raises(NodeStateError, match="Nobody knows what is left"):
        shelf.books()


def test_a_folder_on_a_disk_that_is_gone_is_refused(own_home: Path) -> None:
    spend("a", 0)
    (own_home / "nodes" / "b").symlink_to(own_home / "gone")
    with pytest.raises(NodeStateError, match="Nobody knows what is left"):
        shelf.books()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_refused(own_home: Path) -> None:
    spend("a", 0)
    folder = own_home / "nodes" / "a"
    folder.chmod(0)
    try:
        with pytest.raises(NodeStateError, match="Nobody knows what is left"):
            shelf.books()
    finally:
        folder.chmod(0o700)


def test_who_counts_all_books_keeps_others_from_spending() -> None:
    def other() -> None:
        with shelf.held(wait_s=0.05):
            pass

    with shelf.held(wait_s=1.0), ThreadPoolExecutor() as pool:
        with pytest.raises(NodeStateError, match=r"within 0\.05 s"):
            pool.submit(other).result()
        assert shelf.books() == []  # its lock is no book
    other()


def test_the_lock_of_all_books_is_not_where_servers_name_folders(own_home: Path) -> None:
    with shelf.held(wait_s=1.0):
        assert not (own_home / "nodes").exists()


def test_books_are_not_missed_where_the_home_of_a_cluster_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHARED_MARK, str(tmp_path / "flower-1-2-3"))
    with pytest.raises(NodeStateError, match="all machines of the cluster share"):
        shelf.books()
