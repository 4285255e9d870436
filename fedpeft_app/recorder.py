"""The recorder: evaluates, checkpoints and journals while rounds go by."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedpeft_app.adapters import AdapterState
from fedpeft_app.data.splits import Splits
from fedpeft_app.data.tasks.task import Metrics, Task
from fedpeft_app.data.tokens import TokenSet
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.observe.journal import Journal
from fedpeft_app.runs.checkpoint import Checkpoint, prune, save_checkpoint
from fedpeft_app.runs.directory import RunFolder
from fedpeft_app.strategies.rounds import RoundResult
from fedpeft_app.strategies.strategy import Member
from fedpeft_app.training.evaluate import evaluate
from fedpeft_app.wire.ledger import Ledger

_PROGRESS_S = 0.5  # seconds between two progress events


class Examiner:
    """Judges states on the server's data.

    Args:
        adapted: The server's model.
        task: Collation and metrics.
        splits: The server's validation and test examples; may be empty.
        pad: Padding token id.
        batch_size: Examples per forward pass.
        journal: Told about progress.
    """

    def __init__(
        self,
        *,
        adapted: AdaptedModel,
        task: Task,
        splits: Splits,
        pad: int,
        batch_size: int,
        journal: Journal,
    ) -> None:
        self._adapted = adapted
        self._task = task
        self._splits = splits
        self._pad = pad
        self._batch_size = batch_size
        self._journal = journal

    def examine(self, state: AdapterState, split: str, precision: str) -> Metrics:
        """Judge a state on "validation" or "test"; empty where there are no examples."""
        examples: TokenSet = getattr(self._splits, split)
        if not len(examples):
            return {}
        self._adapted.pour(state)
        return evaluate(
            self._adapted.model,
            self._task,
            examples,
            pad=self._pad,
            batch_size=self._batch_size,
            precision=precision,
            progress=self._progress(split),
        )

    def _progress(self, split: str) -> Callable[[float], None]:
        """Note progress now and then."""
        last = time.monotonic()

        def note(share: float) -> None:
            nonlocal last
            if time.monotonic() - last >= _PROGRESS_S:
                last = time.monotonic()
                self._journal.note("evaluating", split=split, share=round(share, 3))

        return note


class Recorder:
    """Watches the rounds of a run and keeps what must not be lost.

    Args:
        folder: The run's folder.
        journal: Its journal.
        ledger: Its byte ledger.
        examiner: Judges states; never asked if `every` is 0.
        rounds: Rounds of the run.
        every: Rounds between two evaluations; the last round is always one, 0 = never.
        precision: Arithmetic of evaluation before the last round, which is in float32.
        select_by: Metric that chooses the best round: "accuracy", "macro-f1" or "loss".
        keep_all: Whether every round's checkpoint stays.
    """

    def __init__(
        self,
        *,
        folder: RunFolder,
        journal: Journal,
        ledger: Ledger,
        examiner: Examiner,
        rounds: int,
        every: int,
        precision: str,
        select_by: str,
        keep_all: bool,
    ) -> None:
        self._folder = folder
        self._journal = journal
        self._ledger = ledger
        self._examiner = examiner
        self._rounds = rounds
        self._every = every
        self._precision = precision
        self._select_by = select_by
        self._keep_all = keep_all
        self._best_score = -math.inf
        self.best: Checkpoint | None = None
        self.last: Checkpoint | None = None

    def round_started(self, round_number: int, cohort: Sequence[Member]) -> None:
        """Note whom the round asks."""
        partitions = [member.partition for member in cohort]
        self._journal.note(
            "round_started", round=round_number, rounds=self._rounds, cohort=partitions
        )

    def reply_arrived(self, round_number: int, member: Member, problem: str) -> None:
        """Note a reply."""
        self._journal.note("reply", round=round_number, node=member.partition, problem=problem)

    def round_finished(self, result: RoundResult) -> None:
        """Evaluate, checkpoint and journal the new state, in this order."""
        round_number = result.round_number
        final = round_number == self._rounds
        due = self._every and (round_number % self._every == 0 or final)
        precision = "fp32" if final else self._precision  # the last round's figures are final
        measured: dict[str, Any] = {"precision": precision}
        if due:
            for split in ("validation", "test"):
                measured[split] = self._examiner.examine(result.state, split, precision)
        if result.client_metrics:
            measured["clients"] = spread(
                {node: values["accuracy"] for node, values in result.client_metrics.items()}
            )
        checkpoint = Checkpoint(state=result.state, round_number=round_number, metrics=measured)
        self.last = checkpoint
        score = self._score(result, measured)
        if score is not None and score > self._best_score:
            self._best_score, self.best = score, checkpoint
        save_checkpoint(self._folder, checkpoint)
        if not self._keep_all:
            best = self.best.round_number if self.best else round_number
            prune(self._folder, {round_number, best})
        self._note_round(result, measured)

    def _score(self, result: RoundResult, measured: Mapping[str, Any]) -> float | None:
        """Rate a round by validation data, the server's or the nodes'; never by test data."""
        values = measured.get("validation") or _pooled(result.client_metrics)
        if not values:
            return None
        sign = -1.0 if self._select_by == "loss" else 1.0
        return sign * float(values[self._select_by])

    def _note_round(self, result: RoundResult, measured: Mapping[str, Any]) -> None:
        """Write the round's line of the journal and force it to disk."""
        round_number = result.round_number
        self._journal.note(
            "round_finished",
            round=round_number,
            rounds=self._rounds,
            ok=len(result.good),
            failed=len(result.rejected),
            rejected={str(node): reason for node, reason in result.rejected.items()},
            train_loss=result.train_loss,
            examples=sum(int(reply.metrics["examples-trained"]) for reply in result.good),
            seconds=round(result.seconds, 4),
            down=self._ledger.total("down", round_number=round_number),
            up=self._ledger.total("up", round_number=round_number),
            nodes={str(reply.member.partition): dict(reply.metrics) for reply in result.good},
            **measured,
        )
        self._journal.sync()


def spread(values: Mapping[int, float]) -> dict[str, Any]:
    """Summarise one number per node: mean, worst, best, deciles, and each node's own."""
    numbers = np.array(list(values.values()), dtype=np.float64)
    return {
        "mean": float(numbers.mean()),
        "worst": float(numbers.min()),
        "best": float(numbers.max()),
        "deciles": [float(value) for value in np.quantile(numbers, np.arange(0.1, 1.0, 0.1))],
        "nodes": {str(node): value for node, value in values.items()},
    }


def _pooled(client_metrics: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Average node metrics, weighted by the examples they were measured on."""
    if not client_metrics:
        return {}
    weights = np.array([values["num-examples"] for values in client_metrics.values()])
    names = set.intersection(*(set(values) for values in client_metrics.values()))
    return {
        name: float(
            np.average([values[name] for values in client_metrics.values()], weights=weights)
        )
        for name in names
    }
