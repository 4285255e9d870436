"""A model's modules without its weights: what a method would make of it, before any download."""

from typing import Any

import torch
import transformers

from fedpeft_app.backbone.anatomy import head, require_encoder, require_kind
from fedpeft_app.backbone.known import KNOWN
from fedpeft_app.backbone.load import AUTO_CLASSES, BODY_CLASS
from fedpeft_app.backbone.locate import LocatedModel
from fedpeft_app.errors import BackboneError
from fedpeft_app.portable.pooling import PooledForSequenceClassification


def config_of(located: LocatedModel) -> Any:
    """Read a located model's config.

    Raises:
        BackboneError: If transformers does not know the model.
    """
    try:
        return transformers.AutoConfig.from_pretrained(str(located.path))
    except Exception as error:  # transformers lets through whatever its parsers raise
        raise BackboneError(f"Cannot read the config in {located.path}: {error}") from error


def known_config(name: str) -> Any:
    """Make the config of a known architecture.

    Args:
        name: A key of `KNOWN`.
    """
    return transformers.AutoConfig.for_model(**KNOWN[name].config)


def empty_model(
    config: Any, kind: str, *, labels: int = 2, pooling: str = "model"
) -> tuple[Any, frozenset[str]]:
    """Build a model on the meta device.

    Args:
        config: A transformers config.
        kind: A key of `AUTO_CLASSES`.
        labels: Outputs of a classifier's head.
        pooling: "model", "mean" or "cls".

    Returns:
        The model, and the names of its head's parameters.

    Raises:
        BackboneError: If transformers has no such model, or it has nothing to pool.
    """
    if pooling == "model":
        require_kind(config, kind)
    if kind != "causal-lm":
        config.num_labels = labels
    with torch.device("meta"):
        if pooling == "model":
            model = _build(AUTO_CLASSES[kind], config, kind)
        else:
            inner = _build(BODY_CLASS, config, kind)
            require_encoder(inner, kind, pooling)
            model = PooledForSequenceClassification(inner, labels, pooling)
    return model, head(model, kind, fresh=())


def _build(auto_class: Any, config: Any, kind: str) -> Any:
    """Let transformers build a model; where a type has several for a kind, the usual one."""
    config.architectures = config.architectures or []  # None is more than transformers can read
    try:
        return auto_class.from_config(config)
    except Exception as error:  # transformers lets through whatever its parsers raise
        raise BackboneError(
            f"Cannot build a model of type '{config.model_type}' for {kind}: {error}"
        ) from error
