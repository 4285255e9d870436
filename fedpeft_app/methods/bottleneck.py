"""Bottleneck adapters, per layer or one for all; the modules are `portable.bottleneck`'s.

References:
    Houlsby et al. 2019, arXiv 1902.00751. Pfeiffer et al. 2021, arXiv 2005.00247.
    He et al. 2022, arXiv 2110.04366. Sun et al. 2022, arXiv 2210.01708 (FedPEFT).
"""

from dataclasses import dataclass
from typing import Any

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.method import Adaptation, MethodSettings, refuse_unused
from fedpeft_app.methods.targets import (
    block_of_architecture,
    by_role,
    chosen_blocks,
    is_transposed,
)
from fedpeft_app.portable.bottleneck import CHILD, attach


@dataclass(frozen=True, slots=True, kw_only=True)
class BottleneckAdapters:
    """Small residual networks in every chosen block, and the head.

    Attributes:
        name: The variant's name.
        roles: The layers that adapters follow, as `Block.layers` takes them; empty for
            adapters beside the MLP.
        share: The default width is the hidden size divided by this.
        shared: Whether all blocks use one adapter.
        learning_rate: Peak rate of the adapters.
        head_learning_rate: Peak rate of the head.
        peft: PEFT has no such method.
        merges: A GELU does not fold into a weight.
    """

    name: str
    roles: tuple[str, ...]
    share: int = 16
    shared: bool = False
    learning_rate: float = 2e-3
    head_learning_rate: float = 1e-2
    peft: bool = False
    merges: bool = False

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Freeze everything but the head, and attach the adapters.

        Args:
            model: A transformers model; it is changed in place.
            head: Names of the head's parameters.
            settings: Width and layers.

        Raises:
            BackboneError: If the architecture is not in the table, or has no such place.
        """
        refuse_unused(self.name, settings, "dropout", "targets", "options")
        blocks = chosen_blocks(model, head, settings.layers)
        sizes = _sizes(model, by_role(model, head, blocks, self.roles or ("mlp-output",)))
        form = "behind"
        if not self.roles:
            form, names = _beside_the_mlp(model, head, blocks, self.name)
            sizes = dict(zip(names, sizes.values(), strict=True))
        if self.shared and len(set(sizes.values())) > 1:
            raise BackboneError(
                f"method.name = '{self.name}' shares one adapter among all blocks, and those of "
                f"{type(model).__name__} differ in size ({min(sizes.values())} to "
                f"{max(sizes.values())}). Use 'bottleneck'."
            )
        places = {
            name: [size, settings.width or max(1, size // self.share)]
            for name, size in sizes.items()
        }
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in head)
        layout = {"places": places, "form": form, "shared": self.shared}
        attach(model, places=places, form=form, shared=self.shared)
        return Adaptation(model=model, portable=CHILD, layout=layout)


def pfeiffer() -> BottleneckAdapters:
    """One adapter a block, behind the MLP."""
    return BottleneckAdapters(name="bottleneck", roles=("mlp-output",))


def houlsby() -> BottleneckAdapters:
    """Two adapters a block, behind the attention and behind the MLP."""
    return BottleneckAdapters(name="bottleneck-houlsby", roles=("attention-output", "mlp-output"))


def parallel() -> BottleneckAdapters:
    """One adapter a block, beside the MLP."""
    return BottleneckAdapters(name="bottleneck-parallel", roles=())


def one_for_all() -> BottleneckAdapters:
    """One adapter in all, behind every MLP: 768→96→768 in ViT-B, as FedPEFT has it."""
    return BottleneckAdapters(name="bottleneck-shared", roles=("mlp-output",), share=8, shared=True)


def _sizes(model: Any, names: list[str]) -> dict[str, int]:
    """Give the width of what each linear layer puts out."""
    layers = {name: model.get_submodule(name) for name in names}
    return {
        name: layer.nf if is_transposed(layer) else layer.out_features
        for name, layer in layers.items()
    }


def _beside_the_mlp(
    model: Any, head: frozenset[str], blocks: list[str], name: str
) -> tuple[str, list[str]]:
    """Find what an adapter beside the MLP is attached to, and in which form."""
    block = block_of_architecture(model, head)
    if not block.beside:
        raise BackboneError(
            f"method.name = '{name}' needs a module with the MLP's input, and the blocks of "
            f"{type(model).__name__} have none. Use 'bottleneck'."
        )
    form = "before-sum" if block.adds_input else "beside"
    return form, [f"{path}.{block.beside}" for path in blocks]
