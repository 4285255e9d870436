"""`peft:NAME`: what is taken, with which settings, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from zoo import make, save

from fedpeft_app.errors import BackboneError, UnknownNameError
from fedpeft_app.methods.any_peft import _require_round_trip, _require_same
from fedpeft_app.methods.catalogue import check_method, find_method


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("bert", tmp_path_factory.mktemp("bert"))


def test_names_are_checked_lightly_and_found_for_sure() -> None:
    assert check_method("peft:LOHA") == "peft:LOHA"
    assert find_method("peft:LOHA").name == "peft:LOHA"
    assert check_method("peft:loha") == "peft:loha"
    assert find_method("peft:loha").name == "peft:LOHA"
    assert check_method("peft:NO_SUCH") == "peft:NO_SUCH"
    with pytest.raises(UnknownNameError, match=r"unknown method 'peft:LOHO'\. .* LOHA, .*'LOHA'\?"):
        find_method("peft:LOHO")
    with pytest.raises(UnknownNameError, match="unknown method 'peft-loha'"):
        check_method("peft-loha")


@pytest.mark.parametrize(
    ("theirs", "ours"), [("LORA", "lora"), ("lora", "lora"), ("P_TUNING", "p-tuning")]
)
def test_what_is_built_in_has_its_own_name(theirs: str, ours: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Use '{ours}'"):
        find_method(f"peft:{theirs}")


def test_rank_and_alpha_are_used_where_the_method_has_them(bert: Path) -> None:
    loha = make(bert, "peft:LOHA", rank=3, alpha=5.0).model.peft_config["default"]
    assert (loha.r, loha.alpha) == (3, 5.0)
    oft = make(bert, "peft:OFT", options={"oft_block_size": 8}).model.peft_config["default"]
    assert (oft.r, oft.oft_block_size) == (0, 8)


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("peft:LOHA", {"dropout": 0.1}, r"method\.dropout = 0\.1 means nothing"),
        ("peft:LOHA", {"options": {"no_such": 1}}, "no_such"),
        ("peft:LOHA", {"options": {"layers_to_transform": [0]}}, "by method.targets and method"),
        ("peft:POLY", {}, "told a task with every batch"),
        ("peft:FROD", {}, "sets out from the weights' values"),
        ("peft:XLORA", {}, "takes no"),
        ("peft:CPT", {}, "takes no target_modules"),
        ("peft:TRAINABLE_TOKENS", {}, "takes no modules_to_save"),
        ("peft:TINYLORA", {}, "does not round-trip"),
        ("peft:RANDLORA", {}, "does not round-trip"),
        ("peft:SHIRA", {}, "does not round-trip"),
    ],
)
def test_what_does_not_federate_is_refused(
    bert: Path, name: str, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BackboneError, match=reason):
        make(bert, name, **settings)


def test_a_rewritten_base_is_noticed(bert: Path) -> None:
    wrapped = make(bert, "peft:LOHA").model
    query = "bert.encoder.layer.0.attention.self.query"
    weight = wrapped.get_base_model().get_submodule(query).base_layer.weight
    before = {f"{query}.weight": weight.detach().clone()}
    _require_same("peft:X", wrapped, before)
    weight.data[0, 0] += 1
    with pytest.raises(BackboneError, match=f"rewrites the frozen '{query}.weight'"):
        _require_same("peft:X", wrapped, before)
    with pytest.raises(BackboneError, match="rewrites the frozen 'gone.weight'"):
        _require_same("peft:X", wrapped, {"gone.weight": torch.zeros(1)})


def test_a_tensor_that_trains_and_is_not_saved_is_noticed(bert: Path) -> None:
    wrapped = make(bert, "peft:LOHA").model
    _require_round_trip("peft:X", wrapped)
    wrapped.get_parameter("base_model.model.bert.pooler.dense.bias").requires_grad_(True)
    with pytest.raises(BackboneError, match=r"saves no '.*pooler\.dense\.bias' as it is trained"):
        _require_round_trip("peft:X", wrapped)
