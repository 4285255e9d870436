"""`method.targets` and `method.layers`: which modules are meant, on every known architecture."""

from functools import cache
from typing import Any

import pytest
import torch
import transformers

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.architectures import BLOCKS
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.methods.method import MethodSettings
from fedpeft_app.methods.targets import chosen_blocks, find_blocks, find_targets
from fedpeft_app.methods.wrap import adapted_modules, shortest_names

COMMON: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "cls_token_id": 1,
    "sep_token_id": 1,
    "image_size": 8,
    "patch_size": 4,
    "num_labels": 3,
}
SPECIAL: dict[str, dict[str, Any]] = {
    "distilbert": {
        "vocab_size": 20,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 24,
        "num_labels": 3,
    },
    "gpt2": {"vocab_size": 20, "n_embd": 16, "n_layer": 2, "n_head": 2, "num_labels": 3},
    "swin": {
        "image_size": 8,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 2,
        "num_labels": 3,
    },
    "clip": {"vision_config": COMMON, "projection_dim": 8, "num_labels": 3},
}
IMAGES = ("vit", "deit", "beit", "dinov2", "swin", "clip")

# Architecture → the path of its blocks, then by hand, within a block: what "auto" of LoRA is,
# the last layer of the attention, the last layer of the MLP.
ROWS = {
    "bert": ("bert.encoder.layer.{}", "attention.self.query attention.self.value",
             "attention.output.dense", "output.dense"),
    "roberta": ("roberta.encoder.layer.{}", "attention.self.query attention.self.value",
                "attention.output.dense", "output.dense"),
    "xlm-roberta": ("roberta.encoder.layer.{}", "attention.self.query attention.self.value",
                "attention.output.dense", "output.dense"),
    "camembert": ("roberta.encoder.layer.{}", "attention.self.query attention.self.value",
                "attention.output.dense", "output.dense"),
    "electra": ("electra.encoder.layer.{}", "attention.self.query attention.self.value",
                "attention.output.dense", "output.dense"),
    "distilbert": ("distilbert.transformer.layer.{}", "attention.q_lin attention.v_lin",
                   "attention.out_lin", "ffn.lin2"),
    "modernbert": ("model.layers.{}", "attn.Wqkv", "attn.Wo", "mlp.Wo"),
    "deberta": ("deberta.encoder.layer.{}", "attention.self.in_proj",
                "attention.output.dense", "output.dense"),
    "deberta-v2": ("deberta.encoder.layer.{}",
                   "attention.self.query_proj attention.self.value_proj",
                   "attention.output.dense", "output.dense"),
    "albert": ("albert.encoder.albert_layer_groups.0.albert_layers.0",
               "attention.query attention.value", "attention.dense", "ffn_output"),
    "vit": ("vit.layers.{}", "attention.q_proj attention.v_proj", "attention.o_proj", "mlp.fc2"),
    "deit": ("deit.layers.{}", "attention.q_proj attention.v_proj", "attention.o_proj", "mlp.fc2"),
    "beit": ("beit.layers.{}", "attention.q_proj attention.v_proj", "attention.o_proj", "mlp.fc2"),
    "dinov2": ("dinov2.encoder.layer.{}", "attention.q_proj attention.v_proj",
               "attention.o_proj", "mlp.fc2"),
    "swin": ("swin.encoder.layers.{}.blocks.0", "attention.q_proj attention.v_proj",
             "attention.o_proj", "mlp.fc2"),
    "clip": ("vision_model.encoder.layers.{}", "self_attn.q_proj self_attn.v_proj",
             "self_attn.out_proj", "mlp.fc2"),
    "gpt2": ("transformer.h.{}", "attn.c_attn", "attn.c_proj", "mlp.c_proj"),
    "phi": ("model.layers.{}", "self_attn.q_proj self_attn.v_proj", "self_attn.dense", "mlp.fc2"),
    "phi3": ("model.layers.{}", "self_attn.qkv_proj", "self_attn.o_proj", "mlp.down_proj"),
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"),
        ("model.layers.{}", "self_attn.q_proj self_attn.v_proj", "self_attn.o_proj",
         "mlp.down_proj"),
    ),
}  # fmt: skip


def build(kind: str, device: str = "meta", **special: Any) -> Any:
    """A tiny classifier, without weights unless a device is given."""
    known = transformers.AutoConfig.for_model(kind).to_dict()
    sizes = SPECIAL.get(kind) or {
        key: value for key, value in COMMON.items() if key in known or key == "num_labels"
    }
    config = transformers.AutoConfig.for_model(kind, **{**sizes, **special})
    auto = (
        transformers.AutoModelForImageClassification
        if kind in IMAGES
        else transformers.AutoModelForSequenceClassification
    )
    if kind == "deit":  # transformers 5.23 chooses between two, and fails without this
        config.architectures = ["DeiTForImageClassification"]
    with torch.device(device), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return auto.from_config(config).eval()


@cache
def model_of(kind: str) -> tuple[Any, frozenset[str]]:
    model = build(kind)
    body = "vision_model." if kind == "clip" else f"{model.base_model_prefix}."
    names = [name for name, _ in model.named_parameters()]
    return model, frozenset(name for name in names if not name.startswith(body))


def targets(kind: str, **settings: Any) -> list[str]:
    return find_targets(*model_of(kind), MethodSettings(**settings))


def blocks(kind: str) -> list[str]:
    return list(dict.fromkeys(ROWS[kind][0].format(number) for number in (0, 1)))


every_architecture = pytest.mark.parametrize("kind", sorted(ROWS))


def test_every_row_of_the_table_is_tested() -> None:
    # CLIP's vision tower on its own has the names of CLIP's.
    assert {*ROWS, "clip_vision_model"} == set(BLOCKS)
    assert BLOCKS["clip_vision_model"] is BLOCKS["clip"]


@every_architecture
def test_blocks_are_found_in_order(kind: str) -> None:
    assert find_blocks(*model_of(kind)) == blocks(kind)


@every_architecture
def test_lora_hits_query_and_value(kind: str) -> None:
    expected = [f"{block}.{name}" for block in blocks(kind) for name in ROWS[kind][1].split()]
    assert sorted(targets(kind)) == sorted(expected)  # CLIP has its value before its query
    model = build(kind)
    adaptation = find_method("lora").adapt(model, model_of(kind)[1], MethodSettings())
    assert sorted(adapted_modules(adaptation.model)) == sorted(expected)


@every_architecture
def test_attention_and_mlp_are_apart_and_together_all_linear_layers(kind: str) -> None:
    attention, mlp = targets(kind, targets="attention"), targets(kind, targets="mlp")
    for block in blocks(kind):
        assert f"{block}.{ROWS[kind][2]}" in attention
        assert f"{block}.{ROWS[kind][3]}" in mlp
    assert not set(attention) & set(mlp)
    both = targets(kind, targets="both")
    assert sorted(both) == sorted(attention + mlp)
    assert both == targets(kind, targets="all-linear")


@every_architecture
def test_nothing_outside_the_blocks_is_hit(kind: str) -> None:
    for name in targets(kind, targets="all-linear"):
        assert name.startswith(tuple(f"{block}." for block in blocks(kind)))
        assert not {"pooler", "classifier", "score", "head", "embeddings"} & set(name.split("."))


@every_architecture
def test_adapters_follow_the_last_layers_of_attention_and_mlp(kind: str) -> None:
    model = build(kind)
    layout = (
        find_method("bottleneck-houlsby").adapt(model, model_of(kind)[1], MethodSettings()).layout
    )
    expected = [f"{block}.{name}" for block in blocks(kind) for name in ROWS[kind][2:]]
    assert sorted(layout["places"]) == sorted(expected)
    for name, (size, width) in layout["places"].items():
        assert size == (16 if ".layers.1.blocks" in name or kind != "swin" else 8)
        assert width == 1  # a sixteenth, and at least one


@pytest.mark.parametrize("name", ["ia3", "vera", "ln", "bias", "bottleneck", "dora"])
@every_architecture
def test_other_methods_take_every_architecture(kind: str, name: str) -> None:
    without_biases = ("llama", "mistral", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3")
    if (kind, name) == ("modernbert", "bias"):
        without_biases = (*without_biases, "modernbert")
    model = build(kind)
    if name == "bias" and kind in without_biases:
        with pytest.raises(BackboneError, match="needs biases"):
            find_method(name).adapt(model, model_of(kind)[1], MethodSettings())
        return
    made = find_method(name).adapt(model, model_of(kind)[1], MethodSettings()).model
    trained = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert len(trained) > len(model_of(kind)[1])


# ------------------------------------------------------------------ names


def test_a_name_that_fits_layers_in_blocks_means_those_only() -> None:
    inside = [name for name in targets("bert", targets="all-linear") if name.endswith("dense")]
    assert targets("bert", targets="dense") == inside
    assert targets("bert", targets="pooler.dense") == ["bert.pooler.dense"]
    assert targets("bert", targets="word_embeddings") == ["bert.embeddings.word_embeddings"]
    assert targets("bert", targets=" query , output.dense ")[:3] == [
        "bert.encoder.layer.0.attention.self.query",
        "bert.encoder.layer.0.attention.output.dense",
        "bert.encoder.layer.0.output.dense",
    ]


@pytest.mark.parametrize(
    ("named", "layers"),
    [
        ("nothing", "all"),
        ("uery", "all"),  # half a name
        ("query,nothing", "all"),
        ("classifier", "all"),  # the head
        ("LayerNorm", "all"),
        ("pooler.dense", "last:1"),
        ("encoder.layer.0.attention.self.query", "last:1"),
    ],
)
def test_a_name_that_fits_no_layer_is_refused(named: str, layers: str) -> None:
    with pytest.raises(BackboneError) as caught:
        targets("bert", targets=named, layers=layers)
    assert f"'{named.rpartition(',')[2]}', which is no linear or embedding layer of" in str(
        caught.value
    )
    assert "some of: dense, key, query, value." in str(caught.value)


def test_short_names_are_used_where_they_fit_nothing_else() -> None:
    model, head = model_of("bert")
    assert shortest_names(model, head, targets("bert")) == ["query", "value"]
    mlp = targets("bert", targets="mlp")
    assert shortest_names(model, head, mlp) == sorted(mlp)
    assert shortest_names(model, head, targets("bert", layers="last:1")) == [
        "bert.encoder.layer.1.attention.self.query",
        "bert.encoder.layer.1.attention.self.value",
    ]


def test_an_unknown_architecture_can_be_told_by_name_only() -> None:
    config = transformers.MPNetConfig(
        **{key: COMMON[key] for key in ("vocab_size", "hidden_size", "intermediate_size")},
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    with torch.device("meta"):
        model = transformers.MPNetForSequenceClassification(config)
    head = frozenset(n for n, _ in model.named_parameters() if n.startswith("classifier"))
    for symbol in ("auto", "attention", "mlp", "both"):
        with pytest.raises(BackboneError) as caught:
            find_targets(model, head, MethodSettings(targets=symbol))
        assert "the architecture 'mpnet'" in str(caught.value)
        assert "'all-linear', or to some of: dense, k, o, q, v." in str(caught.value)
    assert len(find_targets(model, head, MethodSettings(targets="all-linear"))) == 2 * 6
    made = find_method("lora").adapt(model, head, MethodSettings(targets="q,v", layers="0"))
    assert adapted_modules(made.model) == [
        f"mpnet.encoder.layer.0.attention.attn.{name}" for name in "qv"
    ]


def test_a_model_that_differs_from_its_row_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, head = model_of("vit")
    monkeypatch.setattr(model.config, "model_type", "bert")
    with pytest.raises(BackboneError, match=r"Expected attention\.self\.query or attention\.self"):
        find_targets(model, head, MethodSettings())
    monkeypatch.undo()


def test_a_gated_mlp_of_dinov2_is_known() -> None:
    model = build("dinov2", use_swiglu_ffn=True)
    found = find_targets(model, frozenset(), MethodSettings(targets="mlp", layers="0"))
    assert [name.rpartition(".")[2] for name in found] == ["gate_proj", "up_proj", "down_proj"]


# ------------------------------------------------------------------ layers


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("first:2", [0, 1]),
        ("last:2", [4, 5]),
        ("last:6", [0, 1, 2, 3, 4, 5]),
        ("3", [3]),
        ("0-2,5", [0, 1, 2, 5]),
        ("5,0,0-1", [0, 1, 5]),
        ("2 , 4", [2, 4]),
    ],
)
def test_layers_choose_blocks_in_order(layers: str, expected: list[int]) -> None:
    model = build("bert", num_hidden_layers=6)
    found = chosen_blocks(model, frozenset(), layers)
    assert found == [f"bert.encoder.layer.{number}" for number in expected]


@pytest.mark.parametrize(
    "layers", ["first:7", "last:7", "last:0", "6", "4-6", "3-1", "", "none", "-1", "1-", "0,x"]
)
def test_layers_beyond_the_depth_are_refused(layers: str) -> None:
    with pytest.raises(BackboneError, match="which has 6 blocks, 0 to 5"):
        chosen_blocks(build("bert", num_hidden_layers=6), frozenset(), layers)


def test_swin_counts_its_blocks_through_all_stages() -> None:
    model = build("swin", depths=[2, 1])
    assert chosen_blocks(model, frozenset(), "last:2") == [
        "swin.encoder.layers.0.blocks.1",
        "swin.encoder.layers.1.blocks.0",
    ]


# ------------------------------------------------------------------ what fits which architecture


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("prompt", "swin", "Swin sees windows"),
        ("prompt-shallow", "swin", "Swin sees windows"),
        ("bottleneck-parallel", "albert", "Use 'bottleneck'"),
        ("bottleneck-shared", "swin", "differ in size"),
        ("prefix", "distilbert", "takes none"),
        ("prefix", "albert", "takes none"),
        ("prefix", "modernbert", "takes none"),
        ("prefix", "deberta", "takes none"),
        ("prefix", "deberta-v2", "takes none"),
        ("prompt", "llama", "end of a padded text"),
        ("p-tuning", "qwen2", "end of a padded text"),
        ("prefix", "clip", "for text"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(name: str, kind: str, reason: str) -> None:
    with pytest.raises(BackboneError, match=reason):
        find_method(name).adapt(build(kind), model_of(kind)[1], MethodSettings())


def test_position_biases_of_patches_have_no_place_for_prompts() -> None:
    model = build("beit", use_relative_position_bias=True)
    with pytest.raises(BackboneError, match="position bias for pairs of patches"):
        find_method("prompt").adapt(model, model_of("beit")[1], MethodSettings())


@pytest.mark.parametrize("name", ["prompt", "prompt-shallow", "bottleneck-parallel", "bottleneck"])
@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2", "beit", "clip"])
def test_image_models_take_prompts_and_adapters(kind: str, name: str) -> None:
    model, pixels = build(kind, "cpu"), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = model(pixel_values=pixels).logits
        made = find_method(name).adapt(model, model_of(kind)[1], MethodSettings(prompt_length=3))
        after = made.model(pixel_values=pixels).logits
    assert after.shape == before.shape
    assert torch.isfinite(after).all()
    assert torch.allclose(before, after, atol=1e-6) == name.startswith("bottleneck")
    made.model(pixel_values=pixels).logits.square().sum().backward()
    for path, parameter in made.model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, path


@pytest.mark.parametrize("kind", ["bert", "electra", "deberta", "deberta-v2", "distilbert"])
def test_adapters_beside_the_mlp_learn_on_text(kind: str) -> None:
    model = build(kind, "cpu")
    made = find_method("bottleneck-parallel").adapt(model, model_of(kind)[1], MethodSettings())
    tokens = torch.tensor([[3, 4, 5, 6]])
    made.model(input_ids=tokens).logits.square().sum().backward()
    adapters = [(n, p) for n, p in made.model.named_parameters() if "bottleneck.up" in n]
    assert len(adapters) == 2 * 2
    for name, parameter in adapters:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
