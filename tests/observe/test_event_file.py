"""Event files: whole records with true checksums, as TensorBoard reads them."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from fedpeft_app.observe.observers.event_file import _FIXED32, EventFile, _field, crc32c
from fedpeft_app.observe.observers.observer import Watched
from fedpeft_app.observe.observers.tensorboard import TensorBoard

_ROUND = {"event": "round_finished", "ok": 2, "validation": {"accuracy": 0.25}}
_KINDS = {"double": 1, "float": 2, "int64": 3, "string": 9, "message": 11, "bytes": 12, "enum": 5}
_MESSAGES = {  # of event.proto, summary.proto and tensor.proto; an enum reads as int32 (5)
    "PluginData": [("plugin_name", 1, "string", "")],
    "Metadata": [("plugin_data", 1, "message", "PluginData")],
    "Tensor": [("dtype", 1, "enum", ""), ("string_val", 8, "bytes", "*")],
    "Value": [
        ("tag", 1, "string", ""),
        ("simple_value", 2, "float", ""),
        ("tensor", 8, "message", "Tensor"),
        ("metadata", 9, "message", "Metadata"),
    ],
    "Summary": [("value", 1, "message", "Value*")],
    "SessionLog": [("status", 1, "enum", "")],
    "Event": [
        ("wall_time", 1, "double", ""),
        ("step", 2, "int64", ""),
        ("file_version", 3, "string", ""),
        ("summary", 5, "message", "Summary"),
        ("session_log", 7, "message", "SessionLog"),
    ],
}


@pytest.fixture(scope="module")
def event_class() -> Any:
    """Google's own reader of protocol buffers, given the fields that TensorFlow documents."""
    file = descriptor_pb2.FileDescriptorProto(name="events.proto", package="t", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            added = message.field.add(name=field, number=number, type=_KINDS[kind])
            added.label = 3 if of.endswith("*") else 1
            if kind == "message":
                added.type_name = f".t.{of.rstrip('*')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Event"))


def records(path: Path) -> Iterator[bytes]:
    """Take a file apart, checking every checksum."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert content[8:12] == masked(content[:8])
        assert content[12 + length : 16 + length] == masked(content[12 : 12 + length])
        yield content[12 : 12 + length]
        content = content[16 + length :]


def masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def watched(folder: Path, round_number: int = 0) -> Watched:
    config = {"rounds": 3, "output.name": "a|b", "resume": ""}
    return Watched(folder=folder, config=config, round_number=round_number)


def write(folder: Path, rounds: range, since: int = 0) -> Path:
    """Have rounds written, as a run does that goes on after round `since`; give the new file."""
    board = TensorBoard()
    board.begin(watched(folder, since))
    for number in rounds:
        board.tell({**_ROUND, "round": number, "seconds": float(10 * number + since)})
        board.tell({"event": "evaluating", "split": "test", "share": 0.5})
    board.end("finished")
    return max((folder / "tensorboard").iterdir())


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the CRC catalogue
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


def test_what_is_written_is_what_protocol_buffers_read(tmp_path: Path, event_class: Any) -> None:
    events = [event_class.FromString(one) for one in records(write(tmp_path, range(1, 3)))]
    assert events[0].file_version == "brain.Event:2"
    (text,) = events[1].summary.value
    assert text.tag == "configuration/text_summary"
    assert text.metadata.plugin_data.plugin_name == "text"
    assert text.tensor.dtype == 7
    table = text.tensor.string_val[0].decode()
    assert table.splitlines()[2:] == [
        "| rounds | `3` |",
        "| output.name | `a\\|b` |",
        "| resume |  |",
    ]
    assert [event.step for event in events[2:]] == [1, 2]
    told = {value.tag: value.simple_value for value in events[3].summary.value}
    assert told == {"replies/good": 2.0, "seconds/round": 20.0, "validation/accuracy": 0.25}
    assert all(event.wall_time > 1.7e9 for event in events)


def test_numbers_beyond_float32_are_infinite() -> None:
    assert _field(2, _FIXED32, 1e40)[-4:] == struct.pack("<f", math.inf)
    assert _field(2, _FIXED32, -1e40)[-4:] == struct.pack("<f", -math.inf)


def test_a_reader_beside_the_run_has_every_round_that_was_told(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    path = next(tmp_path.iterdir())
    for step in range(1, 4):
        file.numbers(step, {"a": 1.0})
        assert len(list(records(path))) == 1 + step
    file.close()


def test_a_run_that_goes_on_voids_what_came_after_its_round(
    tmp_path: Path, event_class: Any
) -> None:
    write(tmp_path, range(1, 4))
    events = [event_class.FromString(one) for one in records(write(tmp_path, range(3, 5), since=2))]
    assert [event.session_log.status for event in events[:3]] == [0, 1, 0]
    assert [event.step for event in events] == [3, 3, 3, 3, 4]


def test_tensorboard_shows_each_round_once(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, range(1, 4))
    write(tmp_path, range(3, 5), since=2)
    shown = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(one.step, one.value) for one in shown.Scalars("seconds/round")] == [
        (1, 10.0),
        (2, 20.0),
        (3, 32.0),
        (4, 42.0),
    ]
    assert "configuration/text_summary" in shown.Tags()["tensors"]
