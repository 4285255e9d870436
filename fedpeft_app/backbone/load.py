"""Load a pre-trained model, and find out which weights are new.

The head of a model is by definition what its checkpoint does not hold, plus whatever lies
outside the pre-trained body. Everything in it must be trained, sent and saved.
"""

import gc
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from fedpeft_app.backbone.anatomy import body, head, require_encoder
from fedpeft_app.backbone.locate import LocatedModel
from fedpeft_app.backbone.processor import load_tokenizer
from fedpeft_app.backbone.quantize import quantized
from fedpeft_app.backbone.quiet import quiet
from fedpeft_app.errors import BackboneError
from fedpeft_app.portable.pooling import PooledForSequenceClassification
from fedpeft_app.seeds import derive_seed

AUTO_CLASSES = {
    "sequence-classification": transformers.AutoModelForSequenceClassification,
    "image-classification": transformers.AutoModelForImageClassification,
    "causal-lm": transformers.AutoModelForCausalLM,
}
BODY_CLASS = transformers.AutoModel  # under a head of our own
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_LAYER = re.compile(r"\.[0-9]+\.")  # "encoder.layer.3.output"
LOADS: Counter[str] = Counter()  # fingerprint → loads in this process; should stay at 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A loaded model, before any method has touched it.

    Attributes:
        located: Where it came from.
        model: The model with a head for the task.
        head: Names of the parameters that no pre-trained weight backs.
        parameters: Number of parameters, head included: what full fine-tuning sends.
        kind: What it is for, a key of `AUTO_CLASSES`.
        pooling: "model", or how a head of our own pools tokens.
    """

    located: LocatedModel
    model: Any
    head: frozenset[str]
    parameters: int
    kind: str = "sequence-classification"
    pooling: str = "model"


def load_model(
    located: LocatedModel,
    *,
    kind: str,
    labels: Sequence[str],
    dtype: str = "float32",
    dropout: float = 0.0,
    pooling: str = "model",
    quantization: str = "none",
    gradient_checkpointing: bool = False,
    seed: int = 0,
) -> Backbone:
    """Load a model with a fresh head for the task.

    Args:
        located: The model's folder.
        kind: A key of `AUTO_CLASSES`.
        labels: Label names in the order of a classifier's outputs, at least two.
        dtype: A key of `DTYPES`, for the frozen weights.
        dropout: Probability of every dropout inside the model; -1 = the checkpoint's own.
        pooling: "model" = the architecture's own head; "mean" or "cls" = a linear layer on
            the mean, or the first, of an encoder's last tokens.
        quantization: "none", "int8" or "nf4" for the frozen weights; needs a GPU.
        gradient_checkpointing: Whether training computes activations twice to save memory.
        seed: Seeds the weights that the checkpoint does not hold.

    Returns:
        The model, in evaluation mode, and which of its parameters are fresh.

    Raises:
        BackboneError: If transformers cannot load it, its weights are not those that its
            config describes, or it has nothing to pool.
    """
    options = {
        "dtype": DTYPES[dtype],
        "attn_implementation": _attention(),
        **quantized(quantization, DTYPES[dtype]),
    }
    used = [0] if torch.cuda.is_available() else []  # where quantised models are made
    with quiet(), torch.random.fork_rng(devices=used):
        torch.manual_seed(derive_seed(seed, "head"))
        model, missing, misshapen = _from_pretrained(located, kind, labels, pooling, options)
    _require_pretrained(model, missing, misshapen, located)
    LOADS[located.fingerprint] += 1
    if dropout >= 0:
        _set_dropout(model, dropout)
    if gradient_checkpointing:
        checkpoint_activations(model)
    if kind != "image-classification" and getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = _pad_token(model, located)
    return Backbone(
        located=located,
        model=model,
        head=head(model, kind, fresh=missing),
        parameters=_count(model),
        kind=kind,
        pooling=pooling,
    )


def release() -> None:
    """Give back the memory of models that nobody holds any more; a GPU's would stay ours."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _from_pretrained(
    located: LocatedModel, kind: str, labels: Sequence[str], pooling: str, options: dict[str, Any]
) -> tuple[Any, set[str], set[str]]:
    """Let transformers build the model; name the parameters it misses, and finds misshapen."""
    own_head = pooling == "model"
    loader = AUTO_CLASSES[kind] if own_head else BODY_CLASS
    if own_head and kind != "causal-lm":
        options = {
            **options,
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
            "ignore_mismatched_sizes": True,  # a head for other labels is replaced
        }
    try:
        model, info = loader.from_pretrained(str(located.path), **options, output_loading_info=True)
    except Exception as error:  # transformers lets through whatever its parsers raise
        raise BackboneError(f"Cannot load the model in {located.path}: {error}") from error
    prefix = "" if own_head else "body."
    if not own_head:
        require_encoder(model, kind, pooling)
        model = _pooled(model, labels, pooling)
    missing = {f"{prefix}{key}" for key in info["missing_keys"]}
    misshapen = {f"{prefix}{row[0]}" for row in info["mismatched_keys"]}
    return model, missing, misshapen


def _pooled(body: Any, labels: Sequence[str], pooling: str) -> Any:
    """Put a pooling classifier on a body, in float32 whatever the body's type."""
    body.config.num_labels = len(labels)
    body.config.id2label = dict(enumerate(labels))
    body.config.label2id = {label: index for index, label in enumerate(labels)}
    return PooledForSequenceClassification(body, len(labels), pooling).eval()


def _attention() -> str:
    """Choose the attention code: on CPUs the fused kernel's backward pass is the slower one."""
    return "sdpa" if torch.cuda.is_available() else "eager"


def _set_dropout(model: Any, probability: float) -> None:
    """Set every dropout of a model, and of whole layers: modules and plain attributes alike."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
        for name, value in vars(module).items():
            if name.endswith(("dropout", "drop_prob")) and isinstance(value, float | int):
                setattr(module, name, probability)


def _pad_token(model: Any, located: LocatedModel) -> int | None:
    """Choose the padding token of a decoder without one: the token its tokenizer pads with.

    Such a model classifies by its last token that is no padding, so both must agree.
    """
    try:
        pad: int | None = load_tokenizer(located).pad_token_id
    except BackboneError:
        pad = getattr(model.config, "eos_token_id", None)
    return pad[0] if isinstance(pad, list) else pad


def _count(model: Any) -> int:
    """Count parameters; transformers knows how many a packed 4-bit tensor holds."""
    inner = getattr(model, "body", model)
    own = {id(parameter) for parameter in inner.parameters()}
    around: int = sum(value.numel() for value in model.parameters() if id(value) not in own)
    return around + int(inner.num_parameters())


def checkpoint_activations(model: Any) -> None:
    """Forget activations of every layer and compute them again in the backward pass.

    Args:
        model: A transformers model, or a `PooledForSequenceClassification`.

    Raises:
        BackboneError: If it cannot do that.
    """
    inner = getattr(model, "body", model)
    enable = getattr(inner, "activation_checkpointing_enable", None)  # its older name warns
    enable = enable or inner.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise BackboneError(
            f"train.gradient-checkpointing: {type(inner).__name__} does not support it "
            f"({error}). Switch it off."
        ) from error
    inner.disable_input_require_grads()  # the reentrant way alone needs gradients of embeddings


def _require_pretrained(
    model: Any, missing: set[str], misshapen: set[str], located: LocatedModel
) -> None:
    """Refuse weights that leave the body random, or do not have its shapes."""
    pretrained = body(model)
    if wrong := sorted(pretrained & misshapen):
        raise BackboneError(
            f"The weights in {located.path} do not have the shapes of its config.json: "
            f"{', '.join(wrong)}."
        )
    fresh = pretrained & missing
    # A pooler may be missing, a numbered layer or most of the body may not.
    if 2 * len(fresh) > len(pretrained) or any(_LAYER.search(name) for name in fresh):
        raise BackboneError(
            f"The weights in {located.path} lack {len(fresh)} of the {len(pretrained)} tensors "
            f"that its config.json describes ({min(fresh)}, say); they belong to another model."
        )
