"""Combinations of sound values that are refused, and when the rules keep quiet."""

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from fedpeft_app.config import RunConfig, parse
from fedpeft_app.config.checks import _RULES, cross_section_faults
from fedpeft_app.config.flat import _nest, fields
from fedpeft_app.config.privacy_checks import RULES, Rule
from fedpeft_app.errors import ConfigError

PRIVATE = {"privacy.mode": "sample", "privacy.target-epsilon": 8.0}
TRUSTING = {**PRIVATE, "privacy.mode": "user", "privacy.trust": "server"}
CLASHES = [  # what is given, the key to blame, what to change instead
    pytest.param(
        {"data.partitioner": "natural"},
        "data.partition-column",
        {"data.partition-column": "hospital"},
        id="natural partitions need a column",
    ),
    pytest.param(
        {"data.partitioner": "iid", "data.partition-column": "hospital"},
        "data.partition-column",
        {"data.partitioner": "natural"},
        id="a column of nodes is read",
    ),
    pytest.param(
        {"strategy.fraction-evaluate": 0.5, "data.node-validation-fraction": 0.0},
        "data.node-validation-fraction",
        {"data.node-validation-fraction": 0.1},
        id="federated evaluation needs held-out data",
    ),
    *(
        pytest.param(
            {"budget.patience": 2, **blind},
            "budget.patience",
            {"strategy.fraction-evaluate": 0.5},
            id=f"patience needs to see something ({', '.join(blind)})",
        )
        for blind in (
            {"evaluate.server": False},
            {"evaluate.every": 0},
            {"data.validation-fraction": 0.0},
        )
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
    pytest.param(
        {"model.dtype": "bfloat16", "train.precision": "fp32"},
        "train.precision",
        {"train.precision": "auto"},
        id="half a base needs its own precision",
    ),
    pytest.param(
        {"method.head": "personal", "strategy.fraction-evaluate": 0.5},
        "evaluate.server",
        {"evaluate.server": False},
        id="personal heads are not judged on the server",
    ),
    pytest.param(
        {"method.head": "personal", "evaluate.server": False},
        "strategy.fraction-evaluate",
        {"strategy.fraction-evaluate": 0.5},
        id="personal heads are judged on the nodes",
    ),
    pytest.param(
        {"method.head": "personal", "mode": "central"},
        "method.head",
        {"method.head": "train"},
        id="a central baseline has no nodes to keep heads",
    ),
    pytest.param(
        {"method.head": "personal", "mode": "local"},
        "method.head",
        {"method.head": "frozen"},
        id="nor has a local one",
    ),
    pytest.param(
        {"method.head": "frozen", "method.name": "head"},
        "method.head",
        {"method.head": "train"},
        id="the head method sends the head",
    ),
    *(
        pytest.param(
            {"model.quantization": quantization, "method.name": method},
            "model.quantization",
            {"method.name": "lora"},
            id=f"{quantization} weights are not changed by {method}",
        )
        for quantization, method in [("int8", "full"), ("nf4", "full"), ("nf4", "pissa")]
    ),
    pytest.param(
        {"evaluate.personal-steps": 3},
        "evaluate.personal-steps",
        {"strategy.fraction-evaluate": 0.1},
        id="steps for oneself need a judgement on nodes",
    ),
    pytest.param(
        {"method.name": "lora-sa", "strategy.fraction-evaluate": 0.5},
        "evaluate.server",
        {"evaluate.server": False},
        id="half an adapter is not judged on the server",
    ),
    pytest.param(
        {"method.rank": 4, "method.node-ranks": "4,8"},
        "method.node-ranks",
        {"method.node-ranks": "4,2"},
        id="nodes have at most the run's rank",
    ),
    pytest.param(
        {"method.node-ranks": "4,two"},
        "method.node-ranks",
        {"method.node-ranks": ""},
        id="ranks are numbers",
    ),
    pytest.param(
        {"method.node-ranks": "4,8", "wire.downlink": "int8"},
        "wire.downlink",
        {"wire.downlink": "float32+zstd"},
        id="increments lead to one state for all",
    ),
    *(
        pytest.param(
            {"strategy.name": name, f"wire.{way}": "int8"},
            "wire.feedback",
            {"wire.feedback": False},
            id=f"what the {way} left out means nothing in the next basis of {name}",
        )
        for name in ("flexlora", "fedsvd", "flora")
        for way in ("uplink", "downlink")
    ),
    pytest.param(
        {"mode": "local", "strategy.fraction-evaluate": 0.5},
        "strategy.fraction-evaluate",
        {"mode": "federated"},
        id="alone there are no rounds after which nodes evaluate",
    ),
    pytest.param(
        {"method.name": "lora-sa", "strategy.fraction-evaluate": 0.5},
        "evaluate.server",
        {"evaluate.server": False},
        id="nobody but the nodes has a personal B",
    ),
    pytest.param(
        {"method.node-ranks": "2,9"},
        "method.node-ranks",
        {"method.node-ranks": "2,8"},
        id="ranks of nodes are below the run's",
    ),
    pytest.param(
        {"method.node-ranks": "2", "wire.downlink": "int8"},
        "wire.downlink",
        {"wire.downlink": "float32"},
        id="increments lead to one state",
    ),
    pytest.param(
        {"method.node-ranks": "2", "method.name": "pissa"},
        "method.node-ranks",
        {"method.name": "lora"},
        id="a start that is not zero cannot be cut",
    ),
    pytest.param(
        {"strategy.name": "fedsvd", "wire.uplink": "int8"},
        "wire.feedback",
        {"wire.feedback": False},
        id="feedback needs one basis",
    ),
    pytest.param(
        {"strategy.name": "fedex", "wire.downlink": "int8"},
        "wire.feedback",
        {"wire.uplink": "int8", "wire.downlink": "float32"},
        id="residuals have a new basis on the way down",
    ),
    pytest.param(
        {"strategy.name": "flora", "wire.downlink": "topk(0.1)+int8", "wire.feedback": False},
        "wire.downlink",
        {"wire.downlink": "int8"},
        id="a new basis is not sparse",
    ),
    pytest.param(
        {"strategy.over-selection": 1.5, "strategy.fraction-train": 1.0},
        "strategy.over-selection",
        {"strategy.fraction-train": 0.5},
        id="over-selection needs a reserve",
    ),
    pytest.param(
        {"privacy.target-epsilon": 3.0},
        "privacy.mode",
        {"privacy.mode": "sample"},
        id="a target without a mode protects nothing",
    ),
    pytest.param(
        {"privacy.mode": "sample"},
        "privacy.target-epsilon",
        {"privacy.target-epsilon": 3.0},
        id="privacy needs noise",
    ),
    pytest.param(
        {**TRUSTING, "privacy.trust": "nobody"},
        "privacy.trust",
        {"privacy.trust": "server"},
        id="trust in the server is said",
    ),
    pytest.param(
        {**PRIVATE, "privacy.trust": "server"},
        "privacy.trust",
        {"privacy.trust": "nobody"},
        id="sample level trusts nobody",
    ),
    pytest.param(
        {**PRIVATE, "privacy.clip-quantile": 0.5},
        "privacy.clip-quantile",
        {"privacy.clip-quantile": 0.0},
        id="norms of examples do not follow",
    ),
    pytest.param(
        {**PRIVATE, "strategy.fraction-evaluate": 0.5},
        "strategy.fraction-evaluate",
        {"strategy.fraction-evaluate": 0.0},
        id="nodes do not tell how well they do",
    ),
    pytest.param(
        {**PRIVATE, "evaluate.server": False},
        "data.labels",
        {"data.labels": "yes,no"},
        id="nodes do not tell what labels they have",
    ),
    pytest.param(
        {**PRIVATE, "strategy.name": "scaffold"},
        "strategy.name",
        {"strategy.name": "fedprox"},
        id="control variates are gradients",
    ),
    pytest.param(
        {**TRUSTING, "strategy.cohort": "round-robin"},
        "strategy.cohort",
        {"strategy.cohort": "uniform"},
        id="cohorts are drawn in secret",
    ),
    pytest.param(
        {**PRIVATE, "strategy.cohort": "by-examples"},
        "strategy.cohort",
        {"privacy.public-counts": True},
        id="counts are not known",
    ),
    pytest.param(
        {**TRUSTING, "strategy.over-selection": 1.5},
        "strategy.over-selection",
        {"strategy.over-selection": 1.0},
        id="the fastest are no random sample",
    ),
    pytest.param(
        {**TRUSTING, "budget.uplink-mib": 1.0},
        "budget.uplink-mib",
        {"budget.uplink-mib": 0.0},
        id="bytes tell how many were drawn",
    ),
    *(
        pytest.param(
            {**privacy, **personal},
            key,
            {key: value},
            id=f"what stays on nodes is judged by nobody ({key}, {privacy['privacy.mode']})",
        )
        for privacy in (PRIVATE, TRUSTING)
        for personal, key, value in (
            ({"method.head": "personal"}, "method.head", "train"),
            ({"method.name": "lora-sa"}, "method.name", "lora-fa"),
        )
    ),
    pytest.param(
        {**TRUSTING, "privacy.public-counts": True},
        "privacy.public-counts",
        {"privacy.public-counts": False},
        id="users count alike",
    ),
    pytest.param(
        {**TRUSTING, "method.node-ranks": "4,8"},
        "method.node-ranks",
        {"method.node-ranks": ""},
        id="users have one rank",
    ),
    pytest.param(
        {**TRUSTING, "mode": "central"},
        "privacy.mode",
        {"mode": "federated"},
        id="a baseline has no users",
    ),
    pytest.param(
        {**PRIVATE, "train.precision": "fp16"},
        "train.precision",
        {"train.precision": "bf16"},
        id="no loss scaling under DP-SGD",
    ),
    pytest.param(
        {**PRIVATE, "train.gradient-checkpointing": True},
        "train.gradient-checkpointing",
        {"train.gradient-checkpointing": False},
        id="no checkpointing under DP-SGD",
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


class Recording:
    """A configuration, or a section of it, that notes which keys are read."""

    def __init__(self, model: BaseModel, read: set[str], prefix: str = "") -> None:
        self._model, self._read, self._prefix = model, read, prefix

    def __getattr__(self, name: str) -> Any:
        fields_of = type(self._model).model_fields
        if name not in fields_of:  # a property, which may read several
            return getattr(type(self._model), name).fget(self)
        value = getattr(self._model, name)
        key = self._prefix + (fields_of[name].alias or name)
        if isinstance(value, BaseModel):
            return Recording(value, self._read, f"{key}.")
        self._read.add(key)
        return value

    def __eq__(self, other: object) -> bool:
        for name in type(self._model).model_fields:
            getattr(self, name)
        return self._model == other

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("keys", "rule"), [*_RULES, *RULES], ids=lambda part: getattr(part, "__name__", "")
)
def test_a_rule_reads_no_keys_but_those_that_it_is_listed_with(
    keys: Sequence[str], rule: Rule
) -> None:
    assert set(keys) <= set(fields())
    for given, _, cure in (clash.values for clash in CLASHES):
        for flat in (given, {**given, **cure}):
            read: set[str] = set()
            config = RunConfig.model_validate(_nest(flat))
            list(rule(Recording(config, read)))  # type: ignore[arg-type]
            assert read <= set(keys)


def test_all_clashes_are_reported_together() -> None:
    together: Flat = {
        "data.partitioner": "natural",
        "strategy.min-replies": 3,
        "mode": "local",
        "evaluate.server": False,
        "model.quantization": "nf4",
        "method.name": "full",
        "evaluate.personal-steps": 1,
    }
    with pytest.raises(ConfigError) as caught:
        parse(together)
    assert [fault.key for fault in caught.value.faults] == [
        "data.partition-column",
        "strategy.min-replies",
        "evaluate.server",
        "model.quantization",
        "evaluate.personal-steps",
    ]


def test_a_personal_head_alone_says_all_that_it_needs() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"method.head": "personal"})
    keys = ["evaluate.server", "strategy.fraction-evaluate"]
    assert [fault.key for fault in caught.value.faults] == keys


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize(
    "needs_nodes",
    [{"method.head": "personal"}, {"method.name": "lora-sa"}, {"evaluate.personal-steps": 3}],
    ids=str,
)
def test_no_rule_tells_private_nodes_to_evaluate(needs_nodes: Flat, share: float) -> None:
    with pytest.raises(ConfigError) as caught:
        parse({**PRIVATE, **needs_nodes, "strategy.fraction-evaluate": share})
    assert "above 0" not in str(caught.value)


@pytest.mark.parametrize("head", ["personal", "frozen"])
def test_the_head_method_cannot_keep_what_it_sends(head: str) -> None:
    given = {"method.name": "head", "method.head": head, "evaluate.server": False}
    with pytest.raises(ConfigError, match="sends the head and nothing else") as caught:
        parse({**given, "strategy.fraction-evaluate": 1.0})
    assert [fault.key for fault in caught.value.faults] == ["method.head"]


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
