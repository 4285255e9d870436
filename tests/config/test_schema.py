"""What each key may be: types strictly, ranges at their edges, options as JSON."""

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedpeft_app.config import RunConfig, defaults, flatten, parse
from fedpeft_app.config.flat import fields
from fedpeft_app.config.readings import options
from fedpeft_app.errors import ConfigError

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
OF_TYPE = {
    kind: [key for key, value in defaults().items() if type(value) is kind]
    for kind in (str, int, float, bool)
}
OPTIONS = ["method.options", "task.options", "strategy.options"]


def flat_toml(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join nested tables with dots, as Flower does."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= flat_toml(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def accepts(key: str, value: object) -> bool:
    """Say whether one key may have a value, all others at their defaults."""
    try:
        parse({key: value})
    except ConfigError as error:
        # a sound value may still clash with another key's default
        return key not in {fault.key for fault in error.faults}
    return True


def test_pyproject_states_the_defaults_of_the_schema() -> None:
    table = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    typed = {key: (type(value), value) for key, value in defaults().items()}
    stated = {key: (type(value), value) for key, value in flat_toml(table).items()}
    assert stated == typed


@pytest.mark.parametrize("key", fields())
def test_every_key_says_what_it_means(key: str) -> None:
    assert fields()[key].description


def test_every_default_is_a_flower_scalar() -> None:
    assert {type(value) for value in defaults().values()} == {str, int, float, bool}


def test_keys_are_kebab_case() -> None:
    assert not [key for key in fields() if "_" in key or key != key.lower()]


@pytest.mark.parametrize("key", OF_TYPE[int])
@pytest.mark.parametrize("value", [True, 1.0, "1", math.nan])
def test_only_an_int_is_an_int(key: str, value: object) -> None:
    assert not accepts(key, value)


@pytest.mark.parametrize("key", OF_TYPE[bool])
@pytest.mark.parametrize("value", [0, 1, 1.0, "true"])
def test_only_a_bool_is_a_bool(key: str, value: object) -> None:
    assert not accepts(key, value)


@pytest.mark.parametrize("key", OF_TYPE[str])
@pytest.mark.parametrize("value", [0, 1.0, True])
def test_only_text_is_text(key: str, value: object) -> None:
    assert not accepts(key, value)


@pytest.mark.parametrize("key", OF_TYPE[float])
@pytest.mark.parametrize("value", [True, False, "0.5", math.nan, math.inf, -math.inf])
def test_only_a_finite_number_is_a_float(key: str, value: object) -> None:
    assert not accepts(key, value)


@pytest.mark.parametrize("key", OF_TYPE[float])
@pytest.mark.parametrize("value", [-2, -1, 0, 1, 2])
def test_an_int_stands_for_the_same_float(key: str, value: int) -> None:
    assert accepts(key, value) == accepts(key, float(value))


def test_an_int_given_for_a_float_becomes_one() -> None:
    assert type(flatten(parse({"train.learning-rate": 1}))["train.learning-rate"]) is float


EDGES = [  # key, smallest or largest value allowed, first value beyond
    ("rounds", 1, 0),
    ("seed", 0, -1),
    ("seed", 2**63 - 1, 2**63),
    ("model.name", "x", ""),
    ("model.dropout", -1.0, -1.5),
    ("model.dropout", 0.0, -0.5),  # neither a probability nor "the checkpoint's own"
    ("model.dropout", 0.99, 1.0),
    ("method.rank", 1, 0),
    ("method.alpha", 5e-324, 0.0),
    ("method.dropout", 0.0, -0.1),
    ("method.dropout", 0.99, 1.0),
    ("method.width", 0, -1),
    ("method.prompt-length", 1, 0),
    ("method.targets", "x", ""),
    ("evaluate.personal-steps", 0, -1),
    ("data.max-length", 4, 3),
    ("data.max-examples", 0, -1),
    ("data.partitioner", "x", ""),
    ("data.validation-fraction", 0.0, -0.1),
    ("data.validation-fraction", 0.99, 1.0),
    ("data.test-fraction", 0.0, -0.01),
    ("data.test-fraction", 0.99, 1.0),
    ("train.local-epochs", 1, 0),
    ("train.max-steps", 0, -1),
    ("train.learning-rate", 0.0, -1e-9),
    ("evaluate.every", 0, -1),
    ("strategy.fraction-train", 1.0, 1.01),
    ("strategy.fraction-train", 0.01, 0.0),
    ("strategy.fraction-evaluate", 1.0, 1.01),
    ("strategy.fraction-evaluate", 0.0, -0.01),
    ("strategy.round-timeout", 0.1, 0.0),
    ("strategy.cohort", "x", ""),
    ("strategy.dropout", 0.0, -0.01),
    ("strategy.dropout", 0.99, 1.0),
    ("strategy.over-selection", 1.0, 0.99),
    ("wire.uplink", "x", ""),
    ("wire.downlink", "x", ""),
    ("budget.uplink-mib", 0.0, -0.1),
    ("output.name", "a" * 64, "a" * 65),
    ("output.name", "1.b_c-d", ".b"),
    ("output.name", "a", "a/b"),
    ("output.name", "a", "a\n"),
    ("output.name", "a", ".."),
]


@pytest.mark.parametrize(("key", "inside", "outside"), EDGES)
def test_ranges_end_where_they_say(key: str, inside: object, outside: object) -> None:
    assert accepts(key, inside)
    assert not accepts(key, outside)


@pytest.mark.parametrize(
    "choice", ["all", "first:1", "last:12", "0", "3,5", "0-3", "0-3,5,7-11", "10-12"]
)
def test_layers_are_chosen_by_words_or_numbers(choice: str) -> None:
    assert accepts("method.layers", choice)


@pytest.mark.parametrize(
    "choice",
    ["", "none", "last", "last:0", "first:-1", "middle:2", "-1", "0-", "1,", "1, 2", "a-b", "0:3"],
)
def test_layers_are_chosen_by_nothing_else(choice: str) -> None:
    with pytest.raises(ConfigError, match="must be 'all', 'first:K', 'last:K', or numbers and ran"):
        parse({"method.layers": choice})


CHOICES = {
    "model.pooling": ["model", "mean", "cls"],
    "model.quantization": ["none", "int8", "nf4"],
    "method.head": ["train", "frozen", "personal"],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key in CHOICES for value in CHOICES[key]]
)
def test_choices_are_taken_as_written(key: str, value: str) -> None:
    assert accepts(key, value)
    with pytest.raises(ConfigError, match=f"Did you mean '{value}'"):
        parse({key: f"{value}s"})


@pytest.mark.parametrize("key", OPTIONS)
@pytest.mark.parametrize("text", ["{}", '{"eta": 0.1}', ' {"a": {"b": [null, true]}} '])
def test_options_are_json_objects(key: str, text: str) -> None:
    assert accepts(key, text)


@pytest.mark.parametrize("key", OPTIONS)
@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "3", "'{}'", "{eta: 0.1}", '{"a": NaN}', '{"a": -Infinity}', "[" * 10**5],
    ids=lambda text: text[:12],
)
def test_options_are_nothing_else(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match="must be a JSON object such as"):
        parse({key: text})


def test_options_come_back_as_arguments() -> None:
    wanted = {"eta": 0.1, "names": ["a", "b"], "deep": {"on": True, "off": None}}
    assert options(parse({"strategy.options": json.dumps(wanted)}).strategy.options) == wanted


def test_a_configuration_cannot_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().train.batch_size = 1
