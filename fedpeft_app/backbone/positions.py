"""How long a text and how large an image a model takes, by its config; imports nothing heavy."""

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
    before = f", {prompt} of them the prompt's (method.prompt-length)" if prompt else ""
    problem = (
        f"the model has positions for {most} tokens{before}; set at most {max(most - prompt, 0)}."
    )
    raise ConfigError([Fault(key="data.max-length", value=max_length, problem=problem)])


def require_whole_patches(settings: Mapping[str, Any], size: int) -> None:
    """Refuse images of which a model would not see the last pixels.

    Args:
        settings: As for `positions`.
        size: Pixels that an image is resized to, height and width; 0 = the model's own.

    Raises:
        ConfigError: If they are not a whole number of the model's patches.
    """
    patch = settings.get("vision_config", settings).get("patch_size")
    if not isinstance(patch, int) or size % patch == 0:
        return
    near = [count * patch for count in (size // patch, size // patch + 1) if count]
    problem = (
        f"the model sees patches of {patch} x {patch} pixels, and what is left over at the edge "
        f"is lost; set a multiple, such as {' or '.join(map(str, near))}."
    )
    raise ConfigError([Fault(key="data.image-size", value=size, problem=problem)])
