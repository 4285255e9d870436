"""VeRA through PEFT: two trained vectors per layer around one frozen random projection.

Reference:
    Kopiczko et al. 2024, arXiv 2310.11454, equation 2: h = W₀x + Λ_b B Λ_d A x.
"""

from typing import Any

import peft

from fedpeft_app.methods.method import Adaptation, MethodSettings
from fedpeft_app.methods.targets import find_targets
from fedpeft_app.methods.wrap import wrap_layers


class Vera:
    """Vector-based random matrix adaptation.

    A and B are drawn from PEFT's fixed key (`projection_prng_key` in `method.options`), so all
    nodes have the same without sending them. Its rank costs one number each, so that ranks
    are far larger than LoRA's: PEFT's 256 unless `method.options` sets `r`.
    """

    name = "vera"
    learning_rate = 1e-2
    head_learning_rate = 1e-2
    peft = True
    merges = True

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Wrap the model by PEFT.

        Args:
            model: A transformers model; it is changed in place.
            head: Names of the head's parameters.
            settings: Dropout, targets and layers.

        Raises:
            BackboneError: If a target names no module outside the head, or PEFT refuses.
        """
        targets = find_targets(model, head, settings)
        wrapped = wrap_layers(
            peft.VeraConfig,
            model,
            head,
            self.name,
            settings,
            targets,
            vera_dropout=settings.dropout,
        )
        return Adaptation(model=wrapped)
