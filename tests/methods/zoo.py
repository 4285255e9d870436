"""Five tiny checkpoints, each awkward in its own way, and how to adapt them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from fedpeft_app.backbone.load import load_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.methods.method import MethodSettings

WORDS, WIDTH = 20, 16
_BERT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "initializer_range": 0.3,
}


@dataclass(frozen=True, kw_only=True)
class Animal:
    """A checkpoint of the zoo.

    Attributes:
        build: Makes the model whose weights are saved.
        targets: What `method.targets` is to say.
        adapted: Last names of the modules that LoRA then adapts, in each of the two layers.
        head: The parameters that the checkpoint does not hold, or that lie outside the body.
    """

    build: Callable[[], Any]
    targets: str
    adapted: tuple[str, ...]
    head: tuple[str, ...]


ZOO = {
    "bert": Animal(
        build=lambda: transformers.BertModel(transformers.BertConfig(**_BERT)),
        targets="auto",
        adapted=("query", "value"),
        head=("classifier.bias", "classifier.weight"),
    ),
    "bert-without-pooler": Animal(
        build=lambda: transformers.BertModel(
            transformers.BertConfig(**_BERT), add_pooling_layer=False
        ),
        targets="auto",
        adapted=("query", "value"),
        head=(
            "bert.pooler.dense.bias",
            "bert.pooler.dense.weight",
            "classifier.bias",
            "classifier.weight",
        ),
    ),
    "gpt2": Animal(  # Conv1D, no padding token, a head of one tensor
        build=lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=WORDS,
                n_embd=WIDTH,
                n_layer=2,
                n_head=2,
                n_positions=16,
                eos_token_id=19,
                initializer_range=0.3,
            )
        ),
        targets="auto",
        adapted=("c_attn",),
        head=("score.weight",),
    ),
    "distilbert": Animal(  # one head module's name ends with the other's
        build=lambda: transformers.DistilBertModel(
            transformers.DistilBertConfig(
                vocab_size=WORDS,
                dim=WIDTH,
                n_layers=2,
                n_heads=2,
                hidden_dim=24,
                max_position_embeddings=16,
                initializer_range=0.3,
            )
        ),
        targets="auto",
        adapted=("q_lin", "v_lin"),
        head=(
            "classifier.bias",
            "classifier.weight",
            "pre_classifier.bias",
            "pre_classifier.weight",
        ),
    ),
    "roberta": Animal(  # a head of two layers that share names with the body's
        build=lambda: transformers.RobertaModel(transformers.RobertaConfig(**_BERT)),
        targets="query,dense",
        adapted=("query", "output.dense", "intermediate.dense", "output.dense"),
        head=(
            "classifier.dense.bias",
            "classifier.dense.weight",
            "classifier.out_proj.bias",
            "classifier.out_proj.weight",
        ),
    ),
}


def save(name: str, folder: Path) -> Path:
    """Save a checkpoint with the same bits every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ZOO[name].build().save_pretrained(folder)
    return folder


def make(folder: Path, method: str, *, seed: int = 0, **settings: Any) -> AdaptedModel:
    """Load a checkpoint for three labels and adapt it."""
    base = {key: settings.pop(key) for key in ("dtype", "labels") if key in settings}
    backbone = load_model(
        locate(str(folder)),
        kind="sequence-classification",
        labels=base.pop("labels", ("a", "b", "c")),
        seed=seed,
        **base,
    )
    return adapt(backbone, find_method(method), MethodSettings(**settings), seed)


def batch() -> dict[str, torch.Tensor]:
    """Three sequences of different lengths, padded on the right."""
    return {
        "input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 9, 0], [10, 11, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]),
    }


def logits(model: Any) -> torch.Tensor:
    """Run a model on the batch, without gradients."""
    model.eval()
    with torch.no_grad():
        output: torch.Tensor = model(**batch()).logits
    return output
