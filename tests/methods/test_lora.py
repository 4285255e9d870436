"""LoRA: ranks, scaling, what it computes, and which settings it refuses."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from zoo import WIDTH, ZOO, batch, logits, make, save

from fedpeft_app.adapters import AdapterState
from fedpeft_app.backbone.load import load_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.errors import BackboneError, FedPeftError
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.lora import lora_sa
from fedpeft_app.methods.method import MethodSettings
from fedpeft_app.methods.targets import linear_modules
from fedpeft_app.methods.wrap import head_modules


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(name, tmp_path_factory.mktemp(name)) for name in ZOO}


@pytest.fixture
def bert(zoo: dict[str, Path]) -> Path:
    return zoo["bert"]


def last_names(adapted: AdaptedModel) -> set[str]:
    return {name.rpartition(".")[2] for name in adapted.spec.ranks}


@pytest.mark.parametrize("animal", sorted(ZOO))
def test_ranks_name_the_adapted_modules(zoo: dict[str, Path], animal: str) -> None:
    adapted = make(zoo[animal], "lora", rank=3, targets=ZOO[animal].targets)
    assert set(adapted.spec.ranks.values()) == {3}
    assert len(adapted.spec.ranks) == 2 * len(ZOO[animal].adapted)
    for name in adapted.spec.ranks:
        assert name.endswith(tuple(f".{last}" for last in ZOO[animal].adapted))
        shapes = [t.shape for t in adapted.spec.tensors if t.name.startswith(f"{name}.lora_")]
        assert (shapes[0][0], shapes[1][1]) == (3, 3)  # A: (r, in), B: (out, r)


@pytest.mark.parametrize(
    ("rank", "alpha", "options", "scaling"),
    [
        (2, 16.0, {}, 8.0),
        (8, 16.0, {}, 2.0),
        (3, 1.0, {}, 1 / 3),
        (4, 6.0, {"use_rslora": True}, 6 / math.sqrt(4)),  # Kalajdzievski 2023, arXiv 2312.03732
    ],
)
def test_scaling_is_alpha_over_rank(
    bert: Path, rank: int, alpha: float, options: dict[str, Any], scaling: float
) -> None:
    adapted = make(bert, "lora", rank=rank, alpha=alpha, options=options)
    assert adapted.spec.scaling == pytest.approx(scaling)


@pytest.mark.parametrize("animal", sorted(ZOO))
def test_a_fresh_adapter_changes_no_output(zoo: dict[str, Path], animal: str) -> None:
    bare = load_model(
        locate(str(zoo[animal])), kind="sequence-classification", labels=("a", "b", "c")
    )
    adapted = make(zoo[animal], "lora", targets=ZOO[animal].targets)
    assert torch.equal(logits(adapted.model), logits(bare.model))


@pytest.mark.parametrize(
    "animal", ["bert", "gpt2"]
)  # Linear stores W, GPT-2's Conv1D its transpose
def test_the_update_is_scaling_times_b_times_a(zoo: dict[str, Path], animal: str) -> None:
    adapted = make(zoo[animal], "lora", rank=2, alpha=6.0)
    values = np.random.default_rng(0).standard_normal(adapted.spec.size).astype(np.float32) * 0.3
    state = AdapterState(spec=adapted.spec, vector=values)
    adapted.pour(state)
    tensors = state.tensors()
    for name in adapted.spec.ranks:
        layer = adapted.model.get_submodule(name)
        a, b = (torch.tensor(tensors[f"{name}.lora_{x}.default.weight"]) for x in "AB")
        x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
        expected = layer.base_layer(x) + 3.0 * x @ a.T @ b.T  # α / r = 6 / 2
        assert torch.allclose(layer(x), expected, atol=1e-5)


def test_dropout_acts_before_the_adapter_in_training_only(bert: Path) -> None:
    adapted = make(bert, "lora", dropout=0.5, rank=2)
    adapted.pour(
        AdapterState(spec=adapted.spec, vector=np.full(adapted.spec.size, 0.1, np.float32))
    )
    assert torch.equal(logits(adapted.model), logits(adapted.model))
    adapted.model.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = (adapted.model(**batch()).logits for _ in range(2))
    assert not torch.equal(first, second)


def test_targets_may_be_named_or_all(bert: Path) -> None:
    assert last_names(make(bert, "lora", targets=" query , dense ")) == {"query", "dense"}
    assert last_names(make(bert, "lora", targets="all-linear")) == {
        "query",
        "key",
        "value",
        "dense",
    }
    one = "encoder.layer.1.attention.self.key"
    assert list(make(bert, "lora", targets=one).spec.ranks) == [f"base_model.model.bert.{one}"]


def test_all_linear_spares_a_fresh_pooler(zoo: dict[str, Path]) -> None:
    adapted = make(zoo["bert-without-pooler"], "lora", targets="all-linear")
    assert not [name for name in adapted.spec.ranks if "pooler" in name]


def test_ranks_may_differ_where_the_scaling_does_not(bert: Path) -> None:
    options = {"rank_pattern": {"query": 4}, "alpha_pattern": {"query": 8}}
    ranks = make(bert, "lora", rank=2, alpha=4.0, options=options).spec.ranks
    assert {name.rpartition(".")[2]: rank for name, rank in ranks.items()} == {
        "query": 4,
        "value": 2,
    }
    with pytest.raises(BackboneError, match=r"one LoRA scaling for all layers, got \[1\.0, 2\.0\]"):
        make(bert, "lora", rank=2, alpha=4.0, options={"rank_pattern": {"query": 4}})


def test_further_tensors_of_peft_travel_too(bert: Path) -> None:
    adapted = make(bert, "lora", options={"use_dora": True})
    magnitudes = [t for t in adapted.spec.tensors if "lora_magnitude_vector" in t.name]
    assert [tensor.shape for tensor in magnitudes] == [(WIDTH,)] * 4


@pytest.mark.parametrize("targets", ["nothing", "query,nothing", "classifier", "query,classifier"])
def test_a_target_that_is_no_module_of_the_body_is_refused(bert: Path, targets: str) -> None:
    with pytest.raises(BackboneError) as caught:
        make(bert, "lora", targets=targets)
    assert targets.rpartition(",")[2] in str(caught.value)
    assert "some of: dense, key, query, value." in str(caught.value)  # the head is no choice


@pytest.mark.parametrize(
    "options",
    [
        {"no_such_argument": 1},
        {"bias": "no-such"},
        {"init_lora_weights": "no-such"},
        {"layers_to_transform": [9]},
        {"inference_mode": True},  # would train nothing
    ],
)
def test_options_that_do_not_fit_are_refused(bert: Path, options: dict[str, Any]) -> None:
    with pytest.raises(FedPeftError) as caught:
        make(bert, "lora", options=options)
    message = str(caught.value)
    assert "'lora' does not fit" in message or "untrained" in message or "Expected PEFT" in message


@pytest.mark.parametrize(
    ("name", "options", "setter"),
    [
        ("lora", {"r": 4}, "method.rank"),
        ("lora", {"lora_alpha": 4}, "method.alpha"),
        ("lora", {"lora_dropout": 0.1}, "method.dropout"),
        ("lora", {"target_modules": ["query"]}, "method.targets and method.layers"),
        ("lora", {"modules_to_save": ["pooler"]}, "method.head"),
        ("lora", {"task_type": "SEQ_CLS"}, "task"),
        ("rslora", {"use_rslora": False}, "method.name = 'rslora'"),
        ("vera", {"vera_dropout": 0.1}, "method.dropout"),
        ("ia3", {"feedforward_modules": []}, "method.name = 'ia3'"),
        ("p-tuning", {"num_virtual_tokens": 4}, "method.prompt-length"),
        ("peft:LOHA", {"alpha": 4}, "method.alpha"),
    ],
)
def test_options_do_not_set_what_other_keys_set(
    bert: Path, name: str, options: dict[str, Any], setter: str
) -> None:
    key = next(iter(options))
    with pytest.raises(BackboneError, match=f"names '{key}', which is set by {setter}. Leave it"):
        make(bert, name, options=options)


@pytest.mark.parametrize("name", ["lora", "pissa", "olora", "lora-fa", "dora", "peft:LOHA"])
def test_a_rank_beyond_the_narrowest_layer_is_refused(bert: Path, name: str) -> None:
    make(bert, name, rank=WIDTH)
    reason = rf"rank to be at most 16 for .*'{name}', as '.*\.0\..*query' is 16 × 16, got 17"
    with pytest.raises(BackboneError, match=reason):
        make(bert, name, rank=WIDTH + 1)


def test_no_layer_s_own_rank_is_beyond_it(bert: Path) -> None:
    options = {"rank_pattern": {"value": 17}, "alpha_pattern": {"value": 34}}
    with pytest.raises(BackboneError, match=r"at most 16 .*value' is 16 × 16, got 17"):
        make(bert, "pissa", rank=8, options=options)


@pytest.mark.parametrize(("targets", "most"), [("c_attn", "16 × 48"), ("wte", "20 × 16")])
def test_narrow_is_what_has_few_rows_or_columns(
    zoo: dict[str, Path], targets: str, most: str
) -> None:
    with pytest.raises(BackboneError, match=f"at most 16 .* is {most}, got 17"):
        make(zoo["gpt2"], "lora", targets=targets, rank=17)


def test_head_modules_are_whole_outside_the_body_and_exact_inside(zoo: dict[str, Path]) -> None:
    expected = {
        "bert": ["classifier"],
        "bert-without-pooler": ["bert.pooler", "classifier"],
        "gpt2": ["score"],
        "distilbert": ["classifier", "pre_classifier"],
        "roberta": ["classifier"],
    }
    for animal, modules in expected.items():
        backbone = make(zoo[animal], "head").backbone
        assert head_modules(backbone.model, backbone.head) == modules


def test_linear_modules_have_full_names_and_spare_the_head(zoo: dict[str, Path]) -> None:
    model = make(zoo["gpt2"], "head").backbone.model
    names = [f"transformer.h.{n}.{layer}" for n in (0, 1) for layer in GPT2_LAYERS]
    assert linear_modules(model) == [*names, "score"]
    assert linear_modules(model, frozenset({"score.weight"})) == names


GPT2_LAYERS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def test_peft_is_told_that_the_task_is_classification(bert: Path) -> None:
    assert make(bert, "lora").model.peft_config["default"].task_type == "SEQ_CLS"


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_4", "olora", "corda", "eva", "loftq", "lora_ga", "mica"]
)
def test_initialisations_from_frozen_weights_or_data_are_refused(bert: Path, start: str) -> None:
    with pytest.raises(BackboneError, match=f"'{start}' sets out from the frozen weights"):
        make(bert, "lora", options={"init_lora_weights": start})


def test_biases_of_all_modules_are_refused_because_peft_cannot_save_them(bert: Path) -> None:
    with pytest.raises(BackboneError, match="method.name = 'bias'"):
        make(bert, "lora", options={"bias": "all"})
    biases = [t for t in make(bert, "lora", options={"bias": "lora_only"}).tensors if not t.head]
    assert len(biases) == 3 * 4  # A, B and the bias of query and value in two layers


def test_orthogonal_factors_are_not_zero_but_their_product_is(bert: Path) -> None:
    adapted = make(bert, "lora-orthogonal", rank=4)
    tensors = adapted.initial.tensors()
    for name in adapted.spec.ranks:
        a, b = (tensors[f"{name}.lora_{x}.default.weight"] for x in "AB")
        assert min(np.abs(a).max(), np.abs(b).max()) > 0.01
        assert np.abs(b @ a).max() < 1e-6


def test_a_frozen_a_is_drawn_from_the_seed_and_does_not_travel(bert: Path) -> None:
    adapted, again, other = (make(bert, "lora-fa", seed=seed) for seed in (0, 0, 1))
    body = [tensor.name for tensor in adapted.tensors if not tensor.head]
    assert len(body) == 4
    assert all(name.endswith("lora_B.default.weight") for name in body)
    path = body[0].replace("lora_B", "lora_A")
    a, same, different = (m.model.get_parameter(path) for m in (adapted, again, other))
    assert torch.equal(a, same)
    assert not torch.equal(a, different)
    assert not a.requires_grad


@pytest.mark.parametrize("head", ["train", "frozen", "personal"])
def test_a_is_shared_and_every_node_keeps_its_own_b(bert: Path, head: str) -> None:
    backbone = load_model(locate(str(bert)), kind="sequence-classification", labels=("a", "b", "c"))
    adapted = adapt(backbone, lora_sa(), MethodSettings(rank=2), 0, head=head)
    shared, kept = (
        {tensor.name for tensor in part.spec.tensors} for part in (adapted.shared, adapted.personal)
    )
    factors = {
        factor: {f"{module}.lora_{factor}.default.weight" for module in adapted.spec.ranks}
        for factor in "AB"
    }
    heads = {tensor.name for tensor in adapted.tensors if tensor.head}
    assert len(heads) == (0 if head == "frozen" else 2)
    assert shared == factors["A"] | (heads if head == "train" else set())
    assert kept == factors["B"] | (heads if head == "personal" else set())
    assert not any(
        value.any() for name, value in adapted.personal.initial.tensors().items() if "lora_" in name
    )


def test_embeddings_keep_their_b_too(bert: Path) -> None:
    adapted = make(bert, "lora-sa", rank=2, targets="word_embeddings,query")
    kept = {tensor.name.rsplit(".lora_", 1)[1] for tensor in adapted.personal.spec.tensors}
    assert kept == {"B.default.weight", "embedding_B.default"}
    assert all(".lora_" not in t.name or "_A." in t.name for t in adapted.spec.tensors)


def test_a_shared_a_learns_from_the_second_step(bert: Path) -> None:
    adapted = make(bert, "lora-sa", rank=2)
    optimizer = torch.optim.SGD(adapted.trainable, lr=0.5)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        adapted.model(**batch()).logits.square().sum().backward()
        optimizer.step()
        state, initial = adapted.read().tensors(), adapted.initial.tensors()
        moved.append({name for name in state if not np.array_equal(state[name], initial[name])})
    assert not any(".lora_A." in name for name in moved[0])
    assert {f"{module}.lora_A.default.weight" for module in adapted.spec.ranks} < moved[1]


def test_a_fresh_tensor_among_old_ones_takes_them_along(zoo: dict[str, Path]) -> None:
    model = make(zoo["bert"], "head").backbone.model
    fresh = frozenset({"classifier.weight", "classifier.bias", "bert.embeddings.LayerNorm.bias"})
    assert head_modules(model, fresh) == ["bert.embeddings.LayerNorm", "classifier"]


def test_lora_fa_leaves_the_a_of_embeddings_as_it_was_drawn(bert: Path) -> None:
    adapted = make(bert, "lora-fa", targets="query,word_embeddings")
    names = [tensor.name for tensor in adapted.spec.tensors if not tensor.head]
    assert names
    assert all("lora_B" in name or "lora_embedding_B" in name for name in names)


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_embeddings_are_not_decomposed(bert: Path, name: str) -> None:
    with pytest.raises(BackboneError, match="names the embedding 'bert.embeddings.word_embedd"):
        make(bert, name, targets="query,word_embeddings")
