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
from fedpeft_app.data.tasks.causal_lm import CausalLM
from fedpeft_app.data.tasks.scores import MANY_LABELS, ONE_LABEL
from fedpeft_app.errors import DataError, QuorumError
from fedpeft_app.strategies import guard
from fedpeft_app.strategies.guard import (
    NOTHING,
    SPENT,
    Numbers,
    admit,
    admit_metrics,
    require_quorum,
    short_reason,
)
from fedpeft_app.strategies.strategy import Assignment, Reply, train_loss
from fedpeft_app.training.worker import process_facts
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


@pytest.mark.parametrize("name", ["loss", "examples-trained", "steps", "seconds"])
@pytest.mark.parametrize("value", [math.nan, -math.inf, 1.1e100, -1.1e100])
def test_every_number_that_is_kept_can_be_reckoned_with(
    spec: AdapterSpec, state: AdapterState, name: str, value: float
) -> None:
    assert judged(spec, state, {**numbers(), name: value}) == f"sent metric '{name}' = {value}"


def test_sums_of_the_largest_numbers_stay_finite(spec: AdapterSpec, state: AdapterState) -> None:
    reply = judged(spec, state, numbers(10, loss=1e100))
    assert isinstance(reply, Reply)
    assert math.isfinite(train_loss([reply] * 1000))


def test_numbers_that_no_node_sends_are_left_out(spec: AdapterSpec, state: AdapterState) -> None:
    reply = judged(spec, state, {**numbers(), "process": 7.0, "accuracy": math.nan})
    assert isinstance(reply, Reply)
    assert reply.metrics == numbers()


def read_as(
    spec: AdapterSpec, state: AdapterState, metrics: Mapping[str, float], numbers: Numbers
) -> Mapping[str, float] | str:
    """Let the guard look at an update under privacy; give the numbers that pass."""
    message = update(asked(), state, ROUND, metrics)
    reply = admit(message, MEMBER, task(spec), ROUND, numbers)
    return reply if isinstance(reply, str) else reply.metrics


TOLD = {
    "num-examples": 1.0,
    "epsilon": 3.35,
    "epsilon-unamplified": 16.5,
    "noise-multiplier": 0.8,
    "sampling": 0.25,
    "steps": 12.0,
}


def test_under_user_level_privacy_only_the_weight_is_read(
    spec: AdapterSpec, state: AdapterState
) -> None:
    bare = {"num-examples": 1.0}
    assert read_as(spec, state, bare, NOTHING) == bare
    assert read_as(spec, state, {**numbers(1), "seconds": 9.0, "epsilon": 1.0}, NOTHING) == bare


def test_under_sample_level_privacy_nodes_say_what_they_spent(
    spec: AdapterSpec, state: AdapterState
) -> None:
    assert read_as(spec, state, TOLD, SPENT) == TOLD
    assert read_as(spec, state, {**TOLD, "loss": 0.5, "seconds": 9.0}, SPENT) == TOLD


@pytest.mark.parametrize("name", sorted(set(TOLD) - {"num-examples"}))
@pytest.mark.parametrize(
    ("value", "reason"), [(None, "sent no metric '{}'"), (math.inf, "sent metric '{}' = inf")]
)
def test_a_node_that_does_not_say_what_it_spent_does_not_count(
    spec: AdapterSpec, state: AdapterState, name: str, value: float | None, reason: str
) -> None:
    sent = {**TOLD, name: value} if value else {k: v for k, v in TOLD.items() if k != name}
    assert read_as(spec, state, sent, SPENT) == reason.format(name)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("epsilon", -1e-9, "= -1e-09, not from 0 to 1e+100"),
        ("epsilon-unamplified", -1.0, "= -1, not from 0 to 1e+100"),
        ("noise-multiplier", 0.0, "= 0, not from 1e-09 to 1e+100"),
        ("sampling", 0.0, "= 0, not from 1e-15 to 1"),
        ("sampling", 1.5, "= 1.5, not from 1e-15 to 1"),
        ("steps", 0.0, "= 0, not from 1 to 1e+15"),
        ("steps", 1e16, "= 1e+16, not from 1 to 1e+15"),
    ],
)
def test_what_a_node_says_it_did_can_be_done(
    spec: AdapterSpec, state: AdapterState, name: str, value: float, reason: str
) -> None:
    sent = {**TOLD, name: value}
    assert read_as(spec, state, sent, SPENT) == f"sent metric '{name}' {reason}"


def told(spec: AdapterSpec, state: AdapterState, facts: dict[str, Any]) -> Mapping[str, Any]:
    """Let the guard look at facts; give those that pass."""
    content = update(asked(), state, ROUND, numbers()).content
    content["config"].update(facts)
    reply = admit(Message(content, reply_to=asked()), MEMBER, task(spec), ROUND)
    assert isinstance(reply, Reply)
    return reply.facts


KNOWN = {"process": "0123456789ab", "backbone-loads": 1, "threads": 2}


def test_what_a_node_says_of_its_process_is_kept(spec: AdapterSpec, state: AdapterState) -> None:
    assert told(spec, state, KNOWN) == told(spec, state, process_facts() | KNOWN) == KNOWN
    assert set(process_facts()) == set(KNOWN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", 0.0),
        ("num-examples", 1),
        ("hostname", "node-7"),
        ("process", "x" * 5_000_000),
        ("process", "x" * 65),
        ("process", 7),
        ("threads", "many"),
        ("threads", 2.5),
        ("threads", True),
    ],
)
def test_facts_of_another_name_type_or_length_are_left_out(
    spec: AdapterSpec, state: AdapterState, name: str, value: Any
) -> None:
    rest = {key: known for key, known in KNOWN.items() if key != name}
    assert told(spec, state, {**KNOWN, name: value}) == rest


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
    assert reason == "sent a delta with values that are not finite"


@pytest.mark.parametrize("place", [0, 6])
@pytest.mark.parametrize(
    ("value", "named"), [(1e25, "1e+25"), (-1e25, "1e+25"), (100_000.01, "1e+05"), (3e38, "3e+38")]
)
def test_one_value_beyond_what_training_reaches_rejects(
    spec: AdapterSpec, state: AdapterState, value: float, named: str, place: int
) -> None:
    vector = state.vector.copy()
    vector[place] = value
    reason = judged(spec, AdapterState(spec=spec, vector=vector), numbers())
    assert reason == f"sent a delta with values up to {named}, beyond 100000"


@pytest.mark.parametrize("value", [100_000.0, -100_000.0])
def test_values_up_to_the_bound_pass_however_many(spec: AdapterSpec, value: float) -> None:
    # Their squares add up to more than the square of the bound, so each one is looked at.
    assert isinstance(judged(spec, state_of(spec, value), numbers()), Reply)


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


def measured(**changes: float) -> dict[str, float] | str:
    """Let the guard look at measurements."""
    return admit_metrics(Message(write_facts({}, {**GOOD, **changes}), reply_to=asked()), MEMBER)


def test_good_measurements_pass() -> None:
    assert measured(auroc=0.8) == {**GOOD, "auroc": 0.8}


@pytest.mark.parametrize(("stated", "counted"), [(9, 9), (10, 10), (11, 10), (1e308, 10)])
def test_an_evaluation_weighs_no_more_than_the_node_has(stated: float, counted: float) -> None:
    assert measured(**{"num-examples": stated}) == {**GOOD, "num-examples": counted}


@pytest.mark.parametrize(
    ("name", "value"),
    [("auroc", math.nan), ("hits", math.inf), ("hits", -1.1e100), ("perplexity", 1e304)],
)
def test_another_measurement_that_is_no_number_counts_as_undefined(name: str, value: float) -> None:
    assert measured(**{name: value}) == GOOD


_SHARES = ("accuracy", "macro-f1", "micro-f1", "auroc", "exact-match")


@pytest.mark.parametrize("name", [*_SHARES, *(f"test.{name}" for name in _SHARES)])
@pytest.mark.parametrize("value", [1e50, 1.001, -0.001])
def test_a_share_beyond_what_it_can_be_is_rejected(name: str, value: float) -> None:
    assert measured(**{name: value}) == f"sent metric '{name}' = {value:g}, not from 0 to 1"
    assert isinstance(measured(**{name: 1.0}), dict)


@pytest.mark.parametrize("name", ["loss", "perplexity", "test.loss", "test.perplexity"])
def test_a_loss_below_zero_is_rejected(name: str) -> None:
    assert measured(**{name: -1e-3}) == f"sent metric '{name}' = -0.001, not from 0 to inf"
    assert isinstance(measured(**{name: 1e50}), dict)


def test_every_metric_of_a_built_in_task_has_its_range() -> None:
    names = {*ONE_LABEL, *MANY_LABELS, *CausalLM.metric_names}
    assert names == set(guard._POSSIBLE)


@pytest.mark.parametrize("name", ["", "x" * 65, "Loss", "two words", "a\nb", ".x"])
def test_a_measurement_without_a_plain_name_is_left_out(name: str) -> None:
    assert measured(**{name: 0.5, "test.hits@10": 0.5}) == {**GOOD, "test.hits@10": 0.5}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num-examples": 0}, "states 0 validation examples"),
        ({"num-examples": math.nan}, "states nan validation examples"),
        ({"loss": math.nan}, "sent metric 'loss' = nan"),
        ({"accuracy": math.inf}, "sent metric 'accuracy' = inf"),
        ({"accuracy": 1.7e308}, "sent metric 'accuracy' = 1.7e+308"),
    ],
)
def test_bad_measurements_are_rejected(changes: dict[str, float], reason: str) -> None:
    assert measured(**changes) == reason


@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_missing_measurements_are_rejected(name: str) -> None:
    rest = {key: value for key, value in GOOD.items() if key != name}
    found = admit_metrics(Message(write_facts({}, rest), reply_to=asked()), MEMBER)
    assert found == f"sent no metric '{name}'"
    nothing = Message(RecordDict(), reply_to=asked())
    assert admit_metrics(nothing, MEMBER) == "states 0 validation examples"
    assert admit_metrics(failure(asked(), "no data"), MEMBER) == "no data"


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


@pytest.mark.parametrize("field", ["spec", "round"])
def test_a_node_does_not_write_pages_into_its_own_rejection(
    spec: AdapterSpec, state: AdapterState, field: str
) -> None:
    content = update(asked(), state, ROUND, numbers()).content
    content["config"][field] = "a line\n" * 100_000
    reason = admit(Message(content, reply_to=asked()), MEMBER, task(spec), ROUND)
    assert isinstance(reason, str)
    assert reason.startswith("The message is for adapter ")
    assert len(reason) == 600


def test_no_error_is_taken_for_success() -> None:
    # The watcher reads an empty problem as "no error".
    for reason in ("", "\n", "<class 'X'>:<''>", "'>", np.array2string(np.zeros(0))):
        assert short_reason(reason)
