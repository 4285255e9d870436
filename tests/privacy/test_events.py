"""Events: plain data that survive a file, and nothing that is none."""

import json
import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from fedpeft_app.errors import PrivacyError
from fedpeft_app.privacy.events import Event

EVENT = Event(noise_multiplier=1.1, sampling=0.25, steps=7)


def test_a_row_survives_a_file() -> None:
    assert Event.from_row(json.loads(json.dumps(EVENT.to_row()))) == EVENT


def test_what_else_a_row_says_does_not_matter() -> None:
    assert Event.from_row({"round": 3, **EVENT.to_row()}) == EVENT


@pytest.mark.parametrize("name", ["noise_multiplier", "sampling", "steps"])
def test_a_row_that_lacks_a_number_is_refused(name: str) -> None:
    row = {key: value for key, value in EVENT.to_row().items() if key != name}
    with pytest.raises(PrivacyError, match=f"'{name}': None"):
        Event.from_row(row)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", -0.1),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("noise_multiplier", "1"),
        ("noise_multiplier", True),
        ("sampling", 0.0),
        ("sampling", 1.0000001),
        ("sampling", math.nan),
        ("sampling", None),
        ("steps", 0),
        ("steps", 1.0),
        ("steps", True),
        ("steps", [1]),
    ],
)
def test_a_row_with_what_is_no_such_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(PrivacyError, match="Expected noise_multiplier in"):
        Event.from_row({**EVENT.to_row(), name: value})


def test_an_event_cannot_be_made_smaller_afterwards() -> None:
    with pytest.raises(FrozenInstanceError):
        EVENT.steps = 1  # type: ignore[misc]
