"""`fedpeft policy`: a template that is a policy, and a verdict that is a node's."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedpeft_app.admission import require_allowed
from fedpeft_app.backbone.locate import locate
from fedpeft_app.cli.main import app
from fedpeft_app.cli.settings import read_settings
from fedpeft_app.config.policy import Policy, read_policy
from fedpeft_app.errors import ConfigError, PolicyError


def fedpeft(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["policy", *arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policy.toml"


def test_what_is_printed_is_a_policy(file: Path) -> None:
    status, printed = fedpeft()
    file.write_text(printed, encoding="utf-8")
    assert status == 0
    assert read_policy(file) == Policy()
    assert fedpeft(str(file))[0] == 0


@pytest.mark.parametrize("settings", [["rounds=3"], ["rounds=4", "method.name=bias"]])
def test_the_verdict_is_that_of_a_node(file: Path, settings: list[str]) -> None:
    file.write_text('max-rounds = 3\nmethods = ["lora"]', encoding="utf-8")
    status, printed = fedpeft(str(file), *settings)
    if len(settings) == 1:
        require_allowed(read_settings(None, settings), {"policy": str(file)})
        assert (status, printed.split()) == (0, ["allowed", "by", str(file)])
        return
    with pytest.raises(PolicyError):
        require_allowed(read_settings(None, settings), {"policy": str(file)})
    assert status == 1
    assert [line.strip() for line in printed.splitlines()][-2:] == [
        "method.name = 'bias' (methods: 'lora')",
        "rounds = 4 (max-rounds = 3)",
    ]


def test_a_recipe_is_judged_too(file: Path, tmp_path: Path) -> None:
    file.write_text("max-rounds = 3", encoding="utf-8")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("rounds = 9", encoding="utf-8")
    assert fedpeft(str(file), "--recipe", str(recipe))[0] == 1
    assert fedpeft(str(file), "--recipe", str(recipe), "rounds=2")[0] == 0


def test_weights_are_looked_at_where_they_are_asked_for(
    file: Path, tiny_settings: dict[str, Any]
) -> None:
    model = tiny_settings["model.name"]
    file.write_text(f'model-fingerprints = ["{locate(model).fingerprint}"]', encoding="utf-8")
    assert fedpeft(str(file), f"model.name={model}")[0] == 0
    file.write_text(f'model-fingerprints = ["{"0" * 16}"]', encoding="utf-8")
    status, printed = fedpeft(str(file), f"model.name={model}")
    assert status == 1
    assert locate(model).fingerprint in printed


def test_a_wrong_policy_is_an_error(file: Path) -> None:
    with pytest.raises(PolicyError, match="cannot read it"):
        fedpeft(str(file))
    file.write_text("max-rouds = 3", encoding="utf-8")
    with pytest.raises(ConfigError, match="Did you mean 'max-rounds'"):
        fedpeft(str(file))
