"""What the processes of a run are told by their environment."""

import os
from typing import Any

import pytest

from fedpeft_app.cli.launch import _environment
from fedpeft_app.config import parse


@pytest.mark.parametrize(
    "named",
    [
        {"strategy.name": "my_rules:Rule"},
        {"strategy.cohort": "my_rules:first"},
        {"method.name": "my_rules.methods:Method"},
        {"strategy.options": '{"folded_by": {"name": "norm-bounded", "then": "my_rules:Fold"}}'},
    ],
)
def test_a_path_is_looked_for_in_the_working_folder_too(
    named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    paths = _environment(parse(named))["PYTHONPATH"].split(os.pathsep)
    assert paths == [os.getcwd(), "/elsewhere"]


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"strategy.name": "fedadam", "strategy.options": '{"lr": 0.1, "folded_by": "median"}'},
        {"model.name": "scratch:vit"},
    ],
)
def test_modules_of_the_working_folder_are_not_found_by_chance(
    named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert "PYTHONPATH" not in _environment(parse(named))
