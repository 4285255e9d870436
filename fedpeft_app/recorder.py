"""The recorder: evaluates, checkpoints and journals while rounds go by."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedpeft_app.adapters import AdapterState
from fedpeft_app.criterion import UNRATED, Criterion, Rating
from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.data.splits import Splits
from fedpeft_app.data.tasks.task import Metrics, Task
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.observe.journal import Journal
from fedpeft_app.privacy_report import PrivacyReport, notes
from fedpeft_app.runs.checkpoint import Checkpoint, prune, save_checkpoint
from fedpeft_app.runs.directory import RunFolder
from fedpeft_app.strategies.rounds import RoundResult
from fedpeft_app.strategies.strategy import Member, Reply
from fedpeft_app.traffic import Expected
from fedpeft_app.training.evaluate import evaluate
from fedpeft_app.wire.ledger import Ledger

_PROGRESS_S = 0.5  # seconds between two progress events
_ACCURACY = Criterion(metric="accuracy")  # what every task measures


class Examiner:
    """Judges states on the server's data.

    Args:
        adapted: The server's model.
        task: Collation and metrics.
        splits: The server's validation and test examples; may be empty.
        batch_size: Examples per forward pass.
        journal: Told about progress.

    Attributes:
        task: The task that it judges by.
    """

    def __init__(
        self,
        *,
        adapted: AdaptedModel,
        task: Task,
        splits: Splits,
        batch_size: int,
        journal: Journal,
    ) -> None:
        self.task = task
        self._adapted = adapted
        self._splits = splits
        self._batch_size = batch_size
        self._journal = journal

    def examine(self, state: AdapterState, split: str, precision: str) -> Metrics:
        """Judge a state.

        Args:
            state: The state; it stays poured into the model.
            split: "validation" or "test".
            precision: "fp32", "bf16" or "fp16".

        Returns:
            Metric → value; empty where there are no examples. What a task gives as NaN or
            infinite is left out, as what is not defined.

        Raises:
            TrainingError: If the model's outputs for that state are not finite.
        """
        if not self.holds(split):
            return {}
        examples: ExampleSet = getattr(self._splits, split)
        self._adapted.pour(state)
        measured = evaluate(
            self._adapted.model,
            self.task,
            examples,
            batch_size=self._batch_size,
            precision=precision,
            progress=self._progress(split),
        )
        return {name: value for name, value in measured.items() if math.isfinite(value)}

    def holds(self, split: str) -> bool:
        """Say whether there are examples of "validation" or "test"."""
        return len(getattr(self._splits, split)) > 0

    def _progress(self, split: str) -> Callable[[float], None]:
        """Note progress now and then."""
        last = time.monotonic()

        def note(share: float) -> None:
            nonlocal last
            if time.monotonic() - last >= _PROGRESS_S:
                last = time.monotonic()
                self._journal.note("evaluating", split=split, share=round(share, 3))

        return note


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrecy:
    """How it stays secret who is drawn, on which ε at the user level relies.

    Attributes:
        journal: Has what follows from that; for whoever runs the server, and for nobody else.
        expected: What the run's own journal has in place of it, of a round; JSON values.
    """

    journal: Journal
    expected: Mapping[str, Any]


@contextmanager
def secrecy(path: Path, expected: Expected | None) -> Iterator[Secrecy | None]:
    """Open what nobody but the server's operator may read.

    Args:
        path: The file; its owner alone can read it.
        expected: What is said in place of it; None = nothing is secret, and no file is made.
    """
    if expected is None:
        yield None
        return
    path.touch(mode=0o600)
    with closing(Journal(path)) as journal:
        yield Secrecy(journal=journal, expected=expected.rounds(1))


class Recorder:
    """Watches the rounds of a run and keeps what must not be lost.

    Args:
        folder: The run's folder.
        journal: Its journal.
        ledger: Its byte ledger.
        examiner: Judges states; never asked if `every` is 0.
        rounds: Rounds of the run.
        every: Rounds between two evaluations; the last round is always one, 0 = never.
        precision: Arithmetic of evaluation, but for the last round's test, in float32.
        criterion: Chooses the best round.
        test_rounds: Whether every evaluation measures the test set too.
        keep_all: Whether every round's checkpoint stays.
        report: Told every round, to state what has been guaranteed; None = nothing is.
        secrecy: Where it goes who takes part, and what follows from that; None = into the journal.

    Attributes:
        best: The best round so far on validation data, of equals the one with the lowest
            loss, then the earliest; None if no round was judged.
        last: The last round; None before the first.
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
        criterion: Criterion,
        test_rounds: bool,
        keep_all: bool,
        report: PrivacyReport | None = None,
        secrecy: Secrecy | None = None,
    ) -> None:
        self._folder = folder
        self._journal = journal
        self._ledger = ledger
        self._examiner = examiner
        self._rounds = rounds
        self._every = every
        self._precision = precision
        self._criterion = criterion
        self._test_rounds = test_rounds
        self._keep_all = keep_all
        self._report = report
        self._secrecy = secrecy
        self._best_rating = UNRATED
        self.best: Checkpoint | None = None
        self.last: Checkpoint | None = None

    def round_started(self, round_number: int, cohort: Sequence[Member]) -> None:
        """Note whom the round asks."""
        partitions = [member.partition for member in cohort]
        if self._report:
            self._report.asked(partitions)
        told = {"round": round_number, "rounds": self._rounds}
        self._note("round_started", told, {"asked": len(cohort), "cohort": partitions})

    def reply_arrived(self, round_number: int, member: Member, problem: str) -> None:
        """Note a reply."""
        journal = self._secrecy.journal if self._secrecy else self._journal
        journal.note("reply", round=round_number, node=member.partition, problem=problem)

    def round_answered(self, good: Sequence[Reply], rejected: Mapping[int, str]) -> None:
        """Take in what nodes say they have spent, whatever becomes of the round."""
        if self._report:
            self._report.answered(good, rejected)

    def round_finished(self, result: RoundResult) -> None:
        """Evaluate, checkpoint and journal the new state, in this order."""
        round_number = result.round_number
        due = self._every and (round_number % self._every == 0 or result.final)
        # The last round's figures are final.
        precision = "fp32" if result.final else self._precision
        measured: dict[str, Any] = {"precision": precision}
        if due:  # validation is judged alike in every round, for it decides among them
            examine = self._examiner.examine
            measured["validation"] = examine(result.state, "validation", self._precision)
            if self._test_rounds:
                measured["test"] = examine(result.state, "test", precision)
        measured |= _over_nodes(result.client_metrics, self._criterion)
        if result.untrained:
            measured["untrained"] = list(result.untrained)
        checkpoint = Checkpoint(state=result.state, round_number=round_number, metrics=measured)
        self.last = checkpoint
        judged = self._validation(result, measured)
        rating = self._rate(round_number, judged)
        if rating > self._best_rating:
            self._best_rating, self.best = rating, checkpoint
        save_checkpoint(self._folder, checkpoint)
        if not self._keep_all:
            best = self.best.round_number if self.best else round_number
            prune(self._folder, {round_number, best})
        self._note_round(result, measured)

    def _validation(self, result: RoundResult, measured: Mapping[str, Any]) -> Mapping[str, float]:
        """Give what rates the round: never test data, and one source for the whole run."""
        if self._every and self._examiner.holds("validation"):
            judged: Mapping[str, float] = measured.get("validation", {})
            return judged
        return _pooled(result.client_metrics)

    def _rate(self, round_number: int, judged: Mapping[str, float]) -> Rating:
        """Rate a round, and note where it was judged but cannot be."""
        rating = self._criterion.rate(judged)
        if judged and rating == UNRATED:
            self._journal.note("unrated", round=round_number, metric=self._criterion.metric)
        return rating

    def _note_round(self, result: RoundResult, measured: Mapping[str, Any]) -> None:
        """Write the round's line of the journal and force it to disk."""
        told = {
            "round": result.round_number,
            "rounds": self._rounds,
            "metric": self._criterion.metric,
            **({"notes": dict(result.notes)} if result.notes else {}),
            **notes(self._report),
            **measured,
        }
        expected = {"expected": self._secrecy.expected} if self._secrecy else {}
        self._note("round_finished", {**told, **expected}, _of_cohort(result, self._ledger))
        if self._report and (rows := self._report.statement()):
            self._journal.note("privacy_statement", rows=rows, final=False)
        self._journal.sync()

    def _note(self, event: str, told: Mapping[str, Any], of_cohort: Mapping[str, Any]) -> None:
        """Note an event, and what of it follows from who was drawn where that may be read."""
        if self._secrecy:
            self._secrecy.journal.note(event, **told, **of_cohort)
            self._journal.note(event, **told)
        else:
            self._journal.note(event, **told, **of_cohort)


def _of_cohort(result: RoundResult, ledger: Ledger) -> dict[str, Any]:
    """Say how many nodes did what, and which did."""
    round_number = result.round_number
    trained = [reply.metrics.get("examples-trained") for reply in result.good]
    told = [count for count in trained if count is not None]
    return {
        "ok": len(result.good),
        "failed": len(result.rejected),
        "train_loss": result.train_loss,
        "examples": int(sum(told)) if len(told) == len(trained) else None,
        "seconds": round(result.seconds, 4),
        "down": ledger.total("down", round_number=round_number),
        "up": ledger.total("up", round_number=round_number),
        "rejected": {str(node): reason for node, reason in result.rejected.items()},
        "nodes": {
            str(reply.member.partition): {**reply.facts, **reply.metrics} for reply in result.good
        },
        "bytes_by_node": ledger.by_node(result.round_number),
    }


def _over_nodes(
    client_metrics: Mapping[int, Mapping[str, float]], criterion: Criterion
) -> dict[str, Any]:
    """Sum nodes up: on what they hold out to choose a round ("clients"), and to report.

    Accuracy, which every task measures, is kept beside another metric.
    """
    rules = {"": criterion}
    if criterion != _ACCURACY:
        rules["_accuracy"] = _ACCURACY
    found: dict[str, Any] = {}
    for name, prefix in (("clients", ""), ("clients_test", "test.")):
        for suffix, rule in rules.items():
            key = f"{prefix}{rule.metric}"
            values = {node: metrics.get(key, math.nan) for node, metrics in client_metrics.items()}
            if defined := {node: value for node, value in values.items() if not math.isnan(value)}:
                found[f"{name}{suffix}"] = spread(defined, rule)
    return found


def spread(values: Mapping[int, float], rule: Criterion = _ACCURACY) -> dict[str, Any]:
    """Summarise one number per node.

    Args:
        values: Partition → number, at least one.
        rule: Which metric it is, and whether less of it is better.

    Returns:
        "metric", "mean" (each node counts the same), "worst", "worst_decile" (mean of the
        worst tenth, at least one node), "best", "deciles" (nine, rising, interpolated
        linearly) and "nodes" (each node's own), JSON values.
    """
    numbers = np.sort(np.array(list(values.values()), dtype=np.float64))
    from_worst = numbers[::-1] if rule.lower_is_better else numbers
    return {
        "metric": rule.metric,
        "mean": float(numbers.mean()),
        "worst": float(from_worst[0]),
        "worst_decile": float(from_worst[: math.ceil(len(numbers) / 10)].mean()),
        "best": float(from_worst[-1]),
        "deciles": [float(value) for value in np.quantile(numbers, np.arange(0.1, 1.0, 0.1))],
        "nodes": {str(node): value for node, value in values.items()},
    }


def _pooled(client_metrics: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Average node metrics, weighted by the examples that the guard lets each node count."""
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
