"""Visual prompts: where they enter, what replaces them, and that they leave again."""

import copy
import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from fedpeft_app.portable.visual_prompts import VisualPrompts, attach

IMAGES = torch.arange(2 * 4 * 1).view(2, 4, 1).float()  # a class token and three patches


class Block(nn.Module):
    """Remembers what it saw, and changes nothing."""

    def __init__(self, *, pair: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.pair = pair
        self.seen: list[list[float]] = []

    def forward(self, hidden: torch.Tensor, mask: Any = None) -> Any:
        self.seen = hidden[..., 0].tolist()
        assert mask == "mask"
        return (hidden + self.bias, "more") if self.pair else hidden + self.bias


class Model(nn.Module):
    def __init__(self, depth: int = 3, *, pair: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(pair=pair) for _ in range(depth))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            output = block(hidden, "mask")
            hidden = output[0] if isinstance(output, tuple) else output
        return hidden


def prompted(*, deep: bool, **model: Any) -> Model:
    found = Model(**model)
    names = [f"blocks.{number}" for number in range(len(found.blocks))]
    attach(found, blocks=names, length=2, size=1, patch=16, deep=deep)
    with torch.no_grad():
        for number, parameter in enumerate(prompts(found)):
            parameter.copy_(torch.tensor([[100.0 + number], [200.0 + number]]))
    return found


def prompts(model: nn.Module) -> list[nn.Parameter]:
    return [value for name, value in model.named_parameters() if "visual_prompts" in name]


def test_deep_prompts_are_every_blocks_own() -> None:
    model = prompted(deep=True)
    model(IMAGES)
    for number, block in enumerate(model.blocks):
        own = [100.0 + number, 200.0 + number]
        assert block.seen == [[0.0, *own, 1.0, 2.0, 3.0], [4.0, *own, 5.0, 6.0, 7.0]]


def test_shallow_prompts_are_the_first_blocks_and_pass_through() -> None:
    model = prompted(deep=False)
    model(IMAGES)
    assert len(prompts(model)) == 1
    for block in model.blocks:
        assert block.seen[0] == [0.0, 100.0, 200.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("kind", ["deep", "shallow"])
@pytest.mark.parametrize("model", [{"depth": 1}, {"depth": 3}, {"depth": 3, "pair": True}])
def test_what_follows_the_blocks_sees_no_prompts(kind: str, model: dict[str, Any]) -> None:
    assert torch.equal(prompted(deep=kind == "deep", **model)(IMAGES), IMAGES)


def test_prompts_start_as_the_paper_says() -> None:
    torch.manual_seed(0)
    tokens = VisualPrompts(100, 768, 16 * 16, torch.device("cpu")).tokens
    bound = math.sqrt(6 / (3 * 256 + 768))  # 0.0625
    assert bound == 0.0625
    assert tokens.abs().max() <= bound
    assert tokens.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_copies_and_functional_calls_see_their_own_prompts() -> None:
    model = prompted(deep=True)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        prompts(twin)[1].zero_()
    twin(IMAGES)
    assert twin.blocks[1].seen[0] == [0.0, 0.0, 0.0, 1.0, 2.0, 3.0]
    given = {"blocks.1.visual_prompts.tokens": torch.tensor([[7.0], [8.0]])}
    torch.func.functional_call(model, given, (IMAGES,))
    assert model.blocks[1].seen[0] == [0.0, 7.0, 8.0, 1.0, 2.0, 3.0]
    model(IMAGES)
    assert model.blocks[1].seen[0] == [0.0, 101.0, 201.0, 1.0, 2.0, 3.0]


def test_a_layout_survives_json_and_tensors_load_by_name() -> None:
    layout = {"blocks": ["blocks.0"], "length": 2, "size": 1, "patch": 4, "deep": True}
    first, second = Model(1), Model(1)
    attach(first, **layout)
    attach(second, **json.loads(json.dumps(layout)))
    second.load_state_dict(first.state_dict(), strict=True)
    for model in (first, second):
        model(IMAGES)
    assert second.blocks[0].seen == first.blocks[0].seen


def test_half_precision_passes_through_float32_prompts() -> None:
    model = Model().bfloat16()
    attach(model, blocks=["blocks.0"], length=2, size=1, patch=16, deep=False)
    assert prompts(model)[0].dtype == torch.float32
    assert model.blocks[0](IMAGES.bfloat16(), "mask").dtype == torch.bfloat16
