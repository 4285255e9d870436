"""`method.targets` and `method.layers` → the full names of the modules that are meant."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.architectures import BLOCKS, Block
from fedpeft_app.methods.method import MethodSettings

_SYMBOLS = ("auto", "attention", "mlp", "both")  # what the table translates
_COUNT = re.compile(r"(first|last):(\d+)")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def find_targets(
    model: Any,
    head: frozenset[str],
    settings: MethodSettings,
    auto: Sequence[str] = ("query-value",),
) -> list[str]:
    """Resolve which linear layers a method adapts.

    Args:
        model: A transformers model.
        head: Names of the head's parameters; their layers are never hit.
        settings: Its `targets` and `layers` are read.
        auto: Roles of `Block.layers` that "auto" stands for.

    Returns:
        Full module names, in the model's order, at least one. Poolers, embeddings and what
        else lies outside the blocks is hit by a name only if that fits nothing inside them.

    Raises:
        BackboneError: If a name fits no layer, the architecture is not in the table, or
            the model has no such layers.
    """
    blocks = chosen_blocks(model, head, settings.layers)
    if settings.targets == "all-linear":
        found = [name for name in linear_modules(model, head) if block_of(name, blocks)]
    elif settings.targets in _SYMBOLS:
        roles = auto if settings.targets == "auto" else (settings.targets,)
        found = by_role(model, head, blocks, roles)
    else:
        found = _by_name(model, head, settings, blocks)
    if not found:
        raise BackboneError(
            f"Expected linear layers in the blocks of {type(model).__name__}, found none. "
            f"method.targets takes names as well: {_choice(model, head)}."
        )
    return found


def require_ranks(name: str, model: Any, ranks: Mapping[str, int]) -> None:
    """Refuse ranks that the matrix of a layer cannot have.

    Args:
        name: The method's.
        model: A model, adapted or not.
        ranks: Full name of a layer → rank r of its factors.

    Raises:
        BackboneError: If one is more than the rows or the columns of its layer.
    """
    for path, rank in ranks.items():
        rows, columns = _matrix(model.get_submodule(path))
        if rank > min(rows, columns):
            raise BackboneError(
                f"Expected method.rank to be at most {min(rows, columns)} for method.name = "
                f"'{name}', as '{path}' is {rows} × {columns}, got {rank}. Lower it."
            )


def _matrix(layer: Any) -> tuple[int, int]:
    """Give the sizes of a layer's matrix; the weights of quantised layers do not have them."""
    if hasattr(layer, "in_features"):
        return layer.out_features, layer.in_features
    rows, columns = layer.weight.shape  # of an embedding, or GPT-2's Conv1D
    return rows, columns


def by_role(
    model: Any, head: frozenset[str], blocks: Sequence[str], roles: Sequence[str]
) -> list[str]:
    """Name the layers that play a role in blocks, by the table of architectures.

    Args:
        model: A transformers model.
        head: Names of the head's parameters.
        blocks: Full names of blocks.
        roles: As `Block.layers` takes them.

    Raises:
        BackboneError: If the architecture is not in the table, or differs from it.
    """
    block = block_of_architecture(model, head)
    modules = dict(model.named_modules())
    found = []
    for role in roles:
        wanted = [f"{path}.{name}" for path in blocks for name in block.layers(role)]
        present = [name for name in wanted if name in modules]
        if {block_of(name, blocks) for name in present} != set(blocks):
            raise BackboneError(
                f"Expected {' or '.join(block.layers(role))} in every block of "
                f"{type(model).__name__}, found that in {len(present)} of {len(blocks)} blocks. "
                f"method.targets takes names as well: {_choice(model, head)}."
            )
        found += present
    order = {name: index for index, name in enumerate(modules)}
    return sorted(set(found), key=lambda name: order[name])


def block_of_architecture(model: Any, head: frozenset[str]) -> Block:
    """Find a model's row in the table of architectures.

    Raises:
        BackboneError: If it has none; the message lists the layers that may be named.
    """
    kind = model.config.model_type
    if kind not in BLOCKS:
        raise BackboneError(
            f"Nothing is known about the layers of the architecture '{kind}'. Set "
            f"method.targets to 'all-linear', or to some of: {_choice(model, head)}. "
            f"Known architectures: {', '.join(BLOCKS)}."
        )
    return BLOCKS[kind]


def _by_name(
    model: Any, head: frozenset[str], settings: MethodSettings, blocks: Sequence[str]
) -> list[str]:
    """Find the layers whose names end with given ones, within the blocks where any do."""
    layers = [*_embeddings(model), *linear_modules(model, head)]  # those, only if named
    named = [name.strip() for name in settings.targets.split(",") if name.strip()]
    found = set()
    for target in named:
        fitting = [name for name in layers if f".{name}".endswith(f".{target}")]
        inside = [name for name in fitting if block_of(name, blocks)]
        outside = [name for name in fitting if not block_of(name, find_blocks(model, head))]
        if settings.layers == "all" and not inside:
            inside = outside
        if not inside:
            where = "" if settings.layers == "all" else f" in the layers '{settings.layers}'"
            raise BackboneError(
                f"method.targets names '{target}', which is no linear or embedding layer of "
                f"{type(model).__name__}{where}. Take 'auto', 'attention', 'mlp', 'both', "
                f"'all-linear', or some of: {_choice(model, head)}."
            )
        found.update(inside)
    return [name for name in layers if name in found]


def linear_modules(model: Any, head: frozenset[str] = frozenset()) -> list[str]:
    """List a model's linear layers by full name, GPT-2's Conv1D among them.

    Args:
        model: A transformers model.
        head: Names of the head's parameters, whose layers are left out.
    """
    return [
        name
        for name, module in model.named_modules()
        if (isinstance(module, torch.nn.Linear) or is_transposed(module))
        and f"{name}.weight" not in head
    ]


def _embeddings(model: Any) -> list[str]:
    """List a model's embedding layers by full name."""
    modules = model.named_modules()
    return [name for name, module in modules if isinstance(module, torch.nn.Embedding)]


def is_transposed(module: Any) -> bool:
    """Say whether a layer is GPT-2's Conv1D: a linear layer that stores W as (in, out)."""
    return type(module).__name__ == "Conv1D"


def _choice(model: Any, head: frozenset[str]) -> str:
    """Spell out the last names of the layers that may be named."""
    return ", ".join(sorted({name.rpartition(".")[2] for name in linear_modules(model, head)}))


def find_blocks(model: Any, head: frozenset[str] = frozenset()) -> list[str]:
    """List a model's transformer blocks by full name, in order.

    A block is a child of a `ModuleList` that has attention in it, and no further such child:
    Swin's stages hold blocks, ALBERT's groups hold the one block that all layers share.

    Args:
        model: A transformers model.
        head: Names of the head's parameters; what lies among them is no block.
    """
    candidates = [
        f"{path}.{child}"
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList)
        for child, block in module.named_children()
        if any(_is_attention(name) for name, _ in block.named_modules())
    ]
    return [
        name
        for name in candidates
        if not any(other.startswith(f"{name}.") for other in candidates)
        and not any(parameter.startswith(f"{name}.") for parameter in head)
    ]


def _is_attention(name: str) -> bool:
    """Say whether a module's name is that of an attention, in any of its spellings."""
    return any(part in {"attention", "attn", "self_attn"} for part in name.split("."))


def block_of(name: str, blocks: Iterable[str]) -> str:
    """Tell which of some blocks a module or parameter lies in; empty if in none."""
    return next((block for block in blocks if name.startswith(f"{block}.")), "")


def chosen_blocks(model: Any, head: frozenset[str], layers: str) -> list[str]:
    """Translate `method.layers` into blocks.

    Args:
        model: A transformers model.
        head: Names of the head's parameters.
        layers: "all", "first:K", "last:K", or numbers and ranges from 0 ("0-3,5").

    Returns:
        Full names of the chosen blocks, in the model's order.

    Raises:
        BackboneError: If a number lies beyond the model's depth, or the text chooses nothing.
    """
    blocks = find_blocks(model, head)
    if layers == "all":
        return blocks
    chosen = set(_numbers(layers, len(blocks)))
    if not chosen or not chosen <= set(range(len(blocks))):
        raise BackboneError(
            f"method.layers = '{layers}' does not fit {type(model).__name__}, which has "
            f"{len(blocks)} blocks, 0 to {len(blocks) - 1}. Take 'all', 'first:K', 'last:K' "
            f"with K from 1 to {len(blocks)}, or numbers and ranges such as '0-3,5'."
        )
    return [block for number, block in enumerate(blocks) if number in chosen]


def _numbers(layers: str, depth: int) -> Iterator[int]:
    """Spell out a choice of layers; -1 stands for what cannot be."""
    if count := _COUNT.fullmatch(layers):
        end, number = count[1], int(count[2])
        yield from range(number) if end == "first" else range(depth - number, depth)
        return
    for part in layers.split(","):
        if not (span := _RANGE.fullmatch(part.strip())):
            yield -1
            return
        yield from range(int(span[1]), int(span[2] or span[1]) + 1) or (-1,)
