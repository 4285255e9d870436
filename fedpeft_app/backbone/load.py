"""Load a pre-trained model and its tokenizer, and find out which weights are new.

The head of a model is by definition what its checkpoint does not hold, plus whatever lies
outside the pre-trained body. Everything in it must be trained, sent and saved.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from fedpeft_app.backbone.locate import LocatedModel
from fedpeft_app.errors import BackboneError
from fedpeft_app.seeds import derive_seed

AUTO_CLASSES = {
    "sequence-classification": transformers.AutoModelForSequenceClassification,
}
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
    """

    located: LocatedModel
    model: Any
    head: frozenset[str]
    parameters: int


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


def load_model(
    located: LocatedModel,
    *,
    kind: str,
    labels: Sequence[str],
    dtype: str = "float32",
    dropout: float = 0.0,
    seed: int = 0,
) -> Backbone:
    """Load a model with a fresh head for the task.

    Args:
        located: The model's folder.
        kind: A key of `AUTO_CLASSES`.
        labels: Label names in the order of the head's outputs, at least two.
        dtype: A key of `DTYPES`, for the frozen weights.
        dropout: Probability of every dropout inside the model; -1 = the checkpoint's own.
        seed: Seeds the weights that the checkpoint does not hold.

    Returns:
        The model, in evaluation mode, and which of its parameters are fresh.

    Raises:
        BackboneError: If transformers cannot load it, or its weights are not those that
            its config describes.
    """
    with _Quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "head"))
        model, info = _from_pretrained(located, kind, labels, dtype)
    _require_pretrained(model, info, located)
    LOADS[located.fingerprint] += 1
    if dropout >= 0:
        _set_dropout(model, dropout)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = _pad_token(model, located)
    return Backbone(
        located=located,
        model=model,
        head=_head(model, info),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def empty_model(located: LocatedModel, kind: str) -> tuple[Any, frozenset[str]]:
    """Build a model's modules without any weights, to see what a method makes of them.

    Args:
        located: The model's folder.
        kind: A key of `AUTO_CLASSES`.

    Returns:
        The model on the meta device, and the names of the parameters outside its body.

    Raises:
        BackboneError: If transformers does not know the model.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(str(located.path))
        with torch.device("meta"):
            model = AUTO_CLASSES[kind].from_config(config)
    except Exception as error:
        raise BackboneError(f"Cannot build the model in {located.path}: {error}") from error
    names = {name for name, _ in model.named_parameters()}
    return model, frozenset(names - _body(model))


def _from_pretrained(
    located: LocatedModel, kind: str, labels: Sequence[str], dtype: str
) -> tuple[Any, dict[str, Any]]:
    """Let transformers build the model; also give what it says about missing weights."""
    try:
        model, info = AUTO_CLASSES[kind].from_pretrained(
            str(located.path),
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            dtype=DTYPES[dtype],
            attn_implementation=_attention(),
            ignore_mismatched_sizes=True,  # a head for other labels is replaced
            output_loading_info=True,
        )
    except Exception as error:  # transformers lets through whatever its parsers raise
        raise BackboneError(f"Cannot load the model in {located.path}: {error}") from error
    return model, info


def _attention() -> str:
    """Choose the attention code: on CPUs the fused kernel's backward pass is the slower one."""
    return "sdpa" if torch.cuda.is_available() else "eager"


def _set_dropout(model: Any, probability: float) -> None:
    """Set every dropout of a model, modules and plain attributes alike."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
        for name, value in vars(module).items():
            if name.endswith("dropout") and isinstance(value, float | int):
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


def _body(model: Any) -> set[str]:
    """Name the parameters of the pre-trained body."""
    prefix = f"{model.base_model_prefix}."
    return {name for name, _ in model.named_parameters() if name.startswith(prefix)}


def _head(model: Any, info: dict[str, Any]) -> frozenset[str]:
    """Name the parameters outside the body, and those the checkpoint did not hold."""
    fresh = {str(key) for key in info["missing_keys"]}
    names = {name for name, _ in model.named_parameters()}
    return frozenset(names & fresh | names - _body(model))


def _require_pretrained(model: Any, info: dict[str, Any], located: LocatedModel) -> None:
    """Refuse weights that leave the body random, or do not have its shapes."""
    body = _body(model)
    if wrong := sorted(body & {str(row[0]) for row in info["mismatched_keys"]}):
        raise BackboneError(
            f"The weights in {located.path} do not have the shapes of its config.json: "
            f"{', '.join(wrong)}."
        )
    fresh = body & {str(key) for key in info["missing_keys"]}
    # A pooler may be missing, a numbered layer or most of the body may not.
    if 2 * len(fresh) > len(body) or any(_LAYER.search(name) for name in fresh):
        raise BackboneError(
            f"The weights in {located.path} lack {len(fresh)} of the {len(body)} tensors that "
            f"its config.json describes ({min(fresh)}, say); they belong to another model."
        )


class _Quiet:
    """Silence the loading report that transformers prints about the new head."""

    def __enter__(self) -> None:
        self._verbosity = transformers.logging.get_verbosity()
        self._bar = transformers.logging.is_progress_bar_enabled()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        transformers.logging.set_verbosity(self._verbosity)
        if self._bar:
            transformers.logging.enable_progress_bar()
