"""The only arithmetic on adapter states: differences, sums, norms."""

import hashlib

import numpy as np
import numpy.typing as npt

from fedpeft_app.adapters.state import AdapterState
from fedpeft_app.errors import AdapterMismatchError


def require_same_spec(first: AdapterState, second: AdapterState) -> None:
    """Refuse to combine states that do not belong together.

    Args:
        first: A state.
        second: What is to be combined with it.

    Raises:
        AdapterMismatchError: If their fingerprints differ.
    """
    if first.spec.fingerprint != second.spec.fingerprint:
        raise AdapterMismatchError(
            f"Cannot combine adapters of different make: {first.spec.method} "
            f"{first.spec.fingerprint} and {second.spec.method} {second.spec.fingerprint}."
        )


def difference(local: AdapterState, start: AdapterState) -> AdapterState:
    """Give local − start, elementwise in float32: what a client sends.

    Args:
        local: The state after training.
        start: The state before it.

    Raises:
        AdapterMismatchError: If their specs differ.
    """
    require_same_spec(local, start)
    return AdapterState(spec=start.spec, vector=local.vector - start.vector)


def shifted(state: AdapterState, delta: npt.NDArray[np.floating]) -> AdapterState:
    """Give state + delta, added in float64 and rounded once to float32.

    Args:
        state: The state to start from.
        delta: `(state.spec.size,)`, any float dtype.

    Returns:
        A new state of the same spec.

    Raises:
        AdapterMismatchError: If the delta has another shape; it is never broadcast.
    """
    if delta.shape != state.vector.shape:
        raise AdapterMismatchError(
            f"Expected a delta of {state.spec.size} values for this {state.spec.method} adapter, "
            f"got one of shape {delta.shape}."
        )
    total = state.vector.astype(np.float64) + delta
    return AdapterState(spec=state.spec, vector=total.astype(np.float32))


def norm(state: AdapterState) -> float:
    """Give the Euclidean norm over all tensors jointly, accumulated in float64."""
    return float(np.linalg.norm(state.vector.astype(np.float64)))


def digest_of(state: AdapterState) -> str:
    """Give sixteen hex digits over every bit of the values."""
    return hashlib.sha256(state.vector.tobytes()).hexdigest()[:16]


def is_finite(state: AdapterState) -> bool:
    """Say whether no value is NaN or infinite."""
    return all_finite(state.vector)


def all_finite(vector: npt.NDArray[np.floating]) -> bool:
    """Say whether no value is NaN or infinite, in one pass where all is well.

    A sum of squares is finite only if every value is. The reverse does not hold, as large
    values overflow: then each one is looked at.

    Args:
        vector: Values of any float dtype.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.vdot(vector, vector)
    return bool(np.isfinite(squares) or np.isfinite(vector).all())
