"""What a run works with once the roll is called, and the local-only baseline on top of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.serverapp import Grid

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import shifted
from fedpeft_app.config import RunConfig
from fedpeft_app.criterion import UNRATED, Criterion, Rating
from fedpeft_app.errors import FedPeftError
from fedpeft_app.examiner import Examiner
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.observe.journal import Journal
from fedpeft_app.privacy_report import NUMBERS, PrivacyReport
from fedpeft_app.recorder import spread
from fedpeft_app.resume import Reopened
from fedpeft_app.runs.checkpoint import Checkpoint, save_checkpoint
from fedpeft_app.runs.directory import RunFolder
from fedpeft_app.strategies.alone import Alone
from fedpeft_app.strategies.plan import RoundPlan
from fedpeft_app.strategies.roll_call import Roster
from fedpeft_app.strategies.rounds import run_rounds
from fedpeft_app.strategies.silos import Silos
from fedpeft_app.strategies.strategy import Member, Reply, Strategy
from fedpeft_app.strategies.watcher import RoundResult
from fedpeft_app.wire.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Everything that the server holds during a run.

    Attributes:
        config: The checked configuration.
        folder: The run's folder.
        journal: Its journal.
        ledger: Its byte ledger.
        roster: The nodes that take part.
        adapted: The server's model.
        examiner: Judges states on the server's data.
        criterion: What chooses the best round.
        strategy: Who gets what, and how replies become the next state.
        initial: The state before round 1.
        started: Clock at the start, seconds.
        report: Gathers what is guaranteed of privacy; None = nothing is.
        reopened: Where the run goes on; None = it begins.
        silos: Which node is which, of those who know who they are; those who join are added.
    """

    config: RunConfig
    folder: RunFolder
    journal: Journal
    ledger: Ledger
    roster: Roster
    adapted: AdaptedModel
    examiner: Examiner
    criterion: Criterion
    strategy: Strategy
    initial: AdapterState
    started: float
    report: PrivacyReport | None = None
    reopened: Reopened | None = None
    silos: Silos = field(default_factory=Silos)


def run_alone(grid: Grid, session: Session) -> tuple[Checkpoint, dict[str, Any]]:
    """Let every node train for itself, as long as the rounds would take; exchange nothing.

    Args:
        grid: Flower's connection.
        session: The run.

    Returns:
        The state of the node that does best on the server's validation data (the first of
        equals, and the first node where the server holds none), and the `spread` over nodes
        of the run's metric on the server's test set, of the accuracy where it is undefined;
        empty where there is no test set.

    Raises:
        QuorumError: If fewer nodes trained than `strategy.min-replies`.
    """
    config = session.config
    watcher = _AloneWatcher(session=session)
    plan = RoundPlan(
        rounds=1,
        seed=config.seed,
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_replies=config.strategy.min_replies,
        timeout_s=config.strategy.round_timeout,
        experiment=session.folder.path.name,
        keeps=config.privacy.mode == "sample",
        numbers=NUMBERS[config.privacy.mode],
    )
    run_rounds(
        grid,
        Alone(),
        session.roster.members,
        session.initial,
        plan,
        ledger=session.ledger,
        watcher=watcher,
    )
    if watcher.best is None:
        raise FedPeftError("No node trained.")
    save_checkpoint(session.folder, watcher.best)
    return watcher.best, watcher.over_nodes()


@dataclass(slots=True, kw_only=True)
class _AloneWatcher:
    """Judges each node's own state as soon as all have trained."""

    session: Session
    test: dict[int, Mapping[str, float]] = field(default_factory=dict)
    best: Checkpoint | None = None
    _best_rating: Rating = UNRATED

    def round_started(self, round_number: int, cohort: Sequence[Member]) -> None:
        """Note whom the run asks."""
        partitions = [member.partition for member in cohort]
        if self.session.report:
            self.session.report.asked(partitions)
        self.session.journal.note(
            "round_started", round=1, rounds=1, asked=len(cohort), cohort=partitions
        )

    def reply_arrived(self, round_number: int, member: Member, problem: str) -> None:
        """Note a reply."""
        self.session.journal.note("reply", round=1, node=member.partition, problem=problem)

    def asked_again(self, round_number: int, cohort: Sequence[Member]) -> None:
        """Never told: nodes train once, for themselves."""

    def came_late(self, round_number: int, member: Member, asked_in: int) -> None:
        """Never told."""

    def left_alone(self, node: int, until: int) -> None:
        """Never told."""

    def evaluation_failed(self, round_number: int, member: Member, problem: str) -> None:
        """Never told: nodes are judged on the server's data."""

    def nobody_judged(self, round_number: int, failed: Mapping[int, str]) -> None:
        """Never told."""

    def round_answered(self, good: Sequence[Reply], rejected: Mapping[int, str]) -> None:
        """Take in what nodes say they have spent, be they too few or not."""
        if self.session.report:
            self.session.report.answered(good, rejected)

    def round_finished(self, result: RoundResult) -> bool:
        """Evaluate every node's state on the server's data."""
        for reply in result.good:
            state = shifted(self.session.initial, reply.delta.vector)
            node = reply.member.partition
            self._judge(node, state, reply.metrics)
        return True

    def over_nodes(self) -> dict[str, Any]:
        """Sum the nodes up; they are judged on the same data, so all have the same metrics."""
        rule = self.session.criterion
        if not all(rule.metric in metrics for metrics in self.test.values()):
            rule = Criterion(metric="accuracy")
        values = {node: test[rule.metric] for node, test in self.test.items() if test}
        return spread(values, rule) if values else {}

    def _judge(self, node: int, state: AdapterState, metrics: Mapping[str, float]) -> None:
        """Measure one node's state, and remember it if it is the best so far."""
        examiner = self.session.examiner
        rule = self.session.criterion
        validation = examiner.examine(state, "validation", "fp32")
        test = examiner.examine(state, "test", "fp32")
        self.test[node] = test
        self.session.journal.note(
            "node_finished",
            node=node,
            metric=rule.metric,
            validation=validation,
            test=test,
            train=dict(metrics),
        )
        rating = rule.rate(validation)
        if validation and rating == UNRATED:
            self.session.journal.note("unrated", node=node, metric=rule.metric)
        if self.best is None or rating > self._best_rating:
            self._best_rating = rating
            measured = {"precision": "fp32", "validation": validation, "test": test}
            self.best = Checkpoint(state=state, round_number=1, metrics=measured)
