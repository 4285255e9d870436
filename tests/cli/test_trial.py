"""What a method is tried as, without weights, is what then travels."""

from pathlib import Path

import pytest
from conftest import LABELS

from fedpeft_app.assembly import adapted_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.cli.trial import tried_spec
from fedpeft_app.config import parse


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
