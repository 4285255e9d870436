"""What may be spent: a wall for all who spend at once, and a book that knows what is known."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fedpeft_app.errors import BudgetSpentError, NodeStateError
from fedpeft_app.node.book import Book
from fedpeft_app.privacy.accountant import epsilon
from fedpeft_app.privacy.budget import Budget
from fedpeft_app.privacy.events import Event

ROUND = Event(noise_multiplier=1.0, sampling=0.2, steps=10)


def budget(folder: Path, target: float = 0.0) -> Budget:
    return Budget(book=Book(path=folder / "spent.jsonl"), delta=1e-5, target=target)


def test_of_two_who_spend_at_once_the_wall_stops_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = epsilon([ROUND], 1e-5) + 0.01
    append = Book.append

    def slow(book: Book, row: Mapping[str, Any]) -> None:
        time.sleep(0.1)  # time enough for the other one to count what is there
        append(book, row)

    monkeypatch.setattr(Book, "append", slow)
    with ThreadPoolExecutor() as pool:
        ends = [pool.submit(budget(tmp_path, target).spend, ROUND, 1) for _ in range(2)]
        errors = [type(end.exception()) for end in ends]
    assert sorted(map(str, errors)) == sorted(map(str, [BudgetSpentError, type(None)]))
    assert budget(tmp_path).spent() <= target


def test_a_book_without_the_last_round_that_is_known_is_refused(tmp_path: Path) -> None:
    mine = budget(tmp_path)
    mine.require_round(0)
    for number in (1, 2):
        mine.spend(ROUND, number)
    copy = mine.book.path.read_bytes()
    mine.spend(ROUND, 3)
    mine.require_round(3)
    (tmp_path / "spent.jsonl").write_bytes(copy)
    with pytest.raises(NodeStateError, match="a record of what was spent in round 3") as raised:
        mine.require_round(3)
    assert str(tmp_path / "spent.jsonl") in str(raised.value)
