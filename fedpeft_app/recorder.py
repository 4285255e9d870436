"""The recorder: evaluates, checkpoints and journals while rounds go by."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedpeft_app.criterion import UNRATED, Criterion, Rating
from fedpeft_app.examiner import Examiner
from fedpeft_app.observe.journal import Journal
from fedpeft_app.privacy_report import PrivacyReport, notes
from fedpeft_app.runs.checkpoint import (
    Checkpoint,
    examine_checkpoint,
    kept_rounds,
    prune,
    save_checkpoint,
)
from fedpeft_app.runs.directory import RunFolder
from fedpeft_app.runs.retention import Retention, best_of, ranked
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.guard import require_judges
from fedpeft_app.strategies.strategy import Member, Reply
from fedpeft_app.strategies.watcher import RoundResult
from fedpeft_app.traffic import Expected
from fedpeft_app.wire.ledger import Ledger

_PROGRESS_S = 0.5  # seconds between two progress events
_ACCURACY = Criterion(metric="accuracy")  # what every task measures


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
        keep: Which rounds' checkpoints stay.
        patience: Evaluations in a row without a better round after which the run should end;
            0 = no end.
        report: Told every round, to state what has been guaranteed; None = nothing is.
        secrecy: Where it goes who takes part, and what follows from that; None = into the journal.
        made: What checkpoints are made with.

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
        keep: Retention,
        patience: int = 0,
        report: PrivacyReport | None = None,
        secrecy: Secrecy | None = None,
        made: Snapshot | None = None,
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
        self._keep = keep
        self._patience = patience
        self._report = report
        self._secrecy = secrecy
        self._by_node = secrecy.journal if secrecy else journal
        self._made = made or Snapshot()
        self._ratings: dict[int, Rating] = {}
        self._judged = False  # whether a node ever evaluated
        self._unjudged: dict[int, str] = {}  # why none did, when some were asked last
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
        self._by_node.note("reply", round=round_number, node=member.partition, problem=problem)

    def asked_again(self, round_number: int, cohort: Sequence[Member]) -> None:
        """Note whom a further attempt asks."""
        partitions = [member.partition for member in cohort]
        if self._report:
            self._report.asked(partitions)
        self._journal.note("asked_again", round=round_number, cohort=partitions)

    def came_late(self, round_number: int, member: Member, asked_in: int) -> None:
        """Note a reply that is dropped."""
        node = member.partition
        self._by_node.note("late_reply", round=round_number, node=node, asked_in=asked_in)

    def left_alone(self, node: int, until: int) -> None:
        """Note a node that failed too often."""
        self._journal.note("left_alone", node=node, until=until)

    def evaluation_failed(self, round_number: int, member: Member, problem: str) -> None:
        """Note a node that did not evaluate."""
        node = member.partition
        self._journal.note("evaluation_failed", round=round_number, node=node, problem=problem)

    def nobody_judged(self, round_number: int, failed: Mapping[int, str]) -> None:
        """Note a round that no node evaluated."""
        self._unjudged = dict(failed) or self._unjudged  # all may be left alone by then
        reasons = {str(node): reason for node, reason in failed.items()}
        self._journal.note("nobody_judged", round=round_number, failed=reasons)

    def round_answered(self, good: Sequence[Reply], rejected: Mapping[int, str]) -> None:
        """Take in what nodes say they have spent, whatever becomes of the round."""
        if self._report:
            self._report.answered(good, rejected)

    def round_finished(self, result: RoundResult) -> bool:
        """Evaluate and journal the new state, and keep it, in this order.

        So the journal has every round that can be gone on from.

        Returns:
            `out_of_patience`.

        Raises:
            QuorumError: If it is the last round, nodes alone can rate rounds, and none ever did.
        """
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
        self._rate(round_number, self._validation(result, measured))
        self._note_round(result, measured)
        self._judged |= bool(result.client_metrics)
        self.last = Checkpoint(
            state=result.state,
            round_number=round_number,
            metrics=measured,
            progress=self._progress(result),
        )
        if best_of(self._ratings) == round_number:
            self.best = self.last
        save_checkpoint(self._folder, self.last)
        prune(self._folder, self._keep.kept(round_number, self._ratings))
        if result.final and not (self._judged or self._by_server):
            require_judges(round_number, (), self._unjudged)
        return self._ends(result)

    @property
    def out_of_patience(self) -> bool:
        """Whether so many evaluations in a row brought nothing better that rounds should end."""
        best = best_of(self._ratings) or 0
        return 0 < self._patience <= sum(number > best for number in self._ratings)

    def _ends(self, result: RoundResult) -> bool:
        """Say whether rounds should end, and note why they end before the last one."""
        reason = result.spent or ("budget.patience" if self.out_of_patience else "")
        if reason and result.round_number < self._rounds:
            sent = {} if self._secrecy else {"up": self._ledger.total("up", kind="train")}
            told = {"round": result.round_number, "rounds": self._rounds, "key": reason}
            self._journal.note("budget_spent", **told, best=best_of(self._ratings), **sent)
        return self.out_of_patience

    def go_on(self, checkpoint: Checkpoint | None, asked: Iterable[int] = ()) -> None:
        """Go on from a round; the best so far is the best of those whose checkpoint is sound.

        Args:
            checkpoint: The round, with its progress; None = no round ended.
            asked: Partitions that were asked to train since, in an attempt that does not count.

        Raises:
            RunFolderError: If the best may be one that cannot be read now, or by this version.
        """
        if checkpoint is None:
            if self._report:
                self._report.go_on(self._report.snapshot(), asked)
            return
        progress = checkpoint.require_progress()
        own = progress.part("recorder").values
        self._judged = own.get("judged", bool(own["ratings"]))
        self._ratings = {
            int(number): (rated[0], rated[1]) for number, rated in own["ratings"].items()
        }
        self._ledger.go_on(progress.part("ledger").values.get("sums", []))
        if self._report:
            self._report.go_on(progress.part("report"), asked)
        self.last, self.best = checkpoint, self._best_sound()

    def _best_sound(self) -> Checkpoint | None:
        """Find the best round of those that are kept; note which of them are damaged."""
        kept = set(kept_rounds(self._folder))
        for number in (one for one in ranked(self._ratings) if one in kept):
            found = examine_checkpoint(self._folder, number)
            if not isinstance(found, str):
                return found
            self._journal.note("checkpoint_damaged", round=number, problem=found)
        return None

    def _progress(self, result: RoundResult) -> Snapshot:
        """Give all that the next round depends on, but for the state."""
        ratings = {str(number): rating for number, rating in self._ratings.items()}
        sums = {} if self._secrecy else {"sums": self._ledger.to_values()}
        return Snapshot.of(
            {
                "rounds": result.snapshot,
                "recorder": Snapshot(values={"ratings": ratings, "judged": self._judged}),
                "ledger": Snapshot(values=sums),
                "report": self._report.snapshot() if self._report else Snapshot(),
                "made": self._made,
            }
        )

    @property
    def _by_server(self) -> bool:
        """Whether the server's data rate rounds, and not what nodes hold out."""
        return bool(self._every) and self._examiner.holds("validation")

    def _validation(self, result: RoundResult, measured: Mapping[str, Any]) -> Mapping[str, float]:
        """Give what rates the round: never test data, and one source for the whole run."""
        judged: Mapping[str, float] = measured.get("validation", {})
        return judged if self._by_server else _pooled(result.client_metrics)

    def _rate(self, round_number: int, judged: Mapping[str, float]) -> None:
        """Rate a round, and note where it was judged but cannot be."""
        rating = self._criterion.rate(judged)
        if rating > UNRATED:
            self._ratings[round_number] = rating
        elif judged:
            self._journal.note("unrated", round=round_number, metric=self._criterion.metric)

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
