"""The guard: every reason for which a reply is rejected, and what a user reads of it."""

import math
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp.client_app import ClientAppException
from strategy_samples import failure, members, numbers, reply_of, state_of, update

from fedpeft_app.adapters import AdapterSpec, AdapterState
from fedpeft_app.errors import DataError, QuorumError
from fedpeft_app.strategies.guard import admit, admit_metrics, require_quorum, short_reason
from fedpeft_app.strategies.strategy import Assignment, Reply
from fedpeft_app.wire.record import write_facts

MEMBER = members(1, examples=10)[0]
ROUND = 3


def asked(kind: str = "train") -> Message:
    """Make the message that a node answers."""
    return Message(content=RecordDict(), dst_node_id=MEMBER.node_id, message_type=kind)


def task(spec: AdapterSpec, **changes: Any) -> Assignment:
    """Make what the node was asked to do: train everything, from zeros."""
    return Assignment(state=state_of(spec, 0.0), **changes)


def judged(
    spec: AdapterSpec,
    delta: AdapterState,
    metrics: Mapping[str, float],
    round_number: int = ROUND,
) -> Reply | str:
    """Let the guard look at an update."""
    return admit(update(asked(), delta, round_number, metrics), MEMBER, task(spec), ROUND)


def test_a_good_reply_passes_unchanged(spec: AdapterSpec, state: AdapterState) -> None:
    reply = judged(spec, state, numbers(10, loss=0.25))
    assert isinstance(reply, Reply)
    assert (reply.member, reply.weight) == (MEMBER, 10.0)
    assert reply.delta.vector.tobytes() == state.vector.tobytes()
    assert reply.metrics == numbers(10, loss=0.25)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (0, "states 0 training examples"),
        (-5, "states -5 training examples"),
        (math.nan, "states nan training examples"),
        (math.inf, "states inf training examples"),
        (1e308, "states 1e+308 training examples, but 10 at the roll call"),
        (11, "states 11 training examples, but 10 at the roll call"),
    ],
)
def test_a_weight_is_a_count_the_node_has(
    spec: AdapterSpec, state: AdapterState, weight: float, reason: str
) -> None:
    assert judged(spec, state, {**numbers(), "num-examples": weight}) == reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("num-examples", "states 0 training examples"),
        ("loss", "sent no metric 'loss'"),
        ("examples-trained", "sent no metric 'examples-trained'"),
    ],
)
def test_what_is_read_later_must_be_there(
    spec: AdapterSpec, state: AdapterState, name: str, reason: str
) -> None:
    rest = {key: value for key, value in numbers().items() if key != name}
    assert judged(spec, state, rest) == reason


@pytest.mark.parametrize("name", ["loss", "examples-trained"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_read_later_must_be_finite(
    spec: AdapterSpec, state: AdapterState, name: str, value: float
) -> None:
    assert judged(spec, state, {**numbers(), name: value}) == f"sent metric '{name}' = {value}"


@pytest.mark.parametrize("round_number", [2, 4])
def test_a_reply_to_another_round_is_rejected(
    spec: AdapterSpec, state: AdapterState, round_number: int
) -> None:
    reason = judged(spec, state, numbers(), round_number)
    assert reason == f"answers round {round_number} instead of 3"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 6])
def test_one_value_that_is_not_finite_rejects(
    spec: AdapterSpec, state: AdapterState, value: float, place: int
) -> None:
    vector = state.vector.copy()
    vector[place] = value
    reason = judged(spec, AdapterState(spec=spec, vector=vector), numbers())
    assert reason == "sent values that are not finite"


def test_another_adapter_is_rejected(spec: AdapterSpec, state: AdapterState) -> None:
    other = AdapterSpec(
        method="lora", backbone="fedcba9876543210", tensors=spec.tensors, ranks=spec.ranks
    )
    reason = judged(spec, state_of(other, 0.0), numbers())
    assert isinstance(reason, str)
    assert other.fingerprint in reason
    assert spec.fingerprint in reason


def test_missing_records_are_rejected(spec: AdapterSpec, state: AdapterState) -> None:
    whole = update(asked(), state, ROUND, numbers()).content
    for name in ("arrays", "config", "metrics"):
        rest = RecordDict({key: record for key, record in whole.items() if key != name})
        reason = admit(Message(rest, reply_to=asked()), MEMBER, task(spec), ROUND)
        assert isinstance(reason, str)
        assert reason.startswith("Expected")


def test_a_metric_that_is_a_list_does_not_count(spec: AdapterSpec, state: AdapterState) -> None:
    content = update(asked(), state, ROUND, numbers()).content
    content["metrics"] = MetricRecord({**numbers(), "loss": [1.0, 2.0]})
    reason = admit(Message(content, reply_to=asked()), MEMBER, task(spec), ROUND)
    assert reason == "sent no metric 'loss'"


def test_an_error_is_rejected_in_the_nodes_words(spec: AdapterSpec) -> None:
    assert admit(failure(asked(), "disk on fire"), MEMBER, task(spec), ROUND) == "disk on fire"


GOOD = {"loss": 0.5, "accuracy": 0.75, "num-examples": 4.0}


def test_good_measurements_pass() -> None:
    found = admit_metrics(Message(write_facts({}, {**GOOD, "auroc": 0.8}), reply_to=asked()))
    assert found == {**GOOD, "auroc": 0.8}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num-examples": 0}, "states 0 validation examples"),
        ({"num-examples": math.nan}, "states nan validation examples"),
        ({"loss": math.nan}, "sent metric 'loss' = nan"),
        ({"accuracy": math.inf}, "sent metric 'accuracy' = inf"),
    ],
)
def test_bad_measurements_are_rejected(changes: dict[str, float], reason: str) -> None:
    assert admit_metrics(Message(write_facts({}, {**GOOD, **changes}), reply_to=asked())) == reason


@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_missing_measurements_are_rejected(name: str) -> None:
    rest = {key: value for key, value in GOOD.items() if key != name}
    found = admit_metrics(Message(write_facts({}, rest), reply_to=asked()))
    assert found == f"sent no metric '{name}'"
    assert admit_metrics(Message(RecordDict(), reply_to=asked())) == "states 0 validation examples"
    assert admit_metrics(failure(asked(), "no data")) == "no data"


def test_enough_good_replies_make_a_quorum(spec: AdapterSpec) -> None:
    good = [reply_of(MEMBER, state_of(spec, 0.0), 1)]
    require_quorum(1, good, {}, 1)
    with pytest.raises(QuorumError) as raised:
        require_quorum(4, good, {7: "out of memory", 9: "no reply within 5 s"}, 2)
    assert str(raised.value) == (
        "Round 4: 1 of 3 replies were good, at least 2 (strategy.min-replies) must be. Rejected:\n"
        "  node 7: out of memory\n"
        "  node 9: no reply within 5 s"
    )


def wrapped(error: BaseException) -> str:
    """Write an error as Flower does (run_clientapp.py and vce_api.py of flwr 1.41)."""
    return str(type(error)) + ":<'" + str(error) + "'>"


def as_seen_through_ray(error: Exception) -> str:
    """Write a node's error as Flower's simulation reports it, by Ray's own classes."""
    from ray.exceptions import RayTaskError

    try:
        try:
            raise error
        except Exception as cause:  # as in flwr's VirtualClientEngineActor.run
            raise ClientAppException(str(cause)) from cause
    except ClientAppException as seen:
        task_error = RayTaskError(
            "ray::ClientAppActor.run()",
            traceback.format_exc(),
            seen,
            proctitle="ray::ClientAppActor.run",
            pid=12,
            ip="127.0.0.1",
            actor_repr="<flwr.simulation.ray_transport.ray_actor.ClientAppActor object>",
            actor_id="ab12",
        )
        return wrapped(task_error.as_instanceof_cause())


LONG = "Node 0 holds no examples.\nSet data.min-examples above 0: 'none' is too few."


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("Node 0 holds no examples."), "Node 0 holds no examples."),
        (DataError(LONG), LONG.replace("\n", " ")),
        (ValueError("bad shape"), "ValueError: bad shape"),
        (KeyError("text"), "KeyError: 'text'"),
        (MemoryError(), "MemoryError"),
        (RuntimeError("Note: a\n\nb: c"), "RuntimeError: Note: a b: c"),
    ],
)
def test_a_nodes_own_words_survive_ray_and_flower(error: Exception, line: str) -> None:
    through_ray = as_seen_through_ray(error)
    assert "Traceback" in through_ray or 'File "' in through_ray
    assert short_reason(through_ray) == line
    assert short_reason(wrapped(error)) == line


def test_the_cause_of_a_cause_is_not_mistaken_for_it() -> None:
    try:
        try:
            raise OSError("no such file")
        except OSError as error:
            raise DataError("Cannot read the data.") from error
    except DataError as error:
        assert short_reason(as_seen_through_ray(error)) == "Cannot read the data."


def test_an_unclear_cause_leaves_the_text_alone() -> None:
    noted = ValueError("bad shape")
    noted.add_note("while reading")  # stands between the message and the end of its traceback
    assert short_reason(as_seen_through_ray(noted)) == "bad shape"
    assert short_reason(wrapped(ClientAppException("bad shape"))) == "bad shape"


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("disk on fire", "disk on fire"),
        ("two\n  lines ", "two lines"),
        ("", "no reason given"),
        (None, "no reason given"),
        ("<class 'RuntimeError'>:<''>", "RuntimeError"),
        (
            "<class 'ray.exceptions.ActorDiedError'>:<'The actor died.\n\tpid: 7\n\tname: x'>",
            "ActorDiedError: The actor died. pid: 7 name: x",
        ),
        (
            (
                "<class 'ray.exceptions.RayTaskError(ImportError)'>:<'"
                "\x1b[36mray::f()\x1b[39m (pid=1)"
                '\n  File "a.py", line 1, in f\nImportError: no torch\'>'
            ),
            "ImportError: no torch",
        ),
        (
            "Error: Reply Message Unavailable - The reply message has expired.",
            "Error: Reply Message Unavailable - The reply message has expired.",
        ),
    ],
)
def test_every_reason_becomes_one_line(reason: Any, line: str) -> None:
    assert short_reason(reason) == line


def test_a_page_of_text_is_cut() -> None:
    line = short_reason("word " * 1000)
    assert len(line) == 600
    assert line.endswith("…")


def test_no_error_is_taken_for_success() -> None:
    # The watcher reads an empty problem as "no error".
    for reason in ("", "\n", "<class 'X'>:<''>", "'>", np.array2string(np.zeros(0))):
        assert short_reason(reason)
