"""Scales: what is said of a message is what it weighs."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedpeft_app.wire import scales
from fedpeft_app.wire.record import content_bytes
from fedpeft_app.wire.scales import Scales


def content(length: int, seed: int = 0) -> RecordDict:
    """Make a content with a payload that no chunk of repeats itself."""
    data = np.random.default_rng(seed).bytes(length)
    array = Array(dtype="uint8", shape=(length,), stype="fedpeft.payload", data=data)
    return RecordDict(
        {
            "arrays": ArrayRecord({"adapter": array}),
            "config": ConfigRecord({"round": 12, "spec": "0" * 16}),
            "metrics": MetricRecord({"loss": 0.25, "num-examples": 503}),
        }
    )


def envelope(kind: str = "train", round_number: int = 1) -> int:
    return Scales().order(RecordDict(), kind, round_number) - content_bytes(RecordDict())


@pytest.mark.parametrize("length", [1, 8, 1_000, 307_336, 30_000_000])
def test_a_content_weighs_what_flower_writes(length: int) -> None:
    weighed = Scales().order(content(length), "train", 1)
    assert weighed - envelope() == content_bytes(content(length))


def test_a_payload_of_the_same_length_is_weighed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed = []
    monkeypatch.setattr(
        scales, "content_bytes", lambda one: weighed.append(one) or content_bytes(one)
    )
    pair = Scales()
    assert pair.order(content(1_000, seed=1), "train", 1) == pair.order(
        content(1_000, seed=2), "train", 1
    )
    assert sum("config" not in one for one in weighed) == 2  # with the payload, and without


def test_a_payload_too_large_to_build_weighs_in_proportion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = Scales().order(content(400_000), "train", 1)
    monkeypatch.setattr(scales, "_MEASURABLE", 100_000)
    assert Scales().order(content(400_000), "train", 1) == pytest.approx(exact, rel=0.01)


def test_a_reply_names_the_order_that_it_answers() -> None:
    empty = RecordDict()
    assert Scales().reply(empty, "train", 1) - Scales().order(empty, "train", 1) == 39
