"""What a round of the strategies for LoRA takes in memory, by what their rules need to see."""

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from decoded import Decoded
from low_rank_runs import of_ranks

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.strategies.catalogue import make_strategy
from fedpeft_app.strategies.strategy import Encoded, Reply

MODULES, SIDE, RANK, RESIDUAL = 16, 300, 8, 4
ADAPTER_BYTES = 4 * MODULES * 2 * SIDE * RANK
FEW, MANY = 10, 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """An update that is copied with each decoding, as codecs that lose something do."""

    state: AdapterState

    def decode(self) -> AdapterState:
        """Give a copy."""
        return AdapterState(spec=self.state.spec, vector=self.state.vector.copy())


def spec_of(residual: int) -> AdapterSpec:
    """Make the spec of square modules."""
    tensors = []
    for module in range(MODULES):
        for kind, rank, frozen in (("", RANK, False), ("residual_", residual, True)):
            shapes = {"A": (rank, SIDE), "B": (SIDE, rank)}
            tensors += [
                TensorSpec(name=f"{module}.lora_{kind}{x}.default.weight", shape=s, frozen=frozen)
                for x, s in shapes.items()
                if rank
            ]
    return AdapterSpec(method="lora", backbone="x", tensors=tuple(tensors), ranks={})


def peak_bytes(name: str, count: int, update: type[Coded | Decoded]) -> int:
    """Give the most bytes that folding replies of one content allocates at once."""
    spec = spec_of(RESIDUAL if name in {"fedex", "flora"} else 0)
    values = np.random.default_rng(0).standard_normal(spec.size).astype(np.float32)
    state, strategy = AdapterState(spec=spec, vector=values), make_strategy(name, {})
    nodes = of_ranks(*[0] * count)
    task = strategy.configure(1, state, nodes)[nodes[0].node_id]
    part = trained_spec(spec, task.part)
    sent: Encoded = update(state=AdapterState(spec=part, vector=values[: part.size]))
    replies = [
        Reply(member=node, start=task.state, update=sent, weight=1.0, metrics={}) for node in nodes
    ]
    tracemalloc.start()
    strategy.aggregate(1, state, replies)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("name", ["fedit", "rolora", "fedsvd"])
def test_means_take_no_more_for_more_replies(name: str) -> None:
    grown = peak_bytes(name, MANY, Coded) - peak_bytes(name, FEW, Coded)
    assert grown < ADAPTER_BYTES


@pytest.mark.parametrize("name", ["flexlora", "hetlora", "lora-fair", "fedex", "flora"])
@pytest.mark.parametrize(("update", "adapters"), [(Decoded, 1), (Coded, 2)])
def test_products_hold_each_reply_once(
    name: str, update: type[Coded | Decoded], adapters: int
) -> None:
    # beside what was decoded: one module of each, in float64, and what is stacked of it
    grown = peak_bytes(name, MANY, update) - peak_bytes(name, FEW, update)
    assert grown < adapters * (MANY - FEW) * ADAPTER_BYTES
