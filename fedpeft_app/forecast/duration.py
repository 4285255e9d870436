"""How long a run will take: arithmetic over its work, at the rates that a calibration found.

Covered: the cohorts that the run will draw, their batches, longest work first over as many actors
as train at once; the first pass over a node's examples where frozen layers are kept; evaluation;
start-up. Not covered: failures, rounds that end early, a machine that does other things besides,
and activations that an earlier run has left on the disk, with which the first passes are faster.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedpeft_app.config import RunConfig
from fedpeft_app.forecast.calibration import Calibration, Resources
from fedpeft_app.forecast.rates import Rates, Timed, fitted
from fedpeft_app.forecast.rehearsal import Rehearsal
from fedpeft_app.forecast.work import Crew, Work, judged
from fedpeft_app.round_plan import asked
from fedpeft_app.run_data import server_splits

# Before an actor's process begins: launcher, SuperLink, Flower's own command, Ray. 9.4 CPU seconds
# at load 25, most of them one after the other (docs/log.md); not measured on a quiet machine.
_FLOWER_S = 8.0
_ROUND_S = 0.2  # of a round in which nobody trains (docs/log.md, benchmarks/round_overhead.py)
_END_S = 1.0  # export, and the processes' end; seen in runs, not measured by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Seconds of a run.

    Attributes:
        start_s: From the command to the first order.
        train_s: Rounds' training, as long as it keeps the server waiting.
        judge_s: Evaluation, on nodes and on the server.
        around_s: All else between the first order and the end.
        actors_cpu_s: Processor time of all training, judging and loading of clients.
        server_cpu_s: Processor time of the server's evaluation.
    """

    start_s: float
    train_s: float
    judge_s: float
    around_s: float
    actors_cpu_s: float
    server_cpu_s: float

    @property
    def total_s(self) -> float:
        """Seconds from the command to its end."""
        return self.start_s + self.train_s + self.judge_s + self.around_s


def duration(
    config: RunConfig,
    crew: Crew,
    rehearsal: Rehearsal | None,
    found: Calibration,
    resources: Resources,
) -> Duration:
    """Say how long a run will take.

    Args:
        config: Its configuration.
        crew: Its nodes.
        rehearsal: Its rounds; None for a baseline, and where cohorts are secret.
        found: What was measured.
        resources: What clients have.
    """
    clock = _Clock(config=config, crew=crew, found=found, resources=resources)
    rounds = rounds_of(config, crew, rehearsal)
    for number, cohort in enumerate(rounds, 1):
        clock.round(cohort)
        clock.judge(number, last=number == len(rounds))
    return Duration(
        start_s=_FLOWER_S + found.load_s,
        train_s=clock.train_s,
        judge_s=clock.judge_s,
        around_s=len(rounds) * (_ROUND_S + found.fold_s) + _END_S,
        actors_cpu_s=clock.actors_cpu_s,
        server_cpu_s=clock.server_cpu_s,
    )


def makespan(seconds: Sequence[float], actors: int) -> float:
    """Say when the last of some pieces of work is done, each begun by who is free first.

    Args:
        seconds: Of each piece, in the order in which they are begun.
        actors: How many work at the same time, from 1.
    """
    busy = [0.0] * actors
    for one in seconds:
        heapq.heappush(busy, heapq.heappop(busy) + one)
    return max(busy)


def rounds_of(
    config: RunConfig, crew: Crew, rehearsal: Rehearsal | None
) -> list[list[tuple[int, Work]]]:
    """List who does what in every round.

    Args:
        config: The run's configuration.
        crew: Its nodes.
        rehearsal: Its rounds; None for a baseline, and where cohorts are secret.

    Returns:
        For each round, partition and work of everyone who trains.
    """
    if rehearsal is not None:
        return [
            [(one.node, one.work) for one in each.trained if one.work is not None]
            for each in rehearsal.rounds
        ]
    if config.mode == "local":
        return [[(own.partition, crew.trains(own.partition, 1)) for own in crew.data]]
    if config.mode == "central":
        return [[(0, crew.trains(0, number))] for number in range(1, config.rounds + 1)]
    by_size = sorted(range(len(crew.data)), key=lambda node: -crew.sizes[node])
    count = max(1, round(asked(config, len(by_size))))  # who is drawn is secret: some of each size
    some = [by_size[(2 * at + 1) * len(by_size) // (2 * count)] for at in range(count)]
    return [
        [(node, crew.trains(node, number)) for node in some]
        for number in range(1, config.rounds + 1)
    ]


def rates(pieces: Sequence[Timed], *, cpu: bool = False) -> Rates:
    """Fit rates; of nothing that was measured, nothing is taken."""
    return fitted(pieces, cpu=cpu) if pieces else Rates(batch_s=0.0, token_s=0.0)


@dataclass
class _Clock:
    """Adds up the seconds of a run."""

    config: RunConfig
    crew: Crew
    found: Calibration
    resources: Resources
    train_s: float = 0.0
    judge_s: float = 0.0
    actors_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    _seen: set[int] = field(default_factory=set)
    _judged_before: bool = False

    def round(self, cohort: Sequence[tuple[int, Work]]) -> None:
        """Let a cohort train."""
        order = sorted(cohort, key=lambda one: (-self.crew.sizes[one[0]], one[0]))
        seconds = []
        for node, work in order:
            known = rates(self.found.training), rates(self.found.training, cpu=True)
            wall, cpu = (rate.seconds(work) for rate in known)
            if self.found.filling and node not in self._seen:
                once = _part(work, 1 / max(work.passes, 1.0))
                wall += rates(self.found.filling).seconds(once) - known[0].seconds(once)
                cpu += rates(self.found.filling, cpu=True).seconds(once) - known[1].seconds(once)
            self._seen.add(node)
            seconds.append(wall + self.found.around_s)
            self.actors_cpu_s += cpu
        self.train_s += makespan(seconds, self.resources.actors)

    def judge(self, number: int, *, last: bool) -> None:
        """Let nodes and server judge what became of it."""
        config = self.config
        if config.strategy.fraction_evaluate and config.mode == "federated":
            self._judge_on_nodes()
        if not (config.evaluate.server and config.evaluate.every):
            return
        splits, size = server_splits(config), config.evaluate.batch_size
        validation, test = judged(splits.validation, size), judged(splits.test, size)
        if config.mode == "local":
            for _ in self.crew.data:
                self._serve(self.found.judging_exactly, validation)
                self._serve(self.found.judging_exactly, test)
            return
        if number % config.evaluate.every == 0 or last:
            usual = self.found.judging if self._judged_before else self.found.judging_first
            self._serve(usual, validation)
            if config.evaluate.test == "rounds":
                self._serve(self.found.judging_exactly if last else usual, test)
            self._judged_before = True
        if last:
            self._serve(self.found.judging_exactly, test)  # of the round that is chosen

    def _serve(self, pieces: Sequence[Timed], work: Work) -> None:
        """Let the server judge."""
        self.judge_s += rates(pieces).seconds(work)
        self.server_cpu_s += rates(pieces, cpu=True).seconds(work)

    def _judge_on_nodes(self) -> None:
        """Let nodes judge, a share of them on what each holds out."""
        share = self.config.strategy.fraction_evaluate
        count = max(1, round(share * len(self.crew.data)))
        size = self.config.evaluate.batch_size
        found, cpu = rates(self.found.node_judging), rates(self.found.node_judging, cpu=True)
        seconds = []
        for own in self.crew.data[:count]:  # who they are changes little
            for held in (own.held_out, own.test):
                work = judged(held, size)
                seconds.append(found.seconds(work))
                self.actors_cpu_s += cpu.seconds(work)
        self.judge_s += makespan(seconds, self.resources.actors) + _ROUND_S


def _part(work: Work, share: float) -> Work:
    """Take a share of some work."""
    return Work(
        batches=round(work.batches * share),
        tokens=round(work.tokens * share),
        examples=round(work.examples * share),
        steps=work.steps,
        passes=work.passes * share,
    )
