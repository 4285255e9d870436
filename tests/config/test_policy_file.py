"""A policy file: every fault at once, contradictions too, and never taken for an empty one."""

import tomllib
from pathlib import Path

import pytest

from fedpeft_app.config.policy import Policy, parse_policy, policy_template, read_policy
from fedpeft_app.errors import ConfigError, PolicyError

WHERE = "the policy"


def faults(text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text, WHERE)
    return {fault.key: fault.problem for fault in caught.value.faults}


def uncommented(template: str) -> str:
    """Take the '#' from every line that holds a key."""
    lines = (line.removeprefix("# ") for line in template.splitlines())
    return "\n".join(line for line in lines if " = " in line and line[0].islower())


def test_an_empty_policy_allows_all_but_code_of_a_runs_own() -> None:
    assert parse_policy("", WHERE) == Policy()
    assert Policy().own_code is False
    assert {name for name, value in Policy() if value is not None} == {"evaluation", "own_code"}


def test_every_key_of_the_template_can_be_taken_as_it_stands() -> None:
    template = policy_template("0123456789abcdef")
    assert parse_policy(template, WHERE) == Policy()
    taken = tomllib.loads(uncommented(template))
    assert set(taken) == {field.alias for field in Policy.model_fields.values()}
    policy = parse_policy(uncommented(template), WHERE)
    assert policy.code == ("0123456789abcdef",)
    assert policy.max_delta == 1e-5


def test_all_faults_are_told_at_once_with_near_misses() -> None:
    found = faults(
        'modls = ["x"]\nmax_rounds = 3\nprivacy = ["sampel"]\nevaluation = 1\nrounds = 2'
    )
    assert found["modls"] == "unknown key. Did you mean 'models'?"
    assert found["max_rounds"] == "unknown key. Did you mean 'max-rounds'?"
    assert found["rounds"].startswith("unknown key.")
    assert "Did you mean 'sample'?" in found["privacy (entry 1)"]
    assert found["evaluation"].startswith("must be a valid boolean")
    assert len(found) == 5


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('models = "gpt2"', "models"),  # a text is no list of its letters
        ("models = [1]", "models (entry 1)"),
        ("max-rounds = 0", "max-rounds"),
        ("max-rounds = 2.5", "max-rounds"),
        ("max-delta = 1", "max-delta"),
        ("max-epsilon = inf\nmax-delta = 1e-5", "max-epsilon"),
        ("max-total-epsilon = nan\nmax-delta = 1e-5", "max-total-epsilon"),
        ("max-epsilon = 0\nmax-delta = 1e-5", "max-epsilon"),
        ("max-epsilon = true\nmax-delta = 1e-5", "max-epsilon"),
        ('code = ["abc"]', "code (entry 1)"),  # so short a prefix is found by trying
        ('code = ["0123456789AB"]', "code (entry 1)"),
        ('model-fingerprints = ["0123"]', "model-fingerprints (entry 1)"),
        ("[privacy]\nmode = 'sample'", "privacy"),
    ],
)
def test_a_wrong_value_is_named(text: str, key: str) -> None:
    assert list(faults(text)) == [key]


@pytest.mark.parametrize("key", ["max-epsilon", "max-total-epsilon"])
def test_a_limit_on_epsilon_needs_one_on_delta(key: str) -> None:
    assert "set max-delta too" in faults(f"{key} = 3.0")[key]
    assert parse_policy(f"{key} = 3\nmax-delta = 1e-5", WHERE).counted


@pytest.mark.parametrize("mode", ["none", "user"])
def test_a_limit_on_epsilon_excludes_what_the_node_does_not_count(mode: str) -> None:
    text = f'max-epsilon = 3.0\nmax-delta = 1e-5\nprivacy = ["sample", "{mode}"]'
    assert "does not count" in faults(text)["max-epsilon"]


def test_what_cannot_be_read_is_not_taken_for_empty(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    with pytest.raises(PolicyError, match=r"policy\.toml, but cannot read it: No such file"):
        read_policy(path)
    path.mkdir()
    with pytest.raises(PolicyError, match="Is a directory"):
        read_policy(path)
    path.rmdir()
    path.write_bytes(b"max-rounds = 3 # \xff")
    with pytest.raises(PolicyError, match="no UTF-8"):
        read_policy(path)
    path.write_text("max-rounds: 3", encoding="utf-8")
    with pytest.raises(PolicyError, match=r"Expected TOML in the policy .*policy\.toml"):
        read_policy(path)
    path.write_text("max-rounds = 3", encoding="utf-8")
    assert read_policy(path).max_rounds == 3
