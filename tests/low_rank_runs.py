"""Rounds of strategies for LoRA without any transport: states in, deltas in, states out.

A node's weights gain s·BA, and UV where there is a residual. What is exact brings the server, round
after round, the mean of what the nodes' weights gained.
"""

from collections.abc import Sequence

import numpy as np
from decoded import Decoded

from fedpeft_app.adapters import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.adapters.lora import factors
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.adapters.residuals import residual_factors
from fedpeft_app.strategies.strategy import Assignment, Member, Reply, Strategy

OUT, INPUTS, RANK, SCALING, NODES, ROUNDS = 12, 20, 3, 2.0, 4, 4
ROOM = min(OUT, INPUTS)  # whatever is added to the weights fits into a residual of this rank
MODULES = ("encoder.0.query", "encoder.1.query")
WEIGHTS = (10.0, 30.0, 20.0, 40.0)


def spec_of(*, residual: int = 0, rank: int = RANK) -> AdapterSpec:
    """Make the spec of two low-rank modules and a head; with residuals if they have room."""
    tensors = []
    for module in MODULES:
        tensors += [
            TensorSpec(name=f"{module}.lora_A.default.weight", shape=(rank, INPUTS)),
            TensorSpec(name=f"{module}.lora_B.default.weight", shape=(OUT, rank)),
        ]
        for factor, shape in (("A", (residual, INPUTS)), ("B", (OUT, residual))):
            name = f"{module}.lora_residual_{factor}.default.weight"
            tensors += [TensorSpec(name=name, shape=shape, frozen=True)] * bool(residual)
    tensors.append(TensorSpec(name="classifier.weight", shape=(2, 3), head=True))
    ranks = dict.fromkeys(MODULES, rank)
    return AdapterSpec(
        method="lora", backbone="x", tensors=tuple(tensors), ranks=ranks, scaling=SCALING
    )


def fresh(spec: AdapterSpec) -> AdapterState:
    """Draw A and the head; B and residuals are zero."""
    generator = np.random.default_rng(7)
    tensors = {
        tensor.name: (
            np.zeros(tensor.shape, np.float32)
            if "_B." in tensor.name or tensor.frozen
            else generator.normal(size=tensor.shape).astype(np.float32)
        )
        for tensor in spec.tensors
    }
    return AdapterState.from_tensors(spec, tensors)


def drawn(spec: AdapterSpec) -> AdapterState:
    """Draw everything, as if the run went on from another one."""
    vector = np.random.default_rng(8).normal(size=spec.size).astype(np.float32)
    return AdapterState(spec=spec, vector=vector)


def of_ranks(*ranks: int) -> list[Member]:
    """Make nodes of ranks of their own; 0 = the run's."""
    return [
        Member(node_id=100 + k, partition=k, examples=100, rank=rank)
        for k, rank in enumerate(ranks)
    ]


ALIKE = of_ranks(*[0] * NODES)


def gained(state: AdapterState) -> np.ndarray:
    """Give what all weights gain by a state: s·BA + UV, module by module."""
    residuals = residual_factors(state) if any(t.frozen for t in state.spec.tensors) else {}
    total = []
    for module, update in factors(state).items():
        dense = SCALING * update.b @ update.a
        if module in residuals:
            dense = dense + residuals[module].b @ residuals[module].a
        total.append(dense)
    return np.stack(total)


def trained(task: Assignment, member: Member, round_number: int) -> Reply:
    """Move everything that trains by chance."""
    spec = trained_spec(task.state.spec, task.part)
    generator = np.random.default_rng([member.partition, round_number])
    step = generator.normal(scale=0.5, size=spec.size).astype(np.float32)
    weight = WEIGHTS[member.partition]
    update = Decoded(state=AdapterState(spec=spec, vector=step))
    return Reply(member=member, start=task.state, update=update, weight=weight, metrics={})


def local(reply: Reply) -> AdapterState:
    """Give what a node has after training."""
    return AdapterState(spec=reply.start.spec, vector=reply.start.vector + reply.delta.vector)


def errors(strategy: Strategy, state: AdapterState, nodes: Sequence[Member]) -> list[float]:
    """Run rounds; give by how much each one's result misses the mean of what nodes gained."""
    strategy.prepare(state.spec, nodes)
    found = []
    for round_number in range(1, ROUNDS + 1):
        tasks = strategy.configure(round_number, state, nodes)
        replies = [trained(tasks[node.node_id], node, round_number) for node in nodes]
        total = sum(reply.weight for reply in replies)
        wanted = sum(reply.weight / total * gained(local(reply)) for reply in replies)
        state = strategy.aggregate(round_number, state, replies)
        missing = gained(state) - wanted
        found.append(float(np.linalg.norm(missing) / np.linalg.norm(wanted)))
    return found
