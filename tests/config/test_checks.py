"""Combinations of sound values that are refused, and when the rules keep quiet."""

import pytest

from fedpeft_app.config import RunConfig, parse
from fedpeft_app.config.checks import cross_section_faults
from fedpeft_app.config.flat import fields
from fedpeft_app.errors import ConfigError

CLASHES = [  # what is given, the key to blame, what to change instead
    pytest.param(
        {"data.partitioner": "natural"},
        "data.partition-column",
        {"data.partition-column": "hospital"},
        id="natural partitions need a column",
    ),
    pytest.param(
        {"strategy.fraction-evaluate": 0.5, "data.node-validation-fraction": 0.0},
        "data.node-validation-fraction",
        {"data.node-validation-fraction": 0.1},
        id="federated evaluation needs held-out data",
    ),
    pytest.param(
        {"strategy.min-replies": 3, "strategy.min-nodes": 2},
        "strategy.min-replies",
        {"strategy.min-nodes": 3},
        id="replies come from nodes",
    ),
    pytest.param(
        {"mode": "local", "evaluate.server": False},
        "evaluate.server",
        {"evaluate.server": True},
        id="local runs need a judge",
    ),
]
Flat = dict[str, object]


@pytest.mark.parametrize(("given", "blamed", "cure"), CLASHES)
def test_a_clash_is_refused_and_can_be_cured(given: Flat, blamed: str, cure: Flat) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(given)
    assert [fault.key for fault in caught.value.faults] == [blamed]
    assert parse({**given, **cure})


@pytest.mark.parametrize(("given", "blamed", "cure"), CLASHES)
def test_clashes_blame_keys_of_the_schema(given: Flat, blamed: str, cure: Flat) -> None:
    assert {*given, blamed, *cure} <= set(fields())


def test_all_clashes_are_reported_together() -> None:
    together: Flat = {}
    for clash in CLASHES:
        together |= clash.values[0]  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        parse(together)
    assert {fault.key for fault in caught.value.faults} == {clash.values[1] for clash in CLASHES}


def test_the_defaults_do_not_clash() -> None:
    assert cross_section_faults(RunConfig()) == []


def test_clashes_come_with_the_other_faults() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"rounds": 0, "strategy.min-replies": 3})
    assert [fault.key for fault in caught.value.faults] == ["rounds", "strategy.min-replies"]


def test_no_clash_with_a_value_that_was_refused() -> None:
    # min-nodes = 0 is refused; "must not exceed min-nodes = 2" would speak of a default
    with pytest.raises(ConfigError) as caught:
        parse({"strategy.min-replies": 3, "strategy.min-nodes": 0})
    assert [fault.key for fault in caught.value.faults] == ["strategy.min-nodes"]
