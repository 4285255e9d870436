"""Biases, norms, (IA)³, VeRA, prompts: what is particular to each."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_targets import build, model_of
from zoo import ZOO, batch, make, save

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.catalogue import METHODS, find_method
from fedpeft_app.methods.method import MethodSettings, as_saved
from fedpeft_app.methods.soft_prompts import as_soft_prompt, without_projection


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(name, tmp_path_factory.mktemp(name)) for name in ZOO}


def body(folder: Path, name: str, **settings: object) -> list[str]:
    return [tensor.name for tensor in make(folder, name, **settings).tensors if not tensor.head]


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("full", {"layers": "last:1"}),
        ("full", {"targets": "mlp"}),
        ("head", {"options": {"r": 1}}),
        ("bias", {"targets": "attention"}),
        ("bias", {"dropout": 0.1}),
        ("ln", {"targets": "mlp"}),
        ("ia3", {"dropout": 0.1}),
        ("bottleneck", {"targets": "mlp"}),
        ("bottleneck-shared", {"options": {"width": 3}}),
        ("prompt", {"layers": "0"}),
        ("prefix", {"targets": "all-linear"}),
        ("p-tuning", {"dropout": 0.1}),
    ],
)
def test_a_setting_that_would_be_passed_over_is_refused(
    zoo: dict[str, Path], name: str, setting: dict[str, object]
) -> None:
    (key, _), *_ = setting.items()
    with pytest.raises(BackboneError, match=rf"method\.{key} = .* means nothing to method\.name"):
        make(zoo["bert"], name, **setting)


@pytest.mark.parametrize("name", ["lora", "vera", "ia3", "ln", "prompt", "prefix", "p-tuning"])
def test_an_option_that_peft_does_not_know_is_refused_in_its_words(
    zoo: dict[str, Path], name: str
) -> None:
    with pytest.raises(BackboneError, match="unexpected keyword argument 'no_such_argument'"):
        make(zoo["bert"], name, options={"no_such_argument": 1})


# ------------------------------------------------------------------ biases and norms


def test_biases_are_all_that_is_called_so(zoo: dict[str, Path]) -> None:
    names = [name for name, _ in make(zoo["bert"], "head").model.named_parameters()]
    expected = [name for name in names if "bias" in name and "classifier" not in name]
    assert body(zoo["bert"], "bias") == expected
    assert len(expected) == 1 + 2 * 8 + 1  # embeddings' norm, eight in each layer, pooler


def test_biases_and_norms_of_some_layers_leave_out_what_lies_outside_blocks(
    zoo: dict[str, Path],
) -> None:
    for name, count in (("bias", 8), ("ln", 2 * 2)):
        found = body(zoo["bert"], name, layers="last:1")
        assert len(found) == count
        assert all("encoder.layer.1." in tensor for tensor in found)


def test_norms_are_found_by_type(zoo: dict[str, Path]) -> None:
    assert len(body(zoo["bert"], "ln")) == 2 * (1 + 2 * 2)  # gain and shift each
    model = build("qwen3")  # RMSNorm, also of queries and keys
    made = find_method("ln").adapt(model, model_of("qwen3")[1], MethodSettings()).model
    trained = [n for n, p in made.named_parameters() if p.requires_grad and "ln_tuning" in n]
    assert len(trained) == 2 * 4 + 1


# ------------------------------------------------------------------ factors


def test_ia3_rescales_keys_values_and_the_input_of_the_last_layer(zoo: dict[str, Path]) -> None:
    adapted = make(zoo["bert"], "ia3")
    shapes = {t.name.split(".layer.")[1].split(".ia3")[0]: t.shape for t in adapted.tensors[:6]}
    expected = {}
    for layer in (0, 1):
        expected[f"{layer}.attention.self.key"] = (16, 1)
        expected[f"{layer}.attention.self.value"] = (16, 1)
        expected[f"{layer}.output.dense"] = (1, 24)  # its input: the MLP's inner activations
    assert shapes == expected


def test_ia3_of_named_layers_knows_which_end_an_mlp(zoo: dict[str, Path]) -> None:
    model = make(zoo["gpt2"], "ia3", targets="c_proj").model
    layers = {n: m.is_feedforward for n, m in model.named_modules() if hasattr(m, "is_feedforward")}
    assert {name.split(".h.")[1]: value for name, value in layers.items()} == {
        "0.attn.c_proj": False,
        "0.mlp.c_proj": True,
        "1.attn.c_proj": False,
        "1.mlp.c_proj": True,
    }


def test_vera_draws_the_same_projections_whatever_the_seed(zoo: dict[str, Path]) -> None:
    one, other = (make(zoo["bert"], "vera", seed=seed) for seed in (0, 1))
    assert one.frozen == other.frozen != ""
    assert one.model.base_model.vera_A["default"].shape == (256, 16)
    assert make(zoo["bert"], "vera", options={"r": 4}).frozen != one.frozen


# ------------------------------------------------------------------ bottlenecks


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("bottleneck", 0, 2),  # 32 / 16
        ("bottleneck-shared", 0, 4),  # 32 / 8
        ("bottleneck", 5, 5),
        ("bottleneck-shared", 5, 5),
    ],
)
def test_the_width_is_a_share_of_the_hidden_size(name: str, width: int, expected: int) -> None:
    model = build("bert", hidden_size=32)
    layout = find_method(name).adapt(model, frozenset(), MethodSettings(width=width)).layout
    assert list(layout["places"].values()) == [[32, expected]] * 2


def test_adapters_are_put_into_chosen_layers(zoo: dict[str, Path]) -> None:
    found = body(zoo["bert"], "bottleneck", layers="1")
    assert found == [
        f"bert.encoder.layer.1.output.dense.bottleneck.{part}"
        for part in ("down.weight", "down.bias", "up.weight", "up.bias")
    ]


# ------------------------------------------------------------------ prompts


def test_soft_prompts_start_as_embeddings_of_tokens(zoo: dict[str, Path]) -> None:
    adapted = make(zoo["bert"], "prompt", prompt_length=3)
    table = adapted.backbone.model.get_input_embeddings().weight
    start = torch.as_tensor(adapted.initial.tensors()[PROMPT])
    assert start.shape == (3, 16)
    assert all((table == row).all(dim=1).any() for row in start)
    other = make(zoo["bert"], "prompt", prompt_length=3, options={"prompt_tuning_init": "RANDOM"})
    assert not (table == torch.as_tensor(other.initial.tensors()[PROMPT])[0]).all(dim=1).any()


PROMPT = "prompt_encoder.default.embedding.weight"


@pytest.mark.parametrize("kind", ["albert", "electra"])
@pytest.mark.parametrize("name", ["prompt", "p-tuning"])
def test_prompts_are_as_wide_as_embeddings_where_those_are_narrower(kind: str, name: str) -> None:
    model = build(kind, "cpu", embedding_size=8)
    made = find_method(name).adapt(model, model_of(kind)[1], MethodSettings(prompt_length=3))
    assert made.model.prompt_encoder["default"].embedding.weight.shape == (3, 8)
    assert made.model(**batch()).logits.shape == (3, 3)


def test_every_head_is_saved_under_a_prompt(zoo: dict[str, Path]) -> None:
    for animal in ("bert", "bert-without-pooler", "roberta", "distilbert"):
        for name in ("prompt", "p-tuning"):
            adapted = make(zoo[animal], name, prompt_length=2)
            heads = [tensor for tensor in adapted.tensors if tensor.head]
            assert len(heads) == len(ZOO[animal].head)


def test_p_tuning_and_projected_prefixes_are_restated(zoo: dict[str, Path]) -> None:
    tensors = {"prompt_embeddings": np.float32([[1.0]])}
    config = {
        "peft_type": "P_TUNING",
        "encoder_hidden_size": 16,
        "num_virtual_tokens": 1,
        "token_dim": 1,
        "task_type": "SEQ_CLS",
    }
    kept, told = as_soft_prompt(tensors, config)
    assert kept is tensors
    assert told == {
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "num_virtual_tokens": 1,
        "token_dim": 1,
        "task_type": "SEQ_CLS",
    }
    assert without_projection(tensors, {"prefix_projection": True, "token_dim": 1}) == (
        tensors,
        {"prefix_projection": False, "token_dim": 1},
    )
    projected = make(zoo["bert"], "prefix", options={"prefix_projection": True})
    assert projected.adaptation.restate is without_projection
    assert make(zoo["bert"], "prompt").adaptation.restate is as_saved


def test_visual_prompts_start_within_the_bound_of_the_patch_size() -> None:
    model = build("vit", "cpu", patch_size=4)
    made = find_method("prompt").adapt(model, frozenset(), MethodSettings(prompt_length=50))
    bound = math.sqrt(6 / (3 * 16 + 16))
    for name, parameter in made.model.named_parameters():
        if parameter.requires_grad:
            assert 0.9 * bound < parameter.abs().max() <= bound, name
    assert made.layout == {
        "blocks": ["vit.layers.0", "vit.layers.1"],
        "length": 50,
        "size": 16,
        "patch": 16,
        "deep": True,
    }


# ------------------------------------------------------------------ the catalogue


def test_every_method_says_its_name() -> None:
    for name in METHODS.names():
        assert find_method(name).name == name


def test_adalora_is_known_and_refused(zoo: dict[str, Path]) -> None:
    with pytest.raises(BackboneError, match="does not federate"):
        make(zoo["bert"], "adalora")
