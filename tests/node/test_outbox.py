"""Outboxes: the last answer comes back whole, to its own question, or not at all."""

from pathlib import Path

import pytest

from fedpeft_app.errors import NodeStateError
from fedpeft_app.node.outbox import Outbox


def test_an_answer_is_given_to_its_question_alone(tmp_path: Path) -> None:
    outbox = Outbox(path=tmp_path / "deep" / "reply.bin")
    assert outbox.recall("round 1") is None
    outbox.keep("round 1", b"one")
    assert outbox.recall("round 1") == b"one"
    assert outbox.recall("round 2") is None
    outbox.keep("round 2", b"two")
    assert (outbox.recall("round 1"), outbox.recall("round 2")) == (None, b"two")


def test_a_damaged_answer_is_lost(tmp_path: Path) -> None:
    outbox = Outbox(path=tmp_path / "reply.bin")
    outbox.keep("round 1", b"one")
    whole = outbox.path.read_bytes()
    for wrong in (b"", whole[:10], whole[:-1], whole[:-1] + b"f", b"x" + whole[1:]):
        outbox.path.write_bytes(wrong)
        assert outbox.recall("round 1") is None


def test_an_empty_answer_is_an_answer(tmp_path: Path) -> None:
    outbox = Outbox(path=tmp_path / "reply.bin")
    outbox.keep("", b"")
    assert outbox.recall("") == b""


def test_an_answer_outlives_its_process(tmp_path: Path) -> None:
    Outbox(path=tmp_path / "reply.bin").keep("round 1", b"one")
    assert Outbox(path=tmp_path / "reply.bin").recall("round 1") == b"one"


def test_an_answer_is_its_owners_alone_and_clears_up_after_a_killed_process(
    tmp_path: Path,
) -> None:
    left, others = (tmp_path / f".{name}.0123456789abcdef.tmp" for name in ("reply.bin", "other"))
    for path in (left, others):
        path.touch()
    outbox = Outbox(path=tmp_path / "reply.bin")
    outbox.keep("round 1", b"one")
    assert outbox.path.stat().st_mode & 0o777 == 0o600
    assert set(tmp_path.iterdir()) == {outbox.path, others}


def test_what_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NodeStateError, match="Cannot keep a reply in .* set FEDPEFT_HOME"):
        Outbox(path=tmp_path / "file" / "reply.bin").keep("round 1", b"one")
