"""Bytes of a run: as they were counted, or as they were to be expected."""

from typing import Any

import pytest

from fedpeft_app.adapters import AdapterSpec
from fedpeft_app.config import parse
from fedpeft_app.facts import run_facts
from fedpeft_app.traffic import Expected, expected_traffic, summary
from fedpeft_app.wire.cast import float32
from fedpeft_app.wire.ledger import Entry, Ledger


@pytest.fixture
def ledger() -> Ledger:
    """A round in which two nodes were sent 50 bytes, and one sent 30; a full model is 400."""
    kept = Ledger(backbone_bytes=0, full_parameters=100)
    for node, direction, size in ((0, "down", 50), (1, "down", 50), (0, "up", 30)):
        message = {"round_number": 1, "node": node, "kind": "train", "payload": 9}
        kept.note(Entry(direction=direction, size=size, **message))
    return kept


def test_rounds_add_up() -> None:
    expected = Expected(clients=2.5, down=100, up=60)
    assert expected.rounds(1) == {"clients": 2.5, "down": 250, "up": 150}
    assert expected.rounds(4) == {"clients": 2.5, "down": 1000, "up": 600}


def test_expected_sizes_follow_from_the_adapter_alone(spec: AdapterSpec) -> None:
    one = expected_traffic(spec, uplink=float32(), downlink=float32(), clients=3.0)
    assert one == expected_traffic(spec, uplink=float32(), downlink=float32(), clients=3.0)
    assert one.down == one.up > 4 * spec.size  # seven float32 values, and what is around them


def test_a_run_counts_what_it_sent(ledger: Ledger) -> None:
    found = summary(ledger, None, 1)
    assert (found["down"], found["up"], found["payload"]) == (100, 30, 27)
    assert found["bytes_per_message"] == 43  # 130 / 3
    assert "expected" not in found


def test_a_secret_run_tells_nothing_that_was_counted(ledger: Ledger) -> None:
    expected = Expected(clients=2.5, down=100, up=60)
    assert summary(ledger, expected, 4) == {
        "expected": {"clients": 2.5, "down": 1000, "up": 600},
        "bytes_per_message": 80,  # (100 + 60) / 2
        "times_fewer": 5.0,  # 400 / 80
    }


@pytest.mark.parametrize(
    ("traffic", "rows"),
    [
        ({"down": 100, "up": 30}, {"bytes sent, both directions": 130}),
        (
            {"expected": {"clients": 2.5, "down": 1000, "up": 600}},
            {"bytes expected, both directions": 1600},
        ),
        ({}, {}),  # the run did not end
    ],
)
def test_a_card_says_whether_bytes_were_counted_or_expected(
    traffic: dict[str, Any], rows: dict[str, int]
) -> None:
    facts = run_facts(parse({}), "demo", exported=1, nodes=4, traffic=traffic, test={}, privacy={})
    assert {name: facts[name] for name in facts if name.startswith("bytes")} == rows
