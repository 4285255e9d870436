"""How long a text and how large an image a model takes, by its config; imports nothing heavy."""

import math
from collections.abc import Mapping
from typing import Any

from fedpeft_app.errors import ConfigError, Fault

_NAMES = ("max_position_embeddings", "n_positions")  # the second as GPT-2, GPT-J and CTRL have it
# Their positions count from the padding token's id plus 1, as fairseq's do.
_PADDED = frozenset(
    {
        "camembert",
        "data2vec-text",
        "esm",
        "ibert",
        "layoutlmv3",
        "lilt",
        "longformer",
        "luke",
        "markuplm",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
_USUAL_PAD = 1  # fairseq's
# Image models that lose nothing at the edge: they pad, or their patches are not of pixels.
_PADDING = frozenset(
    {
        "dinat",
        "donut-swin",
        "focalnet",
        "hiera",
        "mobilevit",
        "mobilevitv2",
        "poolformer",
        "swin",
        "swinv2",
    }
)


def positions(settings: Mapping[str, Any]) -> int | None:
    """Give the longest input of a model of text.

    Args:
        settings: Its config, as config.json or `config.to_dict()` has it.

    Returns:
        Tokens, special and prompt ones included; None where its config names no limit.
    """
    settings = settings.get("text_config", settings)
    if not settings.get("position_biased_input", True):
        return None  # DeBERTa with distances alone, which reach as far as its texts do
    found = next((settings[name] for name in _NAMES if name in settings), None)
    if not isinstance(found, int) or found < 1:
        return None
    if settings.get("model_type") not in _PADDED:
        return found
    pad = settings.get("pad_token_id")
    return found - 1 - (_USUAL_PAD if pad is None else int(pad))


def require_positions(settings: Mapping[str, Any], max_length: int, prompt: int = 0) -> None:
    """Refuse texts that are longer than a model's positions.

    Args:
        settings: As for `positions`.
        max_length: Tokens kept of each text.
        prompt: Tokens that the method puts before it.

    Raises:
        ConfigError: If they do not fit.
    """
    most = positions(settings)
    if most is None or max_length + prompt <= most:
        return
    text = ("data.max-length", max_length, "text")
    before = ("method.prompt-length", prompt, "prompt")
    longer, (other, kept, owner) = (before, text) if prompt > max_length else (text, before)
    key, value, _ = longer
    kept = kept if kept < most else 0  # it is too long by itself: one fault at a time
    taken = f", {kept} of them the {owner}'s ({other})" if kept else ""
    problem = f"the model has positions for {most} tokens{taken}; set at most {most - kept}."
    raise ConfigError([Fault(key=key, value=value, problem=problem)])


def require_whole_patches(settings: Mapping[str, Any], size: int) -> None:
    """Refuse images of which a model would not see the last pixels.

    Args:
        settings: As for `positions`.
        size: Pixels that an image is resized to, height and width; 0 = the model's own.

    Raises:
        ConfigError: If they are not a whole number of the model's patches.
    """
    vision = settings.get("vision_config", settings)
    patch = vision.get("patch_size") or 1  # a convolutional model has none
    sides = patch if isinstance(patch, list | tuple) else (patch, patch)
    whole = math.lcm(*sides)
    if size % whole == 0 or vision.get("model_type") in _PADDING:
        return
    near = [count * whole for count in (size // whole, size // whole + 1) if count]
    problem = (
        f"the model sees patches of {' x '.join(map(str, sides))} pixels, and what is left over at "
        f"the edge is lost; set a multiple, such as {' or '.join(map(str, near))}."
    )
    raise ConfigError([Fault(key="data.image-size", value=size, problem=problem)])
