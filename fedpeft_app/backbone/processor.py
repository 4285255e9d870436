"""What turns raw examples into a model's inputs: its tokenizer, or its image processor."""

from typing import Any

import transformers

from fedpeft_app.backbone.locate import LocatedModel
from fedpeft_app.errors import BackboneError


def load_processor(located: LocatedModel, kind: str) -> Any:
    """Load what a model of a kind reads its examples with.

    Args:
        located: The model's folder.
        kind: A key of `backbone.load.AUTO_CLASSES`.

    Returns:
        An image processor for "image-classification", a tokenizer for all others.

    Raises:
        BackboneError: If the folder has none.
    """
    if kind == "image-classification":
        return load_image_processor(located)
    return load_tokenizer(located)


def load_tokenizer(located: LocatedModel) -> Any:
    """Load the tokenizer that belongs to a model.

    Args:
        located: The model's folder.

    Returns:
        The tokenizer; one without a padding token pads with its end-of-text token.

    Raises:
        BackboneError: If the folder has none.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(located.path))
    except Exception as error:  # transformers lets through whatever its parsers raise
        raise BackboneError(f"No usable tokenizer in {located.path}: {error}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # made up where files are missing
        raise BackboneError(
            f"Expected tokenizer files (tokenizer.json or vocab.txt, say) in {located.path}, "
            f"found none that hold a vocabulary. Save the model's tokenizer there."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_image_processor(located: LocatedModel) -> Any:
    """Load the image processor that belongs to a model: sizes, mean and deviation of pixels.

    Args:
        located: The model's folder.

    Raises:
        BackboneError: If the folder has none.
    """
    try:
        return transformers.AutoImageProcessor.from_pretrained(
            str(located.path),
            backend="pil",  # torchvision is no requirement
        )
    except Exception as error:  # transformers lets through whatever its parsers raise
        raise BackboneError(
            f"No usable image processor (preprocessor_config.json) in {located.path}: {error}"
        ) from error
