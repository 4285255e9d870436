"""The pairs A and B of an adapter: found by their names, read as factors, written back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedpeft_app.adapters.products import Array, Factors
from fedpeft_app.adapters.state import AdapterSpec, AdapterState, TensorSpec
from fedpeft_app.errors import AdapterMismatchError

_NAME = re.compile(  # PEFT: layers keep a module with a weight, embeddings a bare parameter
    r"(?P<module>.+)\.lora_(?:embedding_)?(?P<factor>[AB])\.default(?:\.weight)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The names of one module's two factors.

    Attributes:
        module: The module's name, as in `AdapterSpec.ranks`.
        a: The tensor A, rank first; None if it does not travel.
        b: The tensor B, rank second; None if it does not travel.
    """

    module: str
    a: str | None
    b: str | None

    @property
    def whole(self) -> bool:
        """Whether both travel; under lora-fa, A does not."""
        return self.a is not None and self.b is not None


def pairs(spec: AdapterSpec) -> tuple[Pair, ...]:
    """Find the low-rank modules of an adapter, by the names that PEFT gives their tensors.

    Args:
        spec: Any spec; a method without low-rank modules has no pairs.

    Returns:
        A pair for each module with A, B or both, in the order of the spec.
    """
    return paired(spec, _NAME)


def paired(spec: AdapterSpec, names: re.Pattern[str]) -> tuple[Pair, ...]:
    """Find pairs of tensors by their names.

    Args:
        spec: Any spec.
        names: Matches whole names, with the groups `module` and `factor`, which is A or B.

    Returns:
        A pair for each module with A, B or both, in the order of the spec.
    """
    found: dict[str, dict[str, str]] = {}
    for tensor in spec.tensors:
        if match := names.fullmatch(tensor.name):
            found.setdefault(match["module"], {})[match["factor"]] = tensor.name
    return tuple(
        Pair(module=module, a=names.get("A"), b=names.get("B")) for module, names in found.items()
    )


def other_tensors(spec: AdapterSpec) -> AdapterSpec:
    """Give the part of an adapter that trains and belongs to no low-rank module.

    Args:
        spec: Any spec.
    """
    factored = {name for pair in pairs(spec) for name in (pair.a, pair.b)}
    rest = (one for one in spec.tensors if one.name not in factored and not one.frozen)
    return replace(spec, tensors=tuple(rest), ranks={})


def whole_pairs(spec: AdapterSpec) -> tuple[tuple[str, str, str], ...]:
    """Give the names (module, A, B) of every pair, and refuse what low-rank rules cannot read.

    Args:
        spec: Any spec.

    Raises:
        AdapterMismatchError: If there are no pairs, or halves of pairs.
    """
    found = pairs(spec)
    if not found:
        raise AdapterMismatchError(
            f"Expected an adapter with low-rank factors A and B, got a {spec.method} adapter "
            f"without any. Use method.name = 'lora' or a kin of it, or another strategy."
        )
    if half := [pair for pair in found if not pair.whole]:
        raise AdapterMismatchError(
            f"Expected A and B of every low-rank module, got only {half[0].a or half[0].b} of "
            f"'{half[0].module}' ({spec.method}). Where the other half does not travel, plain "
            f"means are right: use strategy.name = 'fedavg'."
        )
    return tuple((pair.module, pair.a, pair.b) for pair in found if pair.a and pair.b)


def factors(state: AdapterState) -> dict[str, Factors]:
    """Copy the factors out of a state; a convolution's kernels are flattened into A.

    Args:
        state: A state, not the difference of two: (B + δB)(A + δA) − BA is not δB·δA.

    Returns:
        Module → factors, in the order of the spec.

    Raises:
        AdapterMismatchError: If there are no pairs, or halves of pairs.
    """
    tensors = state.tensors()
    return {
        module: Factors(a=_matrix(tensors[a]), b=_matrix(tensors[b]))
        for module, a, b in whole_pairs(state.spec)
    }


def with_factors(state: AdapterState, updates: Mapping[str, Factors]) -> AdapterState:
    """Put factors into a state, rounded to float32; all other tensors stay.

    Args:
        state: Where they go.
        updates: Module → factors for every pair of the state, of any rank from 1.

    Returns:
        A state whose spec has the shapes and ranks of the factors.

    Raises:
        AdapterMismatchError: If modules or sizes do not fit, or there are no whole pairs.
        ValueError: If a rank is 0.
    """
    names = whole_pairs(state.spec)
    if strange := sorted({module for module, _, _ in names} ^ set(updates)):
        raise AdapterMismatchError(
            f"Expected factors for each of the {len(names)} low-rank modules of this "
            f"{state.spec.method} adapter, got {len(updates)}; '{strange[0]}' is on one side only."
        )
    spec = resized_spec(state.spec, {module: update.rank for module, update in updates.items()})
    shapes = {tensor.name: tensor.shape for tensor in spec.tensors}
    tensors = state.tensors()
    for module, a, b in names:
        for name, matrix in ((a, updates[module].a), (b, updates[module].b)):
            tensors[name] = _shaped(name, matrix, shapes[name])
    return AdapterState.from_tensors(spec, tensors)


def resized_spec(spec: AdapterSpec, rank: int | Mapping[str, int]) -> AdapterSpec:
    """Give the same adapter with other ranks.

    The scaling stays, so that BA means the same at every rank: PEFT must be given
    alpha = scaling · rank there (scaling · √rank under rsLoRA).

    Args:
        spec: A spec with whole pairs.
        rank: From 1; one for all modules, or module → rank for each.

    Raises:
        AdapterMismatchError: If there are no pairs, or halves of pairs.
        ValueError: If a rank is not positive.
        KeyError: If a module has no rank.
    """
    names = whole_pairs(spec)
    chosen = {module: rank if isinstance(rank, int) else rank[module] for module, _, _ in names}
    for module, value in chosen.items():
        if value < 1:
            raise ValueError(f"Expected a rank from 1 for '{module}', got {value}.")
    # A has its rank first, B second, and convolutions have more axes behind
    axes = {a: (chosen[module], 0) for module, a, _ in names}
    axes |= {b: (chosen[module], 1) for module, _, b in names}
    tensors = tuple(
        _resized(tensor, *axes[tensor.name]) if tensor.name in axes else tensor
        for tensor in spec.tensors
    )
    return replace(spec, tensors=tensors, ranks={**spec.ranks, **chosen})


def _matrix(tensor: npt.NDArray[np.float32]) -> Array:
    """Widen a factor, and flatten what a convolution has behind its first axis."""
    return tensor.reshape(len(tensor), -1).astype(np.float64)


def _shaped(name: str, matrix: Array, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Round a factor, and give it its tensor's shape."""
    if matrix.size != np.prod(shape):
        raise AdapterMismatchError(
            f"Expected {shape} for '{name}', got a factor of {matrix.shape}."
        )
    return matrix.astype(np.float32).reshape(shape)


def _resized(tensor: TensorSpec, rank: int, axis: int) -> TensorSpec:
    """Change the length of one axis."""
    return replace(tensor, shape=(*tensor.shape[:axis], rank, *tensor.shape[axis + 1 :]))
