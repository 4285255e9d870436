"""The byte ledger: sums by hand, and sums of its parts."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.wire.ledger import Entry, Ledger

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


@pytest.fixture
def ledger() -> Ledger:
    """Note the rows above."""
    made = Ledger(backbone_bytes=90_000_000, full_parameters=6_000)
    for round_number, node, direction, kind, size in ROWS:
        made.note(
            Entry(
                round_number=round_number,
                node=node,
                direction=direction,  # type: ignore[arg-type]
                kind=kind,
                size=size,
            )
        )
    return made


@pytest.mark.parametrize(
    ("direction", "kind", "round_number", "expected"),
    [
        (None, "", None, 5800),
        ("down", "", None, 3600),
        ("up", "", None, 2200),
        (None, "train", None, 5000),
        ("up", "train", None, 2000),
        ("down", "evaluate", None, 500),
        (None, "", 0, 300),
        (None, "", 1, 4500),
        ("down", "train", 1, 2000),
        ("up", "train", 2, 0),
        (None, "", 3, 0),
        ("up", "evaluate", None, 0),
    ],
)
def test_totals_by_hand(
    ledger: Ledger, direction: str | None, kind: str, round_number: int | None, expected: int
) -> None:
    total = ledger.total(direction, kind=kind, round_number=round_number)  # type: ignore[arg-type]
    assert total == expected


def test_messages_stay_in_the_order_of_sending(ledger: Ledger) -> None:
    assert [entry.size for entry in ledger.entries] == [row[-1] for row in ROWS]


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


@given(noted=entries)
def test_the_whole_is_the_sum_of_its_parts(noted: list[Entry]) -> None:
    ledger = Ledger(backbone_bytes=0, full_parameters=1, entries=list(noted))
    assert ledger.total() == ledger.total("up") + ledger.total("down")
    assert ledger.total() == sum(ledger.total(kind=kind) for kind in KINDS)
    assert ledger.total("up") == sum(
        ledger.total("up", round_number=round_number) for round_number in range(4)
    )


def test_ledgers_do_not_share_their_entries(ledger: Ledger) -> None:
    assert not Ledger(backbone_bytes=0, full_parameters=1).entries
