"""(IA)³ through PEFT: one factor per key, value and inner activation of the MLP.

Reference:
    Liu et al. 2022, arXiv 2205.05638, section 3.3.
"""

from typing import Any

import peft

from fedpeft_app.methods.architectures import BLOCKS
from fedpeft_app.methods.method import Adaptation, MethodSettings, refuse_unused
from fedpeft_app.methods.targets import by_role, chosen_blocks, find_targets
from fedpeft_app.methods.wrap import shortest_names, wrap_layers


class Ia3:
    """Rescale activations; `method.options` are further arguments of `peft.IA3Config`."""

    name = "ia3"
    learning_rate = 5e-3
    head_learning_rate = 1e-2
    peft = True
    merges = True

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Wrap the model by PEFT.

        Args:
            model: A transformers model; it is changed in place.
            head: Names of the head's parameters.
            settings: Targets and layers. The last layer of an MLP has its input rescaled,
                every other its output.

        Raises:
            BackboneError: If a target names no module outside the head, or PEFT refuses.
        """
        refuse_unused(self.name, settings, "dropout")
        targets = find_targets(model, head, settings, ("key-value", "mlp-output"))
        last = _last_of_mlp(model, head, settings)
        by_output = shortest_names(model, head, [name for name in targets if name not in last])
        by_input = shortest_names(model, head, [name for name in targets if name in last])
        wrapped = wrap_layers(
            peft.IA3Config,
            model,
            head,
            self.name,
            settings,
            targets,
            target_modules=[*by_output, *by_input],
            feedforward_modules=by_input,
        )
        return Adaptation(model=wrapped)


def _last_of_mlp(model: Any, head: frozenset[str], settings: MethodSettings) -> set[str]:
    """Name the layers whose input is rescaled; none where the architecture is unknown."""
    if model.config.model_type not in BLOCKS:
        return set()
    return set(by_role(model, head, chosen_blocks(model, head, settings.layers), ["mlp-output"]))
