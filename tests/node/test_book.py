"""Books: nothing is lost, nothing is taken for empty, and rows are on disk when they must be."""

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedpeft_app.errors import NodeStateError
from fedpeft_app.node.book import Book


def test_rows_come_back_in_their_order(tmp_path: Path) -> None:
    book = Book(path=tmp_path / "deep" / "spent.jsonl")
    assert book.rows() == []
    for number in range(3):
        book.append({"round": number, "z": 0.1})
    assert [row["round"] for row in Book(path=book.path).rows()] == [0, 1, 2]


def test_a_row_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "spent.jsonl"
    code = (
        "import os, pathlib, sys\n"
        "from fedpeft_app.node.book import Book\n"
        "Book(path=pathlib.Path(sys.argv[1])).append({'round': 1})\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert Book(path=path).rows() == [{"round": 1}]


def test_a_row_cut_by_a_crash_never_happened(tmp_path: Path) -> None:
    book = Book(path=tmp_path / "spent.jsonl")
    book.append({"round": 1})
    whole = book.path.read_bytes()
    book.append({"round": 2})
    for length in range(len(whole), len(book.path.read_bytes())):
        book.path.write_bytes((whole + whole)[:length])
        assert book.rows() == [{"round": 1}]
    book.append({"round": 3})
    assert book.rows() == [{"round": 1}, {"round": 3}]


@pytest.mark.parametrize("at", range(30))
def test_a_changed_row_is_refused(at: int, tmp_path: Path) -> None:
    book = Book(path=tmp_path / "spent.jsonl")
    book.append({"round": 1, "note": "x" * 20})
    content = bytearray(book.path.read_bytes())
    content[at] ^= 1
    book.path.write_bytes(content)
    with pytest.raises(NodeStateError, match="Expected row 1 of"):
        book.rows()


@pytest.mark.parametrize("left", [(1, 2), (0, 2), (0, 2, 1), (1, 0, 2), (0, 0, 1, 2)])
def test_rows_that_are_missing_moved_or_doubled_are_refused(
    left: Sequence[int], tmp_path: Path
) -> None:
    book = Book(path=tmp_path / "spent.jsonl")
    for number in range(3):
        book.append({"round": number})
    lines = book.path.read_bytes().splitlines(keepends=True)
    book.path.write_bytes(b"".join(lines[number] for number in left))
    with pytest.raises(NodeStateError, match="found it changed, out of its place"):
        book.rows()
    with pytest.raises(NodeStateError, match="found it changed, out of its place"):
        book.append({"round": 3})


def test_an_older_copy_is_a_sound_book(tmp_path: Path) -> None:
    book = Book(path=tmp_path / "spent.jsonl")
    book.append({"round": 1})
    copy = book.path.read_bytes()
    book.append({"round": 2})
    book.path.write_bytes(copy)  # which is why the server says what it knows of (`require_round`)
    assert book.rows() == [{"round": 1}]


def test_a_book_of_another_format_is_refused(tmp_path: Path) -> None:
    book, text = Book(path=tmp_path / "spent.jsonl"), '{"round": 1}'
    book.path.write_text(f"{hashlib.sha256(text.encode()).hexdigest()[:16]} {text}\n")
    with pytest.raises(NodeStateError, match="or of another version of fedpeft"):
        book.rows()


def test_who_writes_at_once_loses_nothing(tmp_path: Path) -> None:
    book = Book(path=tmp_path / "deep" / "spent.jsonl")
    code = (
        "import pathlib, sys\n"
        "from fedpeft_app.node.book import Book\n"
        "for number in range(100):\n"
        "    Book(path=pathlib.Path(sys.argv[1])).append({'who': sys.argv[2], 'row': number})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(book.path), who]) for who in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    rows = book.rows()
    assert len(rows) == 200
    for who in "ab":
        assert [row["row"] for row in rows if row["who"] == who] == list(range(100))


def test_who_holds_a_book_writes_and_others_wait_in_vain(tmp_path: Path) -> None:
    book = Book(path=tmp_path / "spent.jsonl")

    def other() -> None:
        with Book(path=book.path).held(wait_s=0.05):
            pass

    with book.held(), ThreadPoolExecutor() as pool:
        Book(path=book.path).append({"round": 1})
        with pytest.raises(NodeStateError, match=r"within 0\.05 s, but another process or thread"):
            pool.submit(other).result()
    with ThreadPoolExecutor() as pool:
        pool.submit(other).result()  # it has been let go
    assert book.rows() == [{"round": 1}]


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NodeStateError, match="Cannot write to"):
        Book(path=tmp_path / "file" / "spent.jsonl").append({"round": 1})
