"""What a warm process answers, in this process."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from private_settings import SAMPLE

from fedpeft_app import assembly
from fedpeft_app.assembly import forget_models
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


def test_what_an_owner_changes_counts_from_the_next_roll_call_on(
    tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    data = tmp_path / "own.csv"
    header = asked(tiny_settings, node_config={"data-path": str(data)})
    trainer, found = Trainer(), []
    for examples in (9, 21, 0):
        data.write_text("text,label\n" + "oil barrel,crude\nbank rate,money\n" * examples)
        if not examples:
            data.unlink()
        told, body = trainer.answer(header, to_bytes(RecordDict()))
        found.append(facts(from_bytes(body))["examples"] if body else told["status"])
    assert found == [18, 42, "failed"]


def test_runs_that_have_the_model_in_common_share_it(tiny_settings: dict[str, Any]) -> None:
    forget_models()
    trainer, loads = Trainer(), []
    for change in ({}, {"rounds": 7}, {"strategy.name": "fedadam"}, {"method.rank": 1}):
        told, _ = trainer.answer(asked({**tiny_settings, **change}), to_bytes(RecordDict()))
        loads.append(told["facts"]["backbone-loads"])
    assert [load - loads[0] for load in loads] == [0, 0, 0, 1]
    assert len(assembly._MODELS) == 2


def test_a_refusal_needs_nothing_heavy(tiny_settings: dict[str, Any], own_home: Path) -> None:
    own_home.mkdir()
    (own_home / "policy.toml").write_text("max-rounds = 1\n", encoding="utf-8")
    script = f"""
import sys
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from fedpeft_app import client_app
from fedpeft_app.config import defaults
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
context = Context(
    run_id=1, node_id=7, node_config={{"name": "ward-3"}}, state=RecordDict(),
    run_config={{**defaults(), **{tiny_settings!r}}},
)
message = Message(content=RecordDict(), dst_node_id=7, message_type="query.roll_call")
message.metadata.__dict__["_message_id"] = "message"
print(client_app.app(message, context).error.reason)
print(sorted({{"torch", "ray", "transformers", "pandas"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    reason, heavy = done.stdout.strip().splitlines()
    assert "ward-3: " in reason
    assert "max-rounds" in reason
    assert heavy == "[]"


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
