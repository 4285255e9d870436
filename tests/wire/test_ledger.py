"""The byte ledger: sums by hand, and sums of its parts."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.wire.ledger import Direction, Entry, Ledger

ROWS = [  # round, node, direction, kind, bytes
    (0, 0, "down", "roll-call", 100),
    (0, 0, "up", "roll-call", 200),
    (1, 0, "down", "train", 1000),
    (1, 1, "down", "train", 1000),
    (1, 1, "up", "train", 1100),
    (1, 0, "up", "train", 900),
    (1, 0, "down", "evaluate", 500),
    (2, 1, "down", "train", 1000),
    (2, 1, "up", "train", 0),  # the node failed
]
KINDS = ["roll-call", "train", "evaluate"]
entries = st.lists(
    st.builds(
        Entry,
        round_number=st.integers(0, 3),
        node=st.integers(0, 3),
        direction=st.sampled_from(["up", "down"]),
        kind=st.sampled_from(KINDS),
        size=st.integers(0, 10**9),
    )
)


def noted(rows: Sequence[tuple[int, int, Any, str, int]]) -> Ledger:
    """Note messages, each with a payload of 16 bytes."""
    made = Ledger(backbone_bytes=90_000_000, full_parameters=6_000)
    for round_number, node, direction, kind, size in rows:
        made.note(
            Entry(
                round_number=round_number,
                node=node,
                direction=direction,
                kind=kind,
                size=size,
                payload=16,
            )
        )
    return made


@pytest.fixture
def ledger() -> Ledger:
    """Note the rows above."""
    return noted(ROWS)


@pytest.mark.parametrize(
    ("direction", "kind", "expected"),
    [
        (None, "", 5800),
        ("down", "", 3600),
        ("up", "", 2200),
        (None, "train", 5000),
        ("up", "train", 2000),
        ("down", "evaluate", 500),
        ("up", "evaluate", 0),
    ],
)
def test_totals_by_hand(
    ledger: Ledger, direction: Direction | None, kind: str, expected: int
) -> None:
    assert ledger.total(direction, kind=kind) == expected


def test_totals_of_the_last_round_by_hand() -> None:
    ledger = noted(ROWS[:7])
    assert ledger.total(round_number=1) == 4500
    assert ledger.total("down", kind="train", round_number=1) == 2000
    assert ledger.total(round_number=2) == 0  # nothing was sent yet
    with pytest.raises(ValueError, match="Expected a round from 1, got 0"):
        ledger.total(round_number=0)


def test_bytes_by_node_by_hand() -> None:
    ledger = noted(ROWS[:7])
    assert ledger.by_node(1) == {
        "0": {"down": 1500, "up": 900, "payload": 48},
        "1": {"down": 1000, "up": 1100, "payload": 32},
    }
    assert ledger.payload() == 7 * 16


def test_a_run_that_goes_on_counts_from_where_it_was() -> None:
    before, after = noted(ROWS[:5]), noted(ROWS[5:])
    after.go_on(json.loads(json.dumps(before.to_values())))
    whole = noted(ROWS)
    assert after.total() == whole.total()
    assert after.payload() == whole.payload()
    assert after.ratio_to_full() == whole.ratio_to_full()
    assert after.mean_message_bytes() == whole.mean_message_bytes() == 1000


def test_a_full_message_by_hand(ledger: Ledger) -> None:
    assert ledger.full_message_bytes == 24_000  # 6 000 parameters of 4 bytes


def test_ratio_by_hand(ledger: Ledger) -> None:
    # five train messages carried something: 5 · 24 000 bytes in full, 5 000 bytes as sent
    assert ledger.ratio_to_full() == pytest.approx(24.0)


def test_a_reply_that_carried_nothing_saves_nothing(ledger: Ledger) -> None:
    before = ledger.ratio_to_full()
    ledger.note(Entry(round_number=3, node=0, direction="up", kind="train", size=0))
    assert ledger.ratio_to_full() == before


def test_the_ratio_is_about_training_only(ledger: Ledger) -> None:
    before = ledger.ratio_to_full()
    ledger.note(Entry(round_number=3, node=0, direction="down", kind="evaluate", size=10**9))
    assert ledger.ratio_to_full() == before


def test_no_training_has_no_ratio() -> None:
    assert math.isnan(Ledger(backbone_bytes=0, full_parameters=1).ratio_to_full())


@given(messages=entries)
def test_the_whole_is_the_sum_of_its_parts(messages: list[Entry]) -> None:
    ledger = Ledger(backbone_bytes=0, full_parameters=1)
    for message in messages:
        ledger.note(message)
    assert ledger.total() == ledger.total("up") + ledger.total("down")
    assert ledger.total() == sum(ledger.total(kind=kind) for kind in KINDS)
    assert ledger.total() == sum(message.size for message in messages)


def test_memory_does_not_grow_with_rounds(ledger: Ledger) -> None:
    rows = [(number, node, "up", "train", 8) for number in range(3, 300) for node in range(3)]
    grown = noted([*ROWS, *rows])
    assert len(grown.to_values()) == len(ledger.to_values())
    assert len(grown.by_node(299)) == 3


def test_a_roll_call_in_the_middle_of_a_round_does_not_end_it() -> None:
    book = Ledger(backbone_bytes=0, full_parameters=0)
    for number, kind, size in ((3, "train", 10), (0, "roll-call", 5), (3, "train", 2)):
        book.note(Entry(round_number=number, node=1, direction="down", kind=kind, size=size))
    assert book.total("down", round_number=3) == 12
    assert book.total("down") == 17
