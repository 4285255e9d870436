"""Rounds in which only a part of the adapter trains, such as one factor of every LoRA module."""

from collections.abc import Iterator
from contextlib import contextmanager

from fedpeft_app.adapters.parts import taken, trained_spec
from fedpeft_app.methods.adapted import AdaptedModel, Part


def trained_part(adapted: AdaptedModel, part: str = "") -> Part:
    """Find what trains of the tensors that travel.

    Args:
        adapted: The model.
        part: "", "a" or "b", as for `trained_spec`.

    Returns:
        Those tensors; `adapted.shared` itself if that is all of them.

    Raises:
        AdapterMismatchError: If there is no such part, or the adapter does not have it.
    """
    spec = trained_spec(adapted.spec, part)
    if spec is adapted.spec:
        return adapted.shared
    named = {
        tensor.name: parameter
        for tensor, parameter in zip(adapted.spec.tensors, adapted.shared.parameters, strict=True)
    }
    return Part(
        spec=spec,
        parameters=tuple(named[tensor.name] for tensor in spec.tensors),
        initial=taken(adapted.initial, spec),
    )


@contextmanager
def resting(adapted: AdaptedModel, trained: Part) -> Iterator[None]:
    """Keep all that travels but the trained part from training, whatever happens meanwhile.

    Without a gradient no optimizer touches a parameter, not even to decay it.

    Args:
        adapted: The model.
        trained: What `trained_part` gave; what is personal always trains.
    """
    trains = {id(parameter) for parameter in trained.parameters}
    rests = [
        parameter
        for parameter in adapted.shared.parameters
        if parameter.requires_grad and id(parameter) not in trains
    ]
    for parameter in rests:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in rests:
            parameter.requires_grad_(True)
