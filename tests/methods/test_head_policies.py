"""The head: trained and sent, frozen as the seed drew it, or kept by each node."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LABELS

from fedpeft_app.adapters import AdapterState
from fedpeft_app.backbone.load import Backbone, load_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.errors import AdapterMismatchError, BackboneError
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.methods.method import MethodSettings

HEAD_SIZE = 3 * 32 + 3  # three labels of 32 features
LORA_SIZE = 2 * 2 * 2 * 2 * 32  # two layers, query and value, A and B, rank 2
POLICIES = ("train", "frozen", "personal")


def load(folder: Path, **settings: object) -> Backbone:
    arguments = {"kind": "sequence-classification", "labels": LABELS, "seed": 0, **settings}
    return load_model(locate(str(folder)), **arguments)  # type: ignore[arg-type]


def make(folder: Path, head: str, *, method: str = "lora", seed: int = 0) -> AdaptedModel:
    """Adapt the tiny BERT with rank 2."""
    settings = MethodSettings(rank=2) if method == "lora" else MethodSettings()
    return adapt(load(folder, seed=seed), find_method(method), settings, seed, head=head)


def random_state(start: AdapterState, seed: int) -> AdapterState:
    vector = np.random.default_rng(seed).standard_normal(start.spec.size).astype(np.float32)
    return AdapterState(spec=start.spec, vector=vector)


def head_of(adapted: AdaptedModel) -> torch.Tensor:
    """The head's weight that the model computes with."""
    found = [
        value.detach()
        for name, value in adapted.model.named_parameters()
        if name.endswith(("classifier.weight", "classifier.modules_to_save.default.weight"))
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("head", "shared", "personal"),
    [
        ("train", LORA_SIZE + HEAD_SIZE, 0),
        ("frozen", LORA_SIZE, 0),
        ("personal", LORA_SIZE, HEAD_SIZE),
    ],
)
def test_the_policy_says_what_travels_and_what_stays(
    tiny_model: Path, head: str, shared: int, personal: int
) -> None:
    adapted = make(tiny_model, head)
    assert (adapted.shared.spec.size, adapted.personal.spec.size) == (shared, personal)
    assert adapted.spec is adapted.shared.spec
    assert all(tensor.head for tensor in adapted.personal.spec.tensors)
    assert any(tensor.head for tensor in adapted.spec.tensors) == (head == "train")


@pytest.mark.parametrize("method", ["lora", "bias", "full"])
@pytest.mark.parametrize("head", POLICIES)
def test_what_trains_is_what_travels_and_what_stays(
    tiny_model: Path, head: str, method: str
) -> None:
    adapted = make(tiny_model, head, method=method)
    names = {name for name, value in adapted.model.named_parameters() if value.requires_grad}
    assert {tensor.name for tensor in adapted.tensors} == names
    assert [value.shape for value in adapted.trainable] == [t.shape for t in adapted.tensors]
    shared, personal = (
        {t.name for t in part.spec.tensors} for part in (adapted.shared, adapted.personal)
    )
    assert not shared & personal


def test_personal_and_shared_are_read_and_poured_apart(tiny_model: Path) -> None:
    adapted = make(tiny_model, "personal")
    shared, personal = random_state(adapted.initial, 1), random_state(adapted.personal.initial, 2)
    adapted.pour(shared)
    assert adapted.personal.read().vector.tobytes() == adapted.personal.initial.vector.tobytes()
    adapted.personal.pour(personal)
    assert adapted.read().vector.tobytes() == shared.vector.tobytes()
    assert adapted.personal.read().vector.tobytes() == personal.vector.tobytes()
    assert head_of(adapted).flatten().tolist() == personal.vector[:96].tolist()


def test_one_parts_state_does_not_fit_the_other(tiny_model: Path) -> None:
    adapted = make(tiny_model, "personal")
    with pytest.raises(AdapterMismatchError, match="This state is for adapter"):
        adapted.pour(adapted.personal.initial)
    with pytest.raises(AdapterMismatchError, match="This state is for adapter"):
        adapted.personal.pour(adapted.initial)


@pytest.mark.parametrize("head", POLICIES)
def test_no_policy_changes_what_a_fresh_model_computes(tiny_model: Path, head: str) -> None:
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        expected = load(tiny_model).model(input_ids=ids).logits
        assert torch.equal(make(tiny_model, head).model.eval()(input_ids=ids).logits, expected)


# ------------------------------------------------------------------ frozen


@pytest.mark.parametrize("method", ["lora", "bias"])
def test_a_frozen_head_is_a_function_of_the_seed(tiny_model: Path, method: str) -> None:
    first, again, other = (
        make(tiny_model, "frozen", method=method, seed=seed) for seed in (4, 4, 5)
    )
    assert torch.equal(head_of(first), head_of(again))
    assert not torch.equal(head_of(first), head_of(other))
    assert first.frozen == again.frozen != other.frozen
    assert len(first.frozen) == 16


def test_a_frozen_head_gets_no_gradient(tiny_model: Path) -> None:
    adapted = make(tiny_model, "frozen")
    ids = torch.tensor([[2, 5, 6, 3]])
    adapted.model(input_ids=ids).logits.square().sum().backward()
    assert not head_of(adapted).requires_grad
    assert any(parameter.grad is not None for parameter in adapted.trainable)
    heads = [value for name, value in adapted.model.named_parameters() if "classifier" in name]
    assert all(value.grad is None for value in heads)


def test_the_digest_sees_every_bit_of_the_head(tiny_model: Path) -> None:
    digests = {make(tiny_model, "frozen").frozen}
    backbone = load(tiny_model)
    with torch.no_grad():
        backbone.model.classifier.bias[1] = 1e-30
    digests.add(adapt(backbone, find_method("lora"), MethodSettings(rank=2), 0, "frozen").frozen)
    assert len(digests) == 2


@pytest.mark.parametrize("head", ["train", "personal"])
@pytest.mark.parametrize("method", ["lora", "bias", "full"])
def test_nothing_random_is_frozen_where_the_head_trains(
    tiny_model: Path, head: str, method: str
) -> None:
    assert make(tiny_model, head, method=method).frozen == ""


def test_frozen_projections_are_digested_too(tiny_model: Path) -> None:
    """VeRA's random matrices are drawn on every node and never travel."""
    first, again, other = (
        adapt(
            load(tiny_model),
            find_method("vera"),
            MethodSettings(rank=2, options={"projection_prng_key": key}),
            0,
        )
        for key in (1, 1, 2)
    )
    assert first.frozen == again.frozen != other.frozen


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("head", ["frozen", "personal"])
def test_the_head_method_has_nothing_else_to_send(tiny_model: Path, head: str) -> None:
    with pytest.raises(BackboneError, match=f"'head' with method.head = '{head}' leaves nothing"):
        make(tiny_model, head, method="head")


@pytest.mark.parametrize("head", ["frozen", "personal"])
def test_a_model_without_a_fresh_head_has_no_policy_for_one(tiny_llama: Path, head: str) -> None:
    backbone = load(tiny_llama, kind="causal-lm", labels=())
    with pytest.raises(BackboneError, match=f"method.head = '{head}' speaks of a fresh head"):
        adapt(backbone, find_method("lora"), MethodSettings(), 0, head=head)
    assert adapt(backbone, find_method("lora"), MethodSettings(), 0).personal.parameters == ()


def test_a_head_is_float32_whatever_the_body_is(tiny_model: Path) -> None:
    for head in POLICIES:
        backbone = load(tiny_model, dtype="bfloat16")
        adapted = adapt(backbone, find_method("lora"), MethodSettings(rank=2), 0, head=head)
        assert head_of(adapted).dtype == torch.float32
        with torch.no_grad():
            logits = adapted.model(input_ids=torch.tensor([[2, 5, 3]])).logits
        assert logits.dtype == torch.float32
