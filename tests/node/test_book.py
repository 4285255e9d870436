"""Books: nothing is lost, nothing is taken for empty, and rows are on disk when they must be."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedpeft_app.errors import NodeStateError
from fedpeft_app.node.book import Book
from fedpeft_app.node.outbox import Outbox


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


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NodeStateError, match="Cannot write to"):
        Book(path=tmp_path / "file" / "spent.jsonl").append({"round": 1})


def test_an_answer_is_given_to_its_question_alone(tmp_path: Path) -> None:
    outbox = Outbox(path=tmp_path / "deep" / "reply.bin")
    assert outbox.recall("round 1") is None
    outbox.keep("round 1", b"one")
    assert outbox.recall("round 1") == b"one"
    assert outbox.recall("round 2") is None
    outbox.keep("round 2", b"two")
    assert (outbox.recall("round 1"), outbox.recall("round 2")) == (None, b"two")


def test_a_damaged_answer_is_lost(tmp_path: Path) -> None:
    outbox = Outbox(path=tmp_path / "reply.bin")
    outbox.keep("round 1", b"one")
    whole = outbox.path.read_bytes()
    for wrong in (b"", whole[:10], whole[:-1], whole[:-1] + b"f", b"x" + whole[1:]):
        outbox.path.write_bytes(wrong)
        assert outbox.recall("round 1") is None
