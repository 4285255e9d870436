"""A run's folder → its model again, without its data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedpeft_app.assembly import adapted_model, make_task, padding_token, tokenizer
from fedpeft_app.config import RunConfig
from fedpeft_app.data.tokens import token_set
from fedpeft_app.errors import RunFolderError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.runs.checkpoint import Checkpoint, kept_rounds, load_checkpoint
from fedpeft_app.runs.directory import RunFolder
from fedpeft_app.training.evaluate import logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A run's model with a checkpoint poured in.

    Attributes:
        adapted: The model.
        checkpoint: What was poured in.
        tokenizer: The model's tokenizer.
        labels: Label names in order.
    """

    adapted: AdaptedModel
    checkpoint: Checkpoint
    tokenizer: Any
    labels: tuple[str, ...]


def round_of(run: RunFolder, which: str) -> int:
    """Translate "best", "last" or a number into a round.

    Raises:
        RunFolderError: If the run has no such round.
    """
    kept = kept_rounds(run)
    if not kept:
        raise RunFolderError(f"{run.path} has no checkpoint yet.")
    if which == "last":
        return kept[-1]
    if which == "best":
        finished = [event for event in run.events() if event["event"] == "run_finished"]
        return int(finished[-1]["round"]) if finished else kept[-1]
    if not which.isdigit():
        raise RunFolderError(f"Expected a round's number, 'best' or 'last', got '{which}'.")
    return int(which)


def restore(run: RunFolder, config: RunConfig, round_number: int) -> Restored:
    """Load a run's model as it stood after a round.

    Raises:
        RunFolderError: If the checkpoint or the journal's label names are missing.
        AdapterMismatchError: If the model on this machine is not the one of the run.
    """
    checkpoint = load_checkpoint(run, round_number)
    calls = [event for event in run.events() if event["event"] == "roll_call"]
    if not calls:
        raise RunFolderError(f"The journal of {run.path} does not say which labels it had.")
    labels = tuple(calls[-1]["labels"])
    adapted = adapted_model(config, labels)
    adapted.pour(checkpoint.state)
    return Restored(
        adapted=adapted, checkpoint=checkpoint, tokenizer=tokenizer(config), labels=labels
    )


def predict(restored: Restored, config: RunConfig, texts: Sequence[str]) -> list[tuple[str, float]]:
    """Classify texts: (label, probability) each."""
    task = make_task(config)
    examples = token_set(task.encode(restored.tokenizer, texts, config.data.max_length))
    scores = logits(
        restored.adapted.model,
        task,
        examples,
        pad=padding_token(config),
        batch_size=config.evaluate.batch_size,
    ).astype(np.float64)
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    best = probabilities.argmax(axis=1)
    return [
        (restored.labels[index], float(row[index]))
        for index, row in zip(best, probabilities, strict=True)
    ]
