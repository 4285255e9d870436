"""Which parameters of a model are its pre-trained body, and which are a head for the task."""

from collections.abc import Collection
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from fedpeft_app.errors import BackboneError

_KINDS = {  # kind → what transformers has of it
    "sequence-classification": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "image-classification": MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "causal-lm": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}
_CLASS_TOKENS = ("cls_token", "class_embedding")  # in ViT and its kin, in CLIP's image tower


def body(model: Any) -> set[str]:
    """Name the parameters of the pre-trained body.

    Args:
        model: A transformers model, or a `PooledForSequenceClassification`.

    Returns:
        What lies under `model.base_model_prefix`; where that names no module (CLIP's image
        classifier), what lies in the largest one.
    """
    names = {name for name, _ in model.named_parameters()}
    prefix = f"{model.base_model_prefix}."
    if not any(name.startswith(prefix) for name in names):
        prefix = f"{_largest_child(model)}."
    return {name for name in names if name.startswith(prefix)}


def head(model: Any, kind: str, fresh: Collection[str]) -> frozenset[str]:
    """Name the parameters that must be trained, sent and saved.

    Args:
        model: As for `body`.
        kind: A key of `backbone.load.AUTO_CLASSES`.
        fresh: Names of the parameters that the checkpoint did not hold.

    Returns:
        The fresh ones, and for classifiers all that lies outside the body. What a causal
        language model has outside its body is pre-trained like the rest.
    """
    names = {name for name, _ in model.named_parameters()}
    outside = set() if kind == "causal-lm" else names - body(model)
    return frozenset(names & set(fresh) | outside)


def require_kind(config: Any, kind: str) -> None:
    """Refuse a model that is not made for what is asked of it.

    Args:
        config: A transformers config.
        kind: A key of `backbone.load.AUTO_CLASSES`.

    Raises:
        BackboneError: If transformers has no such model of this type, or it reads in both
            directions and is asked to write.
    """
    fits = [name for name, types in _KINDS.items() if config.model_type in types]
    both_ways = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if both_ways and not getattr(config, "is_decoder", False) and "causal-lm" in fits:
        fits.remove("causal-lm")
    if kind not in fits:
        raise BackboneError(
            f"The task needs a model for {kind}, and a '{config.model_type}' is none. It is for: "
            f"{', '.join(fits) or 'none of the tasks here'}. Change task or model.name."
        )


def require_encoder(model: Any, kind: str, pooling: str) -> None:
    """Refuse to pool what is not an encoder's one sequence of hidden states.

    Args:
        model: A transformers model without a head.
        kind: A key of `backbone.load.AUTO_CLASSES`.
        pooling: "mean" or "cls".

    Raises:
        BackboneError: If it does not fit.
    """
    config = model.config
    writes = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    decoder = writes and config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    two_parts = getattr(config, "is_encoder_decoder", False)
    several_sizes = not hasattr(config, "hidden_size")  # CLIP's two towers, ConvNeXt's stages
    if kind == "causal-lm" or decoder or two_parts or several_sizes:
        raise BackboneError(
            f"model.pooling = '{pooling}' is for encoders with one sequence of hidden states; "
            f"'{config.model_type}' is none. Use 'model'."
        )
    names = (name for name, _ in model.named_parameters())
    images = kind == "image-classification"
    if images and pooling == "cls" and not any(name.endswith(_CLASS_TOKENS) for name in names):
        raise BackboneError(
            f"model.pooling = 'cls' is for models with a class token; '{config.model_type}' has "
            f"patches only. Use 'mean' or 'model'."
        )


def _largest_child(model: Any) -> str:
    """Name the child module with most parameters."""
    sizes: dict[str, int] = {
        name: sum(parameter.numel() for parameter in child.parameters())
        for name, child in model.named_children()
    }
    return max(sizes, key=lambda name: sizes[name])
