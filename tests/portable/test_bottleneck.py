"""Bottleneck adapters by hand, in each of their forms."""

import copy
import json

import pytest
import torch
from torch import nn

from fedpeft_app.portable.bottleneck import Bottleneck, attach


class Sum(nn.Module):
    """Adds its inputs, as the last module of BERT's MLP does."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(10.0))

    def forward(self, hidden: torch.Tensor, summand: torch.Tensor) -> torch.Tensor:
        return self.gain * hidden + summand


class Pair(nn.Module):
    """Gives its output with something beside it, as attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, str]:
        return self.gain * hidden, "weights"


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair, self.sum = Pair(), Sum()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.sum(self.pair(hidden)[0], hidden)


HIDDEN = torch.tensor([[1.0, -1.0]])


def constant(adapter: Bottleneck, *change: float) -> None:
    """Make an adapter answer the same to everything."""
    with torch.no_grad():
        adapter.up.bias.copy_(torch.tensor(change))


def attached(name: str, form: str) -> Model:
    model = Model()
    attach(model, places={name: [2, 3]}, form=form)
    return model


def test_a_bottleneck_is_two_layers_around_a_gelu() -> None:
    adapter = Bottleneck(2, 1, torch.device("cpu"))
    with torch.no_grad():
        adapter.down.weight.copy_(torch.tensor([[1.0, 2.0]]))
        adapter.down.bias.copy_(torch.tensor([-2.0]))
        adapter.up.weight.copy_(torch.tensor([[1.0], [-3.0]]))
        adapter.up.bias.copy_(torch.tensor([0.5, 0.0]))
    # 1·1 + 2·1 − 2 = 1, and GELU(1) = Φ(1) = 0.8413447
    expected = torch.tensor([0.8413447 + 0.5, -3 * 0.8413447])
    assert torch.allclose(adapter(torch.ones(2)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "form"), [("pair", "behind"), ("pair", "beside"), ("sum", "before-sum")]
)
def test_a_fresh_adapter_changes_no_bit(name: str, form: str) -> None:
    assert torch.equal(attached(name, form)(HIDDEN), Model()(HIDDEN))


@pytest.mark.parametrize(
    ("name", "form", "expected"),
    [
        ("pair", "behind", [31.0, -11.0]),  # 10 · (2·[1, −1] + [1, 1]) + [1, −1]
        ("pair", "beside", [31.0, -11.0]),
        ("sum", "before-sum", [22.0, -20.0]),  # 10 · 2·[1, −1] + ([1, −1] + [1, 1])
        ("sum", "behind", [22.0, -20.0]),
    ],
)
def test_an_adapter_is_added_where_its_form_says(
    name: str, form: str, expected: list[float]
) -> None:
    model = attached(name, form)
    constant(model.get_submodule(name).bottleneck, 1.0, 1.0)
    assert model(HIDDEN).tolist() == [expected]


@pytest.mark.parametrize(
    ("name", "form", "seen"),
    [
        ("pair", "behind", [2.0, -2.0]),  # its module's output
        ("pair", "beside", [1.0, -1.0]),  # its module's input
        ("sum", "before-sum", [1.0, -1.0]),  # what its module adds
    ],
)
def test_an_adapter_sees_what_its_form_says(name: str, form: str, seen: list[float]) -> None:
    model = attached(name, form)
    inputs: list[list[float]] = []
    adapter = model.get_submodule(name).bottleneck
    adapter.register_forward_pre_hook(lambda module, given: inputs.append(given[0][0].tolist()))
    model(HIDDEN)
    assert inputs == [seen]


def test_what_stands_beside_the_output_passes_through() -> None:
    model = attached("pair", "behind")
    assert model.pair(HIDDEN)[1] == "weights"


def test_frozen_names_stay_what_they_were() -> None:
    names = [name for name, _ in attached("pair", "behind").named_parameters()]
    adapter = [f"pair.bottleneck.{part}" for part in PARTS]
    assert names == ["pair.gain", *adapter, "sum.gain"]


PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")


def shared() -> Model:
    model = Model()
    attach(model, places={"pair": [2, 3], "sum": [2, 3]}, form="behind", shared=True)
    return model


def test_a_shared_adapter_is_one() -> None:
    model = shared()
    assert model.pair.bottleneck is model.sum.bottleneck
    names = [name for name in model.state_dict() if "bottleneck" in name]
    assert names == [f"pair.bottleneck.{part}" for part in PARTS]
    constant(model.pair.bottleneck, 1.0, 1.0)
    # 10 · (2·[1, −1] + [1, 1]) + [1, −1] + [1, 1]
    assert model(HIDDEN).tolist() == [[32.0, -10.0]]


def test_a_copy_has_adapters_of_its_own() -> None:
    model = shared()
    twin = copy.deepcopy(model)
    constant(twin.pair.bottleneck, 1.0, 1.0)
    assert twin.pair.bottleneck is twin.sum.bottleneck
    assert twin(HIDDEN).tolist() == [[32.0, -10.0]]
    assert model(HIDDEN).tolist() == [[21.0, -21.0]]


def test_a_functional_call_sees_the_parameters_it_is_given() -> None:
    model = shared()
    given = {"pair.bottleneck.up.bias": torch.tensor([1.0, 1.0])}
    assert torch.func.functional_call(model, given, (HIDDEN,)).tolist() == [[32.0, -10.0]]
    assert model(HIDDEN).tolist() == [[21.0, -21.0]]


def test_a_layout_survives_json_and_tensors_load_by_name() -> None:
    layout = {"places": {"pair": [2, 3], "sum": [2, 1]}, "form": "behind", "shared": False}
    first, second = Model(), Model()
    attach(first, **layout)
    attach(second, **json.loads(json.dumps(layout)))
    for parameter in first.parameters():
        nn.init.normal_(parameter)
    assert not second.load_state_dict(first.state_dict(), strict=True).missing_keys
    assert torch.equal(second(HIDDEN), first(HIDDEN))


def test_half_precision_passes_through_a_float32_adapter() -> None:
    model = Model().bfloat16()
    attach(model, places={"pair": [2, 3]}, form="behind")
    assert model.pair.bottleneck.up.weight.dtype == torch.float32
    assert model(HIDDEN.bfloat16()).dtype == torch.bfloat16


def test_an_adapter_lies_where_its_module_does() -> None:
    with torch.device("meta"):
        model = Model()
    attach(model, places={"pair": [2, 3]}, form="behind")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
