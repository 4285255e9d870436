"""What a method is tried as, without weights, is what then travels."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS

from fedpeft_app.assembly import adapted_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.cli import fits, trial
from fedpeft_app.cli.trial import is_known_to_fit, tried_spec, try_method
from fedpeft_app.config import parse
from fedpeft_app.errors import FedPeftError


@pytest.mark.parametrize("head", ["train", "frozen"])
@pytest.mark.parametrize("method", ["lora", "lora-fa", "lora-sa", "lora-residual", "bias"])
def test_a_trial_finds_the_tensors_that_travel(tiny_model: Path, method: str, head: str) -> None:
    judged = {"evaluate.server": False, "strategy.fraction-evaluate": 1.0}  # for lora-sa
    settings = {"model.name": str(tiny_model), "method.name": method, "method.head": head}
    config = parse({**settings, **judged})
    tried, found = (
        [(tensor.name, tensor.shape, tensor.frozen) for tensor in spec.tensors]
        for spec in (
            tried_spec(config, locate(str(tiny_model))),
            adapted_model(config, LABELS[:2]).spec,
        )
    )
    assert tried == found


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch, own_home: Path) -> list[str]:
    """Names of the methods that were put on an empty model, in a home where none was yet."""
    put = trial._adapted_empty
    names: list[str] = []

    def noted(config: Any, *rest: Any, **more: Any) -> Any:
        names.append(config.method.name)
        return put(config, *rest, **more)

    monkeypatch.setattr(trial, "_adapted_empty", noted)
    return names


def test_what_was_found_to_fit_is_not_tried_again(tiny_model: Path, trials: list[str]) -> None:
    settings = {"model.name": str(tiny_model), "method.name": "bias", "model.pooling": "mean"}
    located = locate(str(tiny_model))
    for changes in ({}, {"seed": 1, "train.learning-rate": 0.5}, {"strategy.name": "median"}):
        try_method(parse({**settings, **changes}), located)
    assert trials == ["bias"]
    model = json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))
    assert is_known_to_fit(parse(settings), model)
    assert not is_known_to_fit(parse(settings), {**model, "hidden_size": 64})
    try_method(parse({**settings, "method.layers": "last:1"}), located)
    assert trials == ["bias", "bias"]


def test_what_does_not_fit_is_refused_every_time(tiny_model: Path, trials: list[str]) -> None:
    config = parse({"model.name": str(tiny_model), "method.layers": "last:9"})
    for _ in range(2):
        with pytest.raises(FedPeftError, match="last:9"):
            try_method(config, locate(str(tiny_model)))
    assert len(trials) == 2


def test_other_code_tries_anew(
    tiny_model: Path, trials: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse({"model.name": str(tiny_model), "method.name": "ln"})
    try_method(config, locate(str(tiny_model)))
    monkeypatch.setattr(fits, "versions", lambda: {"peft": "0.0"})
    try_method(config, locate(str(tiny_model)))
    assert trials == ["ln", "ln"]


def test_of_a_users_own_code_nothing_is_kept(tiny_model: Path, own_home: Path) -> None:
    config = parse({"model.name": str(tiny_model)})
    own = config.model_copy(
        update={"method": config.method.model_copy(update={"name": "my_methods:Mine"})}
    )
    fits.remember_fit(own, {})
    assert not fits.fitted_before(own, {})
