"""One adapter in two ranks: a node of a lower rank trains inside one of the run's rank.

What such a node lacks is zeros in both factors. Each factor's gradient is a product with the
other one, so zeros stay zeros, and one model in memory serves nodes of all ranks.
"""

import numpy as np

from fedpeft_app.adapters.state import AdapterSpec, AdapterState
from fedpeft_app.errors import AdapterMismatchError


def padded(state: AdapterState, spec: AdapterSpec) -> AdapterState:
    """Add zeros up to a higher rank.

    Args:
        state: Of a rank up to that of the spec.
        spec: The same adapter in that rank.

    Returns:
        A state whose product BA is the same; the state itself if the rank is.

    Raises:
        AdapterMismatchError: If it is another adapter.
    """
    if state.spec.fingerprint == spec.fingerprint:
        return state
    whole = AdapterState.zeros(spec)
    small = _matching(state, whole)
    for name, view in whole.tensors().items():
        view[tuple(map(slice, small[name].shape))] = small[name]
    return whole


def cut(state: AdapterState, spec: AdapterSpec) -> AdapterState:
    """Take back what `padded` was given.

    Args:
        state: Of the rank of the spec, or a higher one.
        spec: The same adapter in the lower rank.

    Raises:
        AdapterMismatchError: If it is another adapter, or what would be cut off is not zero.
    """
    if state.spec.fingerprint == spec.fingerprint:
        return state
    part = AdapterState.zeros(spec)
    small, large = part.tensors(), _matching(part, state)
    for name, view in small.items():
        view[...] = state.tensors()[name][tuple(map(slice, large[name].shape))]
    if np.count_nonzero(part.vector) != np.count_nonzero(state.vector):
        raise AdapterMismatchError(
            f"Expected zeros beyond the rank of adapter {spec.fingerprint}, got other values: "
            f"something trained that this node does not have."
        )
    return part


def _matching(small: AdapterState, large: AdapterState) -> dict[str, np.ndarray]:
    """Give the tensors of the smaller state, if each lies within that of the larger."""
    views, around = small.tensors(), large.tensors()
    fits = views.keys() == around.keys() and all(
        view.ndim == around[name].ndim
        and all(n <= most for n, most in zip(view.shape, around[name].shape, strict=True))
        for name, view in views.items()
    )
    if not fits:
        raise AdapterMismatchError(
            f"Expected one adapter in two ranks, got {small.spec.method} "
            f"{small.spec.fingerprint} and {large.spec.method} {large.spec.fingerprint}."
        )
    return views
