"""Every strategy through a whole run: real apps, real messages, a tiny model that must learn."""

from pathlib import Path
from typing import Any

import pytest
from conftest import LocalGrid, read_events

from fedpeft_app.config import parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.strategies.catalogue import STRATEGIES

_OPTIONS = {  # what a strategy needs beside its name
    "fedex": {"method.name": "lora-residual", "method.options": '{"residual": 64}'},
    "flora": {"method.name": "lora-residual", "method.options": '{"residual": 64}'},
    "fedavgm": {"strategy.options": '{"lr": 0.3}'},
    "norm-bounded": {"strategy.options": '{"max_norm": 5.0}'},
    "krum": {"strategy.options": '{"byzantine": 0}'},
    "multi-krum": {"strategy.options": '{"byzantine": 0}'},
}
_FLOWERS = [f"flwr.serverapp.strategy:{name}" for name in ("FedAvg", "FedAdam", "FedProx")]
_FLOWER_OPTIONS = {
    _FLOWERS[1]: {"strategy.options": '{"eta": 0.01}'},
    _FLOWERS[2]: {"strategy.options": '{"proximal_mu": 0.01}'},
}


def run(settings: dict[str, Any], nodes: int = 4) -> Any:
    """Run a federation and give its last event."""
    folder = coordinate(LocalGrid(nodes, settings), parse(settings), run_id=12345678901)
    return read_events(folder.journal)[-1]


@pytest.mark.parametrize("name", [*STRATEGIES.builtin, *_FLOWERS])
def test_a_run_learns(tiny_settings: dict[str, Any], name: str) -> None:
    chosen = {"strategy.name": name, **_OPTIONS.get(name, {}), **_FLOWER_OPTIONS.get(name, {})}
    settings = {**tiny_settings, "rounds": 4, "strategy.fraction-train": 1.0, **chosen}
    finished = run(settings)
    assert finished["event"] == "run_finished"
    assert finished["test"]["accuracy"] > 0.5  # of three labels: chance is 0.33


@pytest.mark.parametrize("name", ["flexlora", "hetlora", "flora"])
def test_nodes_of_different_ranks_learn_together(tiny_settings: dict[str, Any], name: str) -> None:
    chosen = {"strategy.name": name, **_OPTIONS.get(name, {}), "method.node-ranks": "1,4,2"}
    settings = {**tiny_settings, "rounds": 4, "method.rank": 4, **chosen}
    finished = run({**settings, "strategy.fraction-train": 1.0})
    assert finished["test"]["accuracy"] > 0.5


@pytest.mark.parametrize(
    "codecs", [("int8", "int8"), ("topk(0.3)+int8", "topk(0.3)+int4"), ("bfloat16", "float32")]
)
def test_lossy_messages_still_teach(tiny_settings: dict[str, Any], codecs: tuple[str, str]) -> None:
    wire = dict(zip(("wire.uplink", "wire.downlink"), codecs, strict=True))
    finished = run({**tiny_settings, "rounds": 6, **wire, "strategy.fraction-train": 0.5})
    assert finished["test"]["accuracy"] > 0.5


@pytest.mark.parametrize("name", ["krum", "rolora", "fedsvd", "fedadam"])
def test_the_central_baseline_is_the_same_under_every_strategy(
    tiny_settings: dict[str, Any], name: str
) -> None:
    central = {**tiny_settings, "rounds": 2, "mode": "central"}
    plain, other = run(central), run({**central, "strategy.name": name, "output.name": "other"})
    assert other["test"] == plain["test"]


def test_the_budget_ends_a_run_with_what_there_is(tiny_settings: dict[str, Any]) -> None:
    finished = run({**tiny_settings, "rounds": 5, "budget.uplink-mib": 0.01})
    assert finished["round"] <= 2
    assert finished["test"]
    assert Path(finished["adapter"], "adapter_model.safetensors").exists()
