"""AdapterState: the trainable tensors of a model as one float32 vector with names.

One contiguous vector, with a view per tensor, makes every piece of arithmetic a plain
vector operation, and the wire's payload the vector itself.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedpeft_app.errors import AdapterMismatchError

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor of an adapter.

    Attributes:
        name: The parameter's name in the model.
        shape: Its shape.
        head: Whether it belongs to the task head, which no pre-trained weight backs.
        frozen: Whether it only travels to the nodes, which never train it: what aggregation
            adds to the frozen model.
    """

    name: str
    shape: tuple[int, ...]
    head: bool = False
    frozen: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class AdapterSpec:
    """What an adapter is made of; equal specs mean that states can be combined.

    Attributes:
        method: Name of the PEFT method.
        backbone: Fingerprint of the frozen model it belongs to.
        tensors: The tensors in the order in which they lie in the vector.
        ranks: Module name → rank, for methods that have ranks.
        scaling: Factor of the low-rank update (alpha / r for LoRA); 1.0 where none.
    """

    method: str
    backbone: str
    tensors: tuple[TensorSpec, ...]
    ranks: Mapping[str, int]
    scaling: float = 1.0

    def __hash__(self) -> int:
        """Hash the fingerprint: a mapping among the fields has no hash of its own."""
        return hash(self.fingerprint)

    @cached_property
    def size(self) -> int:
        """Number of values, frozen ones among them."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that differ whenever anything in the spec does."""
        canonical = json.dumps(self.to_json(), sort_keys=True).encode()
        return hashlib.sha256(canonical).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Describe the spec as JSON values; equal specs give equal values."""
        return {**asdict(self), "ranks": dict(self.ranks), "scaling": float(self.scaling)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "AdapterSpec":
        """Read what `to_json` wrote, before or after it was JSON text.

        Raises:
            KeyError: If a field is missing.
        """
        tensors = tuple(
            TensorSpec(
                name=row["name"],
                shape=tuple(row["shape"]),
                head=row["head"],
                frozen=row["frozen"],
            )
            for row in value["tensors"]
        )
        return cls(
            method=value["method"],
            backbone=value["backbone"],
            tensors=tensors,
            ranks=dict(value["ranks"]),
            scaling=value["scaling"],
        )


@dataclass(frozen=True, kw_only=True)
class AdapterState:
    """The value of an adapter (or of the difference of two), immutable by convention.

    Attributes:
        spec: What the numbers mean.
        vector: Every tensor, flattened and concatenated in the order of the spec:
            `(spec.size,)`, float32, contiguous.

    Raises:
        AdapterMismatchError: If the vector does not have the size of the spec, or is not
            contiguous float32.
    """

    spec: AdapterSpec
    vector: Vector

    def __post_init__(self) -> None:
        if self.vector.dtype != np.float32 or self.vector.shape != (self.spec.size,):
            raise AdapterMismatchError(
                f"Expected a float32 vector of {self.spec.size} values for this "
                f"{self.spec.method} adapter, got {self.vector.dtype} {self.vector.shape}."
            )
        if not self.vector.flags.c_contiguous:
            raise AdapterMismatchError(
                f"Expected a contiguous vector for this {self.spec.method} adapter, got one with "
                f"strides {self.vector.strides}. Copy it first."
            )

    def items(self) -> Iterator[tuple[TensorSpec, Vector]]:
        """Walk over the tensors: (spec, view with the tensor's shape)."""
        start = 0
        for tensor in self.spec.tensors:
            yield tensor, self.vector[start : start + tensor.size].reshape(tensor.shape)
            start += tensor.size

    def tensors(self) -> dict[str, Vector]:
        """Give name → view with the tensor's shape."""
        return {tensor.name: view for tensor, view in self.items()}

    @classmethod
    def zeros(cls, spec: AdapterSpec) -> "AdapterState":
        """Make a state of zeros, to be filled or to stand for nothing."""
        return cls(spec=spec, vector=np.zeros(spec.size, dtype=np.float32))

    @classmethod
    def from_tensors(
        cls, spec: AdapterSpec, tensors: Mapping[str, npt.NDArray[Any]]
    ) -> "AdapterState":
        """Pack named tensors, strictly.

        Args:
            spec: What is expected.
            tensors: Name → float32 array with the spec's shape.

        Raises:
            AdapterMismatchError: On a missing, unexpected, mis-shaped or non-float32
                tensor; the message names it.
        """
        _check_names(spec, tensors)
        vector = np.empty(spec.size, dtype=np.float32)
        for tensor, view in cls(spec=spec, vector=vector).items():
            array = tensors[tensor.name]
            if array.shape != tensor.shape or array.dtype != np.float32:
                raise AdapterMismatchError(
                    f"Expected float32 {tensor.shape} for '{tensor.name}', "
                    f"got {array.dtype} {array.shape}."
                )
            view[...] = array
        return cls(spec=spec, vector=vector)


def _check_names(spec: AdapterSpec, tensors: Mapping[str, object]) -> None:
    """Refuse missing and unexpected names."""
    expected = {tensor.name for tensor in spec.tensors}
    missing, extra = sorted(expected - set(tensors)), sorted(set(tensors) - expected)
    if missing or extra:
        raise AdapterMismatchError(
            f"Tensors do not match the {spec.method} adapter: "
            f"missing {missing or 'none'}, unexpected {extra or 'none'}."
        )
