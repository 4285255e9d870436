"""A tiny adapted model and tiny examples for it, without any files but the model's."""

from pathlib import Path

import numpy as np
from conftest import LABELS, WORDS, make_texts

from fedpeft_app.backbone.load import load_model
from fedpeft_app.backbone.locate import locate
from fedpeft_app.data.encoded import ExampleSet, example_set
from fedpeft_app.methods.adapted import AdaptedModel, adapt
from fedpeft_app.methods.catalogue import find_method
from fedpeft_app.methods.method import MethodSettings

PAD, CLS, SEP = 0, 2, 3
FIRST_WORD = 5  # after the five special tokens


def make_adapted(
    folder: Path,
    dropout: float = 0.0,
    *,
    method: str = "lora",
    head: str = "train",
    layers: str = "all",
    adapter_dropout: float = 0.0,
) -> AdaptedModel:
    """Load the tiny BERT with LoRA of rank 2 and a head of three labels."""
    backbone = load_model(
        locate(str(folder), ""), kind="sequence-classification", labels=LABELS, dropout=dropout
    )
    settings = MethodSettings(rank=2, alpha=4.0, layers=layers, dropout=adapter_dropout)
    return adapt(backbone, find_method(method), settings, seed=0, head=head)


def make_examples(count: int, seed: int = 0, words: int = 0) -> ExampleSet:
    """Make learnable examples of 3 to 11 words each, or of exactly `words`."""
    texts, labels = make_texts(count, seed)
    rows = [[FIRST_WORD + WORDS.index(word) for word in text.split()] for text in texts]
    if words:
        rows = [(row * words)[:words] for row in rows]
    numbers = np.array([LABELS.index(label) for label in labels], dtype=np.int64)
    return example_set([[CLS, *row, SEP] for row in rows], numbers)
