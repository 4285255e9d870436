"""What nodes made of the low-rank modules, one module at a time, and of everything else."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import shifted
from fedpeft_app.adapters.lora import factors, other_tensors, whole_pairs
from fedpeft_app.adapters.parts import replaced, taken
from fedpeft_app.adapters.products import Array, Factors
from fedpeft_app.adapters.state import Vector
from fedpeft_app.strategies.aggregators import fold_mean
from fedpeft_app.strategies.exact_lora import Contributions
from fedpeft_app.strategies.strategy import Reply


def local_factors(
    state: AdapterState, replies: Sequence[Reply]
) -> Iterator[tuple[str, Factors, Contributions]]:
    """Walk over the modules: name, the server's factors, (share of the examples, a node's).

    Products cannot be folded one reply at a time, so each update is decoded once and held until
    the last module is done: 4 bytes for each value that trained, and none where it came in
    float32, which is read in place. In float64 are the server's factors, and one module of the
    nodes'.

    Args:
        state: The server's state.
        replies: Good replies, at least one, each of a node that trained both factors.

    Raises:
        AdapterMismatchError: If there are no low-rank modules, or halves of them.
    """
    total = math.fsum(reply.weight for reply in replies)
    shares = [reply.weight / total for reply in replies]
    walks = [_local(reply.start, reply.update.decode()) for reply in replies]
    for (module, server), *local in zip(factors(state).items(), *walks, strict=True):
        yield module, server, list(zip(shares, local, strict=True))


def with_mean_of_others(state: AdapterState, replies: Sequence[Reply]) -> AdapterState:
    """Add the mean delta of everything that belongs to no low-rank module.

    Args:
        state: The state to be; its other tensors are still those that nodes set out from.
        replies: Good replies, at least one; decoded one at a time.
    """
    spec = other_tensors(state.spec)
    if not spec.tensors:
        return state
    mean = fold_mean(
        ((taken(one.delta, spec).vector, one.weight) for one in replies), uniform=False
    )
    return replaced(state, shifted(taken(state, spec), mean))


def _local(start: AdapterState, delta: AdapterState) -> Iterator[Factors]:
    """Add up one node's factors, module by module in the order of the spec."""
    before, moved = start.tensors(), delta.tensors()
    for _, a, b in whole_pairs(start.spec):
        yield Factors(a=_sum(before[a], moved[a]), b=_sum(before[b], moved[b]))


def _sum(before: Vector, moved: Vector) -> Array:
    """Add in float64, and flatten what a convolution has behind its first axis."""
    return (before.astype(np.float64) + moved).reshape(len(before), -1)
