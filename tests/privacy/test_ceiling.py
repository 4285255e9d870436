"""A ceiling: ε of all books together, counted as one, and never of those that can be read."""

import logging
import math
from pathlib import Path

import pytest

from fedpeft_app.errors import BudgetSpentError, NodeStateError
from fedpeft_app.node.book import Book
from fedpeft_app.privacy.accountant import epsilon
from fedpeft_app.privacy.ceiling import Ceiling
from fedpeft_app.privacy.events import Event

DELTA = 1e-5
FULL = Event(noise_multiplier=2.0, sampling=1.0, steps=3)
OTHER = Event(noise_multiplier=4.0, sampling=1.0, steps=8)
SAMPLED = Event(noise_multiplier=1.0, sampling=0.1, steps=20)


def book(path: Path, *events: Event) -> Book:
    found = Book(path=path)
    for event in events:
        found.append({"round": 1, **event.to_row()})
    return found


def allows(most: float, books: list[Book], event: Event) -> bool:
    try:
        Ceiling(most=most, delta=DELTA).require_room(books, event)
    except BudgetSpentError:
        return False
    return True


def test_mechanisms_of_different_noise_are_composed_not_added(tmp_path: Path) -> None:
    # Gaussian mechanisms on all units are one: 1/z² = 3/2² + 8/4² + 1/1² = 9/4, so z = 2/3.
    books = [book(tmp_path / "a", FULL), book(tmp_path / "b", OTHER)]
    last = Event(noise_multiplier=1.0, sampling=1.0, steps=1)
    whole = epsilon([Event(noise_multiplier=2 / 3, sampling=1.0, steps=1)], DELTA)
    assert allows(whole * (1 + 1e-9), books, last)
    assert not allows(whole * (1 - 1e-9), books, last)
    added = sum(epsilon([event], DELTA) for event in (FULL, OTHER, last))
    assert whole < added


def test_it_does_not_matter_in_which_book_an_event_stands(tmp_path: Path) -> None:
    events = (FULL, SAMPLED, SAMPLED, OTHER)
    limit = epsilon([*events, SAMPLED], DELTA)
    for number, books in enumerate(
        (
            [book(tmp_path / "all", *events)],
            [book(tmp_path / f"{index}", event) for index, event in enumerate(events)],
        )
    ):
        assert allows(limit, books, SAMPLED), number
        assert not allows(limit * (1 - 1e-9), books, SAMPLED), number


def test_what_is_about_to_be_spent_counts() -> None:
    alone = epsilon([SAMPLED], DELTA)
    assert allows(alone, [], SAMPLED)
    assert not allows(alone * 0.999, [], SAMPLED)


def test_a_mechanism_without_noise_leaves_no_room(tmp_path: Path) -> None:
    bare = Event(noise_multiplier=0.0, sampling=0.5, steps=1)
    assert math.isinf(epsilon([bare], DELTA))
    assert not allows(1e12, [book(tmp_path / "a", bare)], SAMPLED)


@pytest.mark.parametrize("damage", ["row", "event"])
def test_a_damaged_book_is_nobody_knows(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound, other = book(tmp_path / "a", SAMPLED), book(tmp_path / "secret-run", SAMPLED)
    if damage == "row":
        other.path.write_bytes(other.path.read_bytes().replace(b'"steps": 20', b'"steps": 10'))
    else:
        other.append({"round": 2, "noise_multiplier": "much"})
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(NodeStateError, match="Nobody knows what is left") as caught,
    ):
        Ceiling(most=1e9, delta=DELTA).require_room([sound, other], SAMPLED)
    assert "secret-run" not in str(caught.value)  # whoever asks has no business with it
    assert "secret-run" in caplog.text


def test_what_other_runs_spent_stays_on_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spent = book(tmp_path / "secret-run", FULL)
    after = epsilon([FULL, SAMPLED], DELTA)
    with caplog.at_level(logging.WARNING), pytest.raises(BudgetSpentError) as caught:
        Ceiling(most=1.0, delta=DELTA).require_room([spent], SAMPLED)
    assert f"{after:.3f}" not in str(caught.value)
    assert "secret-run" not in str(caught.value)
    assert f"{after:.3f}" in caplog.text
