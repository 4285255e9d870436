"""A run's folder → its model again, without its data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedpeft_app.assembly import adapted_model, make_task, padding_token, tokenizer
from fedpeft_app.config import RunConfig
from fedpeft_app.data.encoded import example_set
from fedpeft_app.errors import RunFolderError
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.recorder import score
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

    Args:
        run: The run.
        which: "last", a round's number, or "best": what the run itself chose, or, if it did
            not finish, the best by the server's validation data of the rounds that are kept.

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
        return int(finished[-1]["round"]) if finished else _best_so_far(run, kept)
    if not which.isdecimal():
        raise RunFolderError(f"Expected a round's number, 'best' or 'last', got '{which}'.")
    return int(which)


def restore(run: RunFolder, config: RunConfig, round_number: int) -> Restored:
    """Load a run's model as it stood after a round.

    Args:
        run: The run.
        config: Its configuration.
        round_number: Round, from 1.

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
    """Classify texts.

    Args:
        restored: The run's model.
        config: The run's configuration.
        texts: At least one.

    Returns:
        The most likely label and its probability, in (0, 1], for each text in order.
    """
    task = make_task(config)
    examples = example_set(task.encode(restored.tokenizer, texts, config.data.max_length))
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


def _best_so_far(run: RunFolder, kept: Sequence[int]) -> int:
    """Choose among the kept rounds of an unfinished run, the last one if none was judged."""
    select_by = str(run.config().get("evaluate.select-by", "accuracy"))
    best, best_score = kept[-1], -math.inf
    for round_number in kept:
        validation = load_checkpoint(run, round_number).metrics.get("validation")
        if validation and score(validation, select_by) > best_score:
            best, best_score = round_number, score(validation, select_by)
    return best
