"""Flat scalars ↔ configuration: nothing lost, nothing slipped in, every fault at once."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedpeft_app.config import defaults, flatten, parse
from fedpeft_app.config.flat import fields
from fedpeft_app.errors import ConfigError, Fault
from fedpeft_app.names import NAME_CHECKS, REGISTRIES

finite = st.floats(min_value=0.0, allow_nan=False, allow_infinity=False)
some_text = st.text(min_size=1, max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
json_objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3).map(json.dumps)

SOUND = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["federated", "central", "local"]),
        "rounds": st.integers(1, 10**9),
        "seed": st.integers(0, 2**63 - 1),
        "task": some_text,
        "task.options": json_objects,
        "model.name": some_text,
        "model.dropout": st.just(-1.0) | st.floats(0.0, 0.99),
        "method.alpha": finite.filter(bool),
        "method.options": json_objects,
        "data.labels": st.text(),
        "data.max-length": st.integers(4, 10**6),
        "train.learning-rate": finite,
        "train.optimizer": st.sampled_from(["adamw", "sgd"]),
        "strategy.fraction-train": st.floats(0.0, 1.0, exclude_min=True),
        "strategy.min-replies": st.integers(1, 2),
        "output.name": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"),
    },
)

WRONG = {  # key → a value that is wrong whatever the others are
    "rounds": -1,
    "seed": 0.5,
    "task": "",
    "task.options": "[]",
    "model.dtype": "float8",
    "method.nam": "lora",
    "method.rank": True,
    "model": "bert",
    "data.test-fraction": 1.0,
    "train.optimizer": "adam",
    "evaluate.server": "yes",
    "strategy.name": "fedaddam",
    "strategy.fraction-train": 0,
    "output.name": "a/b",
    "batch_size": 3,
    "": 1,
}

NAME_FAULT = (
    f"unknown strategy 'fedaddam'. Known: {', '.join(REGISTRIES['strategy.name'].names())}, "
    "or a path 'package.module:Name'. "
    "Did you mean 'fedadam'?"
)

Flat = dict[str, object]


def faults_of(flat: Flat) -> tuple[Fault, ...]:
    """Give the faults that a configuration is refused for."""
    with pytest.raises(ConfigError) as caught:
        parse(flat, NAME_CHECKS)
    return caught.value.faults


@given(flat=SOUND)
def test_parsing_and_flattening_lose_nothing(flat: Flat) -> None:
    assert flatten(parse(flat)) == {**defaults(), **flat}


@given(flat=SOUND)
def test_flattening_and_parsing_come_back(flat: Flat) -> None:
    config = parse(flat)
    assert parse(flatten(config)) == config


def test_nothing_given_is_the_default() -> None:
    assert flatten(parse({}, NAME_CHECKS)) == defaults()


def test_a_flat_configuration_has_every_key() -> None:
    assert list(flatten(parse({"rounds": 3}))) == list(fields())


@given(wrong=st.sets(st.sampled_from(list(WRONG)), min_size=1))
def test_every_fault_is_reported_once(wrong: set[str]) -> None:
    faults = faults_of({key: WRONG[key] for key in wrong})
    assert sorted(fault.key for fault in faults) == sorted(wrong)
    assert all(fault.value is WRONG[fault.key] for fault in faults)


scalars = st.text(max_size=5) | st.integers() | st.floats() | st.booleans()


@given(flat=st.dictionaries(st.sampled_from(list(fields())) | st.text(max_size=8), scalars))
def test_whatever_is_given_is_parsed_or_refused_in_our_words(flat: Flat) -> None:
    try:
        config = parse(flat, NAME_CHECKS)
    except ConfigError as error:
        assert error.faults
        assert not any("Input should" in fault.problem for fault in error.faults)
        assert not any("Did you mean ''" in fault.problem for fault in error.faults)
    else:
        assert set(flat) <= set(flatten(config))


def test_three_mistakes_are_three_faults_with_hints() -> None:
    faults = faults_of({"rounds": -1, "method.nam": "lora", "strategy.name": "fedaddam"})
    assert {fault.key: fault.problem for fault in faults} == {
        "rounds": "must be greater than or equal to 1 (communication rounds).",
        "method.nam": "unknown key. Did you mean 'method.name'?",
        "strategy.name": NAME_FAULT,
    }


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("round", "rounds"),
        ("method.ranks", "method.rank"),
        ("train.batch_size", "train.batch-size"),
        ("train.lr", "train.lr-schedule"),
        ("Strategy.Name", "strategy.name"),
        ("task_options", "task.options"),
        ("learning-rate", "train.learning-rate"),
    ],
)
def test_unknown_keys_suggest_the_nearest(key: str, meant: str) -> None:
    (fault,) = faults_of({key: 1})
    assert fault.problem == f"unknown key. Did you mean '{meant}'?"


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("train.optimizer", "adam", "adamw"),
        ("train.optimizer", "SGD", "sgd"),
        ("mode", "Federated", "federated"),
        ("task", "text-clasification", "text-classification"),
        ("method.name", "LoRA", "lora"),
        ("data.partitioner", "dirichlett", "dirichlet"),
    ],
)
def test_wrong_choices_suggest_the_nearest(key: str, value: str, hint: str) -> None:
    (fault,) = faults_of({key: value})
    assert fault.problem.endswith(f"Did you mean '{hint}'?")


@pytest.mark.parametrize(("key", "value"), [("rounds", 0), ("model.name", ""), ("mode", "")])
def test_no_hint_where_nothing_is_near(key: str, value: object) -> None:
    (fault,) = faults_of({key: value})
    assert "Did you mean" not in fault.problem


def test_a_fault_says_what_the_key_means() -> None:
    (fault,) = faults_of({"model.name": ""})
    assert fault.problem == (
        "must have at least 1 character (hub id, known id with a pinned offline source, local "
        "model folder, or 'scratch:' and a known architecture (random weights))."
    )


def test_a_path_passes_for_a_name() -> None:
    path = "flwr.serverapp.strategy:FedAdam"
    assert parse({"strategy.name": path}, NAME_CHECKS).strategy.name == path


@pytest.mark.parametrize("key", ["wire.uplink", "wire.downlink"])
@pytest.mark.parametrize("text", ["float32", "int8", "topk(0.1)+int4+zstd", "threshold(0.5)+int8"])
def test_codecs_are_chains_of_names(key: str, text: str) -> None:
    assert flatten(parse({key: text}, NAME_CHECKS))[key] == text


@pytest.mark.parametrize("key", ["wire.uplink", "wire.downlink"])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("int9", "unknown codec stage 'int9'. Known: topk, .* Did you mean 'int8'"),
        ("topk(0.1)", "Expected one number format in codec"),
        ("zstd+int8", "Expected one number format in codec"),
        ("topk(2)+int8", r"Expected a parameter of 'topk' in \(0, 1\]"),
        ("json:loads", "unknown codec stage 'json:loads'"),
    ],
)
def test_other_codecs_are_refused(key: str, text: str, problem: str) -> None:
    (fault,) = faults_of({key: text})
    assert fault.key == key
    assert re.search(problem, fault.problem)


def test_cohort_rules_have_names() -> None:
    (fault,) = faults_of({"strategy.cohort": "round-robbin"})
    assert fault.problem.endswith("Did you mean 'round-robin'?")


def test_names_are_looked_up_only_if_asked() -> None:
    assert parse({"strategy.name": "fedaddam"}).strategy.name == "fedaddam"
