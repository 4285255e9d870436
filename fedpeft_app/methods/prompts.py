"""`prompt`: visual prompts in every layer of image models, soft prompts before texts.

References:
    Jia et al. 2022, arXiv 2203.12119 (VPT-Deep and VPT-Shallow).
    Lester et al. 2021, arXiv 2104.08691 (soft prompts).
"""

import math
from typing import Any

from fedpeft_app.errors import BackboneError
from fedpeft_app.methods.method import Adaptation, MethodSettings, refuse_unused
from fedpeft_app.methods.soft_prompts import adapt_soft_prompt
from fedpeft_app.methods.targets import find_blocks
from fedpeft_app.methods.wrap import takes_images
from fedpeft_app.portable.visual_prompts import CHILD, attach

_PROMPTABLE = ("vit", "deit", "dinov2", "clip", "clip_vision_model", "beit")


class Prompt:
    """Trained tokens: PEFT's soft prompts on text, VPT-Deep on images."""

    name = "prompt"
    learning_rate = 1e-2
    head_learning_rate = 1e-2
    peft = True
    merges = False

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Put prompts before the text, or into every block of the image model.

        Args:
            model: A transformers model; it is changed in place.
            head: Names of the head's parameters.
            settings: The prompt's length; options, for text, are arguments of
                `peft.PromptTuningConfig`.

        Raises:
            BackboneError: If the model cannot take prompts.
        """
        if takes_images(model):
            return _adapt_visual_prompts(self.name, model, head, settings, deep=True)
        return adapt_soft_prompt(self.name, model, head, settings)


class PromptShallow:
    """Trained tokens that enter the first block of an image model (VPT-Shallow)."""

    name = "prompt-shallow"
    learning_rate = 1e-2
    head_learning_rate = 1e-2
    peft = False
    merges = False

    def adapt(self, model: Any, head: frozenset[str], settings: MethodSettings) -> Adaptation:
        """Put prompts into the first block.

        Args:
            model: A transformers model for images; it is changed in place.
            head: Names of the head's parameters.
            settings: The prompt's length.

        Raises:
            BackboneError: If the model cannot take prompts.
        """
        if not takes_images(model):
            raise BackboneError(
                f"method.name = '{self.name}' is for images, and {type(model).__name__} takes "
                f"text, where prompts always enter first. Use 'prompt'."
            )
        return _adapt_visual_prompts(self.name, model, head, settings, deep=False)


def _adapt_visual_prompts(
    name: str, model: Any, head: frozenset[str], settings: MethodSettings, *, deep: bool
) -> Adaptation:
    """Freeze everything but the head, and attach visual prompts."""
    refuse_unused(name, settings, "dropout", "targets", "layers", "options")
    config = model.config
    if config.model_type not in _PROMPTABLE:
        raise BackboneError(
            f"method.name = '{name}' needs a class token and blocks that see all tokens, and "
            f"'{config.model_type}' is not known to have them (Swin sees windows of patches "
            f"only). Use 'bias' or 'bottleneck', or one of: {', '.join(_PROMPTABLE)}."
        )
    if any("relative_position_bias" in path for path, _ in model.named_modules()):
        raise BackboneError(
            f"method.name = '{name}' adds tokens without a place in the image, and this "
            f"{type(model).__name__} has a position bias for pairs of patches. Use 'bias' or "
            f"'bottleneck'."
        )
    vision = getattr(config, "vision_config", config)
    patch = vision.patch_size
    layout = {
        "blocks": find_blocks(model, head),
        "length": settings.prompt_length,
        "size": vision.hidden_size,
        "patch": math.prod(patch) if isinstance(patch, list | tuple) else patch**2,
        "deep": deep,
    }
    for path, parameter in model.named_parameters():
        parameter.requires_grad_(path in head)
    attach(model, **layout)
    return Adaptation(model=model, portable=CHILD, layout=layout)
