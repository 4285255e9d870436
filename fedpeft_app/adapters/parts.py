"""Which tensors of an adapter a node trains and sends, and how they go back into the whole."""

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache

from fedpeft_app.adapters.lora import pairs
from fedpeft_app.adapters.state import AdapterSpec, AdapterState
from fedpeft_app.errors import AdapterMismatchError

PARTS = ("", "a", "b")  # all that trains; all but B; all but A


@lru_cache(maxsize=64)
def trained_spec(spec: AdapterSpec, part: str = "") -> AdapterSpec:
    """Describe what a node trains of an adapter, and therefore sends.

    Args:
        spec: The whole adapter.
        part: "" for all that is not frozen; "a" or "b" to leave out the other factor of every
            low-rank module. What belongs to no such module, such as the head, always trains.

    Returns:
        The spec of those tensors, in their order; `spec` itself if that is all of them.

    Raises:
        AdapterMismatchError: If there is no such part, or no module with the factor to train.
    """
    left_out = {tensor.name for tensor in spec.tensors if tensor.frozen} | _other(spec, part)
    if not left_out:
        return spec
    return AdapterSpec(
        method=spec.method,
        backbone=spec.backbone,
        tensors=tuple(tensor for tensor in spec.tensors if tensor.name not in left_out),
        ranks=spec.ranks,
        scaling=spec.scaling,
    )


@lru_cache(maxsize=64)
def family(spec: AdapterSpec) -> Mapping[str, AdapterSpec]:
    """List an adapter and its parts, which whoever has the adapter knows: fingerprint → spec."""
    members = [spec, trained_spec(spec)]
    for part in PARTS[1:]:
        with suppress(AdapterMismatchError):  # no such factors
            members.append(trained_spec(spec, part))
    return {member.fingerprint: member for member in members}


def taken(state: AdapterState, spec: AdapterSpec) -> AdapterState:
    """Take the tensors of a part out of a state.

    Args:
        state: The whole.
        spec: The part, as `trained_spec` gives it.

    Raises:
        AdapterMismatchError: If the part names tensors that the whole lacks.
    """
    if spec.fingerprint == state.spec.fingerprint:
        return state
    whole = state.tensors()
    return AdapterState.from_tensors(
        spec, {tensor.name: whole[tensor.name] for tensor in spec.tensors if tensor.name in whole}
    )


def spread(delta: AdapterState, spec: AdapterSpec) -> AdapterState:
    """Put the delta of a part into that of the whole, with zeros for what did not train.

    Args:
        delta: Of a part of the adapter, as `trained_spec` describes it.
        spec: The whole adapter.

    Raises:
        AdapterMismatchError: If the whole lacks a tensor, or has another shape for it.
    """
    if delta.spec.fingerprint == spec.fingerprint:
        return delta
    whole = AdapterState.zeros(spec)
    _put(whole, delta)
    return whole


def replaced(state: AdapterState, part: AdapterState) -> AdapterState:
    """Put a part in the place of what a state has there; everything else stays.

    Args:
        state: The whole.
        part: Some of its tensors, such as `taken` gives.

    Raises:
        AdapterMismatchError: If the whole lacks a tensor, or has another shape for it.
    """
    whole = AdapterState(spec=state.spec, vector=state.vector.copy())
    _put(whole, part)
    return whole


def _put(whole: AdapterState, part: AdapterState) -> None:
    """Write the tensors of a part into a state that nobody else holds yet."""
    views = whole.tensors()
    for tensor, values in part.items():
        if tensor.name not in views or views[tensor.name].shape != tensor.shape:
            raise AdapterMismatchError(
                f"Expected tensors of adapter {whole.spec.fingerprint}, got '{tensor.name}' "
                f"{tensor.shape} of {part.spec.fingerprint}."
            )
        views[tensor.name][...] = values


def _other(spec: AdapterSpec, part: str) -> set[str]:
    """Name the tensors that a part leaves out: the other factor of every module."""
    if part not in PARTS:
        raise AdapterMismatchError(f"Expected a part of {PARTS} to train, got {part!r}.")
    if not part:
        return set()
    found = pairs(spec)
    wanted = [pair.a if part == "a" else pair.b for pair in found]
    if not any(wanted):
        raise AdapterMismatchError(
            f"Expected low-rank modules with a factor {part.upper()} to train, got a "
            f"{spec.method} adapter without any. Use method.name = 'lora' or a kin of it."
        )
    return {name for pair in found if (name := pair.b if part == "a" else pair.a)}
