"""A model's modules without its weights: what a method would make of it, before any download."""

from pathlib import Path
from typing import Any

import torch
import transformers

from fedpeft_app.backbone.anatomy import head, require_encoder, require_kind
from fedpeft_app.backbone.known import KNOWN
from fedpeft_app.backbone.load import AUTO_CLASSES, BODY_CLASS, DTYPES, checkpoint_activations
from fedpeft_app.backbone.locate import LocatedModel
from fedpeft_app.errors import BackboneError
from fedpeft_app.portable.pooling import PooledForSequenceClassification


def config_of(located: LocatedModel) -> Any:
    """Read a located model's config; raises as `config_in` does."""
    return config_in(located.path)


def config_in(folder: Path) -> Any:
    """Read the config.json of a folder, which needs no weights.

    Raises:
        BackboneError: If transformers does not know the model.
    """
    try:
        return transformers.AutoConfig.from_pretrained(str(folder))
    except Exception as error:  # transformers lets through whatever its parsers raise
        raise BackboneError(f"Cannot read the config in {folder}: {error}") from error


def known_config(name: str) -> Any:
    """Make the config of a known architecture.

    Args:
        name: A key of `KNOWN`.
    """
    return transformers.AutoConfig.for_model(**KNOWN[name].config)


def empty_model(
    config: Any,
    kind: str,
    *,
    labels: int = 2,
    pooling: str = "model",
    dtype: str = "float32",
    gradient_checkpointing: bool = False,
) -> tuple[Any, frozenset[str]]:
    """Build a model on the meta device.

    Args:
        config: A transformers config.
        kind: A key of `AUTO_CLASSES`.
        labels: Outputs of a classifier's head.
        pooling: "model", "mean" or "cls".
        dtype: A key of `DTYPES`.
        gradient_checkpointing: As for `load_model`.

    Returns:
        The model, and the names of its head's parameters.

    Raises:
        BackboneError: If transformers has no such model, or it has nothing to pool, or cannot
            compute activations again.
    """
    if pooling == "model":
        require_kind(config, kind)
    if kind != "causal-lm":
        config.num_labels = labels
    with torch.device("meta"):
        if pooling == "model":
            model = _build(AUTO_CLASSES[kind], config, kind).to(DTYPES[dtype])
        else:
            inner = _build(BODY_CLASS, config, kind).to(DTYPES[dtype])
            require_encoder(inner, kind, pooling)
            model = PooledForSequenceClassification(inner, labels, pooling)
    if gradient_checkpointing:
        checkpoint_activations(model)
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
