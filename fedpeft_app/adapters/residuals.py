"""Frozen residuals: low-rank matrices that the server adds to the weights under an adapter.

A module's weight is W + s·BA + UV. Nodes train A `(r, in)` and B `(out, r)`; V `(ρ, in)` and U
`(out, ρ)` come from the server. Unlike BA, the residual UV is not multiplied by the scaling s: an
update of rank k that is to be moved into it, s·BA, is `stack([(s, update)])`.
"""

import re
from collections.abc import Mapping

import numpy as np

from fedpeft_app.adapters.lora import Pair, paired
from fedpeft_app.adapters.products import Factors
from fedpeft_app.adapters.state import AdapterSpec, AdapterState
from fedpeft_app.errors import AdapterMismatchError

_NAME = re.compile(r"(?P<module>.+)\.lora_residual_(?P<factor>[AB])\.default\.weight")


def residuals(spec: AdapterSpec) -> tuple[Pair, ...]:
    """Find the modules with a residual: V is their A, U their B.

    Args:
        spec: Any spec; a method without residuals has none.

    Returns:
        A pair for each, in the order of the spec.
    """
    return paired(spec, _NAME)


def whole_residuals(spec: AdapterSpec) -> tuple[tuple[str, str, str], ...]:
    """Give the names (module, V, U) of every residual, and refuse specs without any.

    Args:
        spec: Any spec.

    Raises:
        AdapterMismatchError: If there are no residuals.
    """
    found = tuple((one.module, one.a, one.b) for one in residuals(spec) if one.a and one.b)
    if not found:
        raise AdapterMismatchError(
            f"Expected an adapter with residuals on its weights, got a {spec.method} adapter "
            f"without any. Use method.name = 'lora-residual', or another strategy."
        )
    return found


def residual_factors(state: AdapterState) -> dict[str, Factors]:
    """Copy the residuals out of a state.

    Args:
        state: A state.

    Returns:
        Module → V and U, of the rank that there is room for: what is not used is zeros.

    Raises:
        AdapterMismatchError: If there are no residuals.
    """
    tensors = state.tensors()
    return {
        module: Factors(a=tensors[v].astype(np.float64), b=tensors[u].astype(np.float64))
        for module, v, u in whole_residuals(state.spec)
    }


def with_residuals(state: AdapterState, updates: Mapping[str, Factors]) -> AdapterState:
    """Put residuals into a state, rounded to float32; all other tensors and the spec stay.

    Args:
        state: Where they go.
        updates: Module → V and U for every residual of the state, of any rank up to what there
            is room for; the rest is filled with zeros.

    Raises:
        AdapterMismatchError: If modules or sizes do not fit, a rank is too high, or there are no
            residuals.
    """
    names = whole_residuals(state.spec)
    if strange := sorted({module for module, _, _ in names} ^ set(updates)):
        raise AdapterMismatchError(
            f"Expected a residual for each of the {len(names)} modules of this "
            f"{state.spec.method} adapter, got {len(updates)}; '{strange[0]}' is on one side only."
        )
    tensors = state.tensors()
    for module, v, u in names:
        filled = _filled(module, updates[module], rank=len(tensors[v]))
        tensors[v], tensors[u] = filled.a.astype(np.float32), filled.b.astype(np.float32)
    return AdapterState.from_tensors(state.spec, tensors)


def _filled(module: str, update: Factors, rank: int) -> Factors:
    """Add components of zeros up to a rank."""
    missing = rank - update.rank
    if missing < 0:
        raise AdapterMismatchError(
            f"Expected a residual of rank {rank} at most for '{module}', got one of rank "
            f"{update.rank}. Truncate it, or raise 'residual' in method.options."
        )
    return Factors(
        a=np.pad(update.a, ((0, missing), (0, 0))), b=np.pad(update.b, ((0, 0), (0, missing)))
    )
