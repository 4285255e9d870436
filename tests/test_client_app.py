"""What leaves a node when something goes wrong: where its data are private, nothing of them."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from private_settings import SAMPLE, USER

from fedpeft_app import answers, client_app, errors
from fedpeft_app.config import defaults
from fedpeft_app.strategies.guard import short_reason
from fedpeft_app.strategies.roll_call import Presence
from fedpeft_app.wire.record import facts

SECRET = "HIV-positive"
NAMED = {"data.labels": "crude,grain,money"}
private = pytest.mark.parametrize("mode", [SAMPLE, USER], ids=["sample", "user"])
every_message = pytest.mark.parametrize("kind", ["query.roll_call", "train", "evaluate"])

Ask = Callable[..., Message]


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """A node's own table of 31 examples, one of which has a label that nobody else has."""
    rows = [("wheat corn", "grain"), ("oil barrel", "crude"), ("bank rate", "money")] * 10
    rows.append(("a patient", SECRET))
    path = tmp_path / "own"
    path.mkdir()
    lines = "".join(f"{text},{label}\n" for text, label in rows)
    (path / "train.csv").write_text(f"text,label\n{lines}", encoding="utf-8")
    return path


@pytest.fixture
def ask(tiny_settings: dict[str, Any]) -> Ask:
    """Send one message to a node of its own and give the reply, as Flower would."""

    def send(kind: str = "query.roll_call", own: Path | None = None, **settings: Any) -> Message:
        context = Context(
            run_id=1,
            node_id=7,
            node_config={"partition-id": 0, **({"data-path": str(own)} if own else {})},
            state=RecordDict(),
            run_config={**defaults(), **tiny_settings, **settings},
        )
        message = Message(content=RecordDict(), dst_node_id=7, message_type=kind)
        message.metadata.__dict__["_message_id"] = "message"
        return client_app.app(message, context)

    return send


def raising(error: Exception) -> Callable[..., None]:
    """Stand for whatever a node does, and fail."""

    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Let the node fail at whatever it is asked."""

    def set_up(error: Exception) -> None:
        for name in ("make_presence", "make_participation"):
            monkeypatch.setattr(answers, name, raising(error))

    return set_up


def everything_in(message: Message) -> bytes:
    """Give all bytes of a message as Flower sends them."""
    return b"".join(part.deflate() for part in get_all_nested_objects(message).values())


# ------------------------------------------------------------------ label names


@private
@pytest.mark.parametrize("labels", [{}, NAMED], ids=["nobody named them", "others are named"])
def test_label_names_of_private_data_stay_on_the_node(
    mode: dict[str, Any], labels: dict[str, Any], own_data: Path, ask: Ask
) -> None:
    reply = ask(own=own_data, **mode, **labels)
    assert reply.has_error()
    assert SECRET.encode() not in everything_in(reply)


@private
def test_a_node_whose_labels_nobody_named_says_what_to_do(
    mode: dict[str, Any], own_data: Path, ask: Ask
) -> None:
    reason = short_reason(ask(own=own_data, **mode).error.reason)
    assert "data.labels" in reason


@private
def test_named_labels_let_a_node_with_data_of_its_own_in(
    mode: dict[str, Any], own_data: Path, ask: Ask
) -> None:
    reply = ask(own=own_data, **mode, **{"data.labels": f"crude,grain,money,{SECRET}"})
    presence = Presence.from_facts(facts(reply.content))
    assert presence.labels == ("crude", "grain", "money", SECRET)
    assert presence.examples == 1


def test_without_privacy_label_names_are_told(own_data: Path, ask: Ask) -> None:
    presence = Presence.from_facts(facts(ask(own=own_data).content))
    assert SECRET in presence.labels


# ------------------------------------------------------------------ errors

TOLD = {  # they speak of settings, software and the node's own records
    *("ConfigError", "UnknownNameError", "BackboneError", "AdapterMismatchError"),
    *("NodeStateError", "PrivacyError", "BudgetSpentError", "PolicyError", "CapacityError"),
}
KEPT = {  # they may name a row, a label, a loss or a number of examples
    *("SourceError", "DataError", "WireError", "TrainingError"),
    *("RollCallError", "QuorumError", "RunFolderError", "LaunchError"),  # no node raises these,
    "KeysError",  # nor this
}


def test_of_every_error_it_is_decided_whether_a_private_node_tells_it() -> None:
    assert {kind.__name__ for kind in errors.WITHOUT_DATA} == TOLD
    assert {kind.__name__ for kind in errors.FedPeftError.__subclasses__()} == TOLD | KEPT


@private
@every_message
@pytest.mark.parametrize(
    "error",
    [
        errors.DataError(f"own/train.csv, row 31: label '{SECRET}' is not one of …"),
        errors.TrainingError(f"Node 2, round 1: … (training loss 3.21) {SECRET}"),
        KeyError(SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_private_node_that_fails_tells_the_kind_of_error_alone(
    mode: dict[str, Any], kind: str, error: Exception, fails: Any, ask: Ask
) -> None:
    fails(error)
    reply = ask(kind, **mode)
    assert SECRET.encode() not in everything_in(reply)
    reason = short_reason(reply.error.reason)
    assert reason.startswith(f"{type(error).__name__}: ")
    assert "its own log" in reason


@private
@every_message
def test_what_a_private_node_keeps_is_in_its_own_log(
    mode: dict[str, Any], kind: str, fails: Any, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    fails(errors.DataError("row 31 is wrong"))
    with caplog.at_level(logging.ERROR):
        ask(kind, **mode)
    assert "row 31 is wrong" in caplog.text


@private
@pytest.mark.parametrize("kind", ["query.roll_call", "evaluate"])
@pytest.mark.parametrize("name", sorted(TOLD - {"ConfigError"}))
def test_errors_that_carry_no_data_are_told_whole(
    mode: dict[str, Any], kind: str, name: str, fails: Any, ask: Ask
) -> None:
    told = getattr(errors, name)("Expected this, got that. Do so.")
    told.__cause__ = ValueError(SECRET)  # Ray would print it with a traceback
    fails(told)
    reply = ask(kind, **mode)
    assert short_reason(reply.error.reason) == "Expected this, got that. Do so."
    assert SECRET.encode() not in everything_in(reply)


@private
def test_where_a_node_keeps_things_stays_in_its_own_log(
    mode: dict[str, Any], own_home: Path, fails: Any, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    book = own_home / "nodes" / "run" / "node-0000" / "privacy" / "spent.jsonl"
    fails(errors.NodeStateError(f"Restore {book}."))
    with caplog.at_level(logging.ERROR):
        reply = ask("train", **mode)
    named = "Restore $FEDPEFT_HOME/nodes/run/node-0000/privacy/spent.jsonl."
    assert short_reason(reply.error.reason) == named
    assert str(own_home).encode() not in everything_in(reply)
    assert str(book) in caplog.text


@every_message
def test_without_privacy_an_error_is_flowers_to_report(kind: str, fails: Any, ask: Ask) -> None:
    fails(errors.DataError("row 31 is wrong"))
    with pytest.raises(errors.DataError, match="row 31"):
        ask(kind)


def test_a_delta_that_is_too_large_is_refused_without_the_count(own_data: Path, ask: Ask) -> None:
    named = {"data.labels": f"crude,grain,money,{SECRET}"}
    large = {**SAMPLE, **named, "privacy.delta": 0.04}
    assert "31" not in short_reason(ask(own=own_data, **large).error.reason)
    public = {**large, "privacy.public-counts": True}
    assert "31 examples" in short_reason(ask(own=own_data, **public).error.reason)
