"""What methods cost: the FedPEFT paper's bytes, and the bytes that are really sent."""

from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.parts import taken, trained_spec
from fedpeft_app.backbone.load import load_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.costs import MethodCost, cost_of, shape_source
from fedpeft_app.errors import SourceError
from fedpeft_app.methods.adapted import adapt
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.methods.method import MethodSettings
from fedpeft_app.wire.record import STATE, Order, content_bytes, section_of, write_order

VIT = "vit-base-patch16-224-in21k"
TEXT, IMAGE, CAUSAL = "sequence-classification", "image-classification", "causal-lm"
MIB = 2**20


def cost(
    model: str, method: str, kind: str, *, labels: int = 3, pooling: str = "model", **settings: Any
) -> MethodCost:
    fresh_config, _ = shape_source(model)
    return cost_of(
        find_method(method),
        fresh_config(),
        kind,
        settings=MethodSettings(**settings),
        labels=labels,
        pooling=pooling,
    )


def weighed(state: AdapterState) -> int:
    """Size of a message that carries a state."""
    order = Order(spec=state.spec, sections=[section_of(STATE, state)], round_number=1)
    return content_bytes(write_order(order))


# ------------------------------------------------------------------ the paper's table

# Sun et al. 2022, arXiv 2210.01708: ViT-B/16, a head of 100 · 768 + 100 parameters, float32.
PAPER = [
    ("full", 85_798_656, 327.6),
    ("bottleneck-shared", 2 * 768 * 96 + 96 + 768, 0.859),
    ("bias", 102_912, 0.686),
    ("prompt", 12 * 10 * 768, 0.645),
    ("head", 0, 0.293),
]


@pytest.mark.parametrize(("method", "body", "mib"), PAPER)
def test_the_papers_bytes_come_out(method: str, body: int, mib: float) -> None:
    found = cost(VIT, method, IMAGE, labels=100)
    assert (found.body, found.head, found.model) == (body, 76_900, 85_875_556)
    assert found.payload_bytes == 4 * (body + 76_900)
    assert round(found.payload_bytes / MIB, 1 if method == "full" else 3) == mib
    assert found.refused == ""


@pytest.mark.parametrize("method", [name for name, *_ in PAPER if name != "full"])
def test_a_message_is_hardly_more_than_its_values(method: str) -> None:
    found = cost(VIT, method, IMAGE, labels=100)
    assert found.payload_bytes < found.up_bytes < 1.01 * found.payload_bytes


def test_what_is_too_large_is_scaled_up_from_what_is_not() -> None:
    full = cost(VIT, "full", IMAGE, labels=100)
    assert full.extrapolated
    assert full.up_bytes == pytest.approx(343_508_703, rel=1e-5)  # built once, and weighed
    assert not cost(VIT, "lora", IMAGE).extrapolated


def test_equal_values_are_not_weighed_as_one() -> None:
    # Flower keeps equal chunks (5 MiB) once; those of a real message differ.
    found = cost(VIT, "lora", IMAGE, rank=100)
    assert found.payload_bytes > 10 * MIB
    assert found.up_bytes > found.payload_bytes


def test_where_nothing_travels_there_is_no_message() -> None:
    config, kind = shape_source(VIT)
    found = cost_of(
        find_method("head"),
        config(),
        kind,
        settings=MethodSettings(),
        labels=2,
        pooling="model",
        send_head=False,
    )
    assert (found.total, found.up_bytes) == (0, 0)


def test_a_config_alone_is_enough(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    assert cost(str(tmp_path), "lora", TEXT) == cost(str(tiny_model), "lora", TEXT)


def test_lora_costs_what_its_matrices_hold() -> None:
    # 12 layers, query and value, A (r, 768) and B (768, r)
    found = cost(VIT, "lora", IMAGE, labels=100, rank=3)
    assert found.body == 12 * 2 * (3 * 768 + 768 * 3)


# ------------------------------------------------------------------ what is really sent


@pytest.mark.parametrize("pooling", ["model", "mean"])
@pytest.mark.parametrize("method", ["full", "head", "bias", "ln", "lora", "vera", "bottleneck"])
def test_the_cost_is_that_of_the_loaded_model(tiny_model: Path, method: str, pooling: str) -> None:
    found = cost(str(tiny_model), method, TEXT, pooling=pooling)
    backbone = load_model(locate(str(tiny_model)), kind=TEXT, labels=LABELS, pooling=pooling)
    parameters = backbone.parameters
    adapted = adapt(backbone, find_method(method), MethodSettings(), seed=0)
    head = sum(tensor.size for tensor in adapted.spec.tensors if tensor.head)
    assert (found.total, found.head, found.model) == (adapted.spec.size, head, parameters)
    assert found.up_bytes == found.down_bytes == weighed(adapted.initial)


def test_a_language_model_has_no_head_to_pay_for() -> None:
    found = cost("llama-tiny-bytes", "lora", CAUSAL, rank=2)
    assert (found.head, found.body) == (0, 4 * 2 * 2 * 2 * 128)


@pytest.mark.parametrize(("method", "up", "down"), [("lora-sa", 0.5, 0.5), ("lora-residual", 1, 5)])
def test_what_nodes_keep_is_not_sent_and_what_the_server_writes_only_comes(
    tiny_model: Path, method: str, up: float, down: float
) -> None:
    # two layers, query and value, A (2, 32) and B (32, 2); the residual has rank 4 · 2
    found, lora, head = cost(str(tiny_model), method, TEXT, rank=2), 2 * 2 * 2 * 2 * 32, 3 * 32 + 3
    assert (found.body, found.head, found.total) == (lora, head, lora + head)
    assert (found.up, found.down) == (up * lora + head, down * lora + head)
    assert found.payload_bytes == 4 * found.up
    backbone = load_model(locate(str(tiny_model)), kind=TEXT, labels=LABELS)
    adapted = adapt(backbone, find_method(method), MethodSettings(rank=2), seed=0)
    assert found.down_bytes == pytest.approx(weighed(adapted.initial), rel=0.01)
    sent = taken(adapted.initial, trained_spec(adapted.spec))
    assert found.up_bytes == pytest.approx(weighed(sent), rel=0.01)


# ------------------------------------------------------------------ refusals and sources


def test_a_method_that_does_not_fit_says_why() -> None:
    found = cost("llama-tiny-bytes", "bias", CAUSAL)
    assert "needs biases" in found.refused
    assert found.total == found.up_bytes == 0


def test_known_architectures_say_what_they_are_for(tiny_model: Path) -> None:
    assert shape_source(VIT)[1] == IMAGE
    assert shape_source("llama-tiny-bytes")[1] == CAUSAL
    assert shape_source("scratch:llama-tiny-bytes")[1] == CAUSAL
    assert shape_source(str(tiny_model))[1] == ""


def test_configs_are_fresh_every_time(tiny_model: Path) -> None:
    for name in (VIT, str(tiny_model)):
        fresh_config, _ = shape_source(name)
        first = fresh_config()
        first.num_labels = 77
        assert fresh_config().num_labels == 2


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No model folder at"):
        shape_source(str(tmp_path / "missing"))
