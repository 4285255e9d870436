"""What a warm process answers, in this process."""

import os
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from private_settings import SAMPLE

from fedpeft_app.config import defaults
from fedpeft_app.strategies.roll_call import Presence
from fedpeft_app.warm.code import own_code
from fedpeft_app.warm.trainer import Trainer
from fedpeft_app.wire.content import from_bytes, to_bytes
from fedpeft_app.wire.record import facts

NODE = {"partition-id": 0, "num-partitions": 2}


def asked(settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Give what the door sends."""
    header = {
        "kind": "roll_call",
        "run_config": {**defaults(), **settings},
        "node_config": NODE,
        "folder": os.getcwd(),
        "code": own_code().to_json(),
    }
    return {**header, **changes}


def test_it_answers_as_a_process_of_its_own_would(tiny_settings: dict[str, Any]) -> None:
    trainer = Trainer()
    told, body = trainer.answer(asked(tiny_settings), to_bytes(RecordDict()))
    assert told["status"] == "done"
    presence = Presence.from_facts(facts(from_bytes(body)))
    assert (presence.partition, presence.examples > 0) == (0, True)
    again, _ = trainer.answer(asked(tiny_settings), to_bytes(RecordDict()))
    assert again["facts"]["answered"] == 2
    assert again["facts"]["backbone-loads"] == told["facts"]["backbone-loads"] > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [({"digest": "0" * 64}, "other code"), ({"python": "/elsewhere"}, "/elsewhere")],
)
def test_it_never_serves_a_run_with_other_code(
    tiny_settings: dict[str, Any], change: dict[str, str], said: str
) -> None:
    code = replace(own_code(), **change)
    header = asked(tiny_settings, code=code.to_json())
    told, body = Trainer().answer(header, to_bytes(RecordDict()))
    assert (told["status"], body) == ("refused", b"")
    assert said in told["reason"]


def test_what_goes_wrong_is_told_in_words(tiny_settings: dict[str, Any]) -> None:
    told, _ = Trainer().answer(asked({**tiny_settings, "model.name": "/no/such"}), b"")
    assert told["status"] == "failed"
    assert "/no/such" in told["reason"]


def test_under_privacy_these_words_carry_nothing_of_the_data(
    tiny_settings: dict[str, Any], tmp_path: Any
) -> None:
    data = tmp_path / "patients.csv"
    data.write_text("text,label\nHIV-positive,\n", encoding="utf-8")
    header = asked({**tiny_settings, **SAMPLE}, node_config={**NODE, "data-path": str(data)})
    told, _ = Trainer().answer(header, to_bytes(RecordDict()))
    assert told["status"] == "failed"
    assert "which privacy.mode hides" in told["reason"]
    assert "HIV" not in told["reason"]


def test_what_a_message_carries_survives_the_way_from_process_to_process() -> None:
    array = Array(dtype="uint8", shape=(200,), stype="fedpeft.payload", data=bytes(range(200)))
    content = RecordDict(
        {
            "arrays": ArrayRecord({"adapter": array}),
            "config": ConfigRecord({"a": 1, "b": "x", "c": [True, False], "d": b"\0\1"}),
            "metrics": MetricRecord({"loss": 0.25, "steps": 7, "many": [1.5, 2.5]}),
        }
    )
    came = content.array_records["arrays"]["adapter"]
    came.data = memoryview(came.data)  # as it comes over a real connection
    found = from_bytes(to_bytes(content))
    assert bytes(found.array_records["arrays"]["adapter"].data) == bytes(range(200))
    assert found.array_records["arrays"]["adapter"].stype == "fedpeft.payload"
    assert dict(found.config_records["config"]) == dict(content.config_records["config"])
    assert dict(found.metric_records["metrics"]) == dict(content.metric_records["metrics"])
