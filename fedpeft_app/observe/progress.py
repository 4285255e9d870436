"""How far a run is: folded over its events, one by one."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedpeft_app.criterion import Criterion
from fedpeft_app.wire.record import SITS_OUT

_LAST = 5  # rounds whose duration the next ones are expected to have
_LOWER_IS_BETTER = {"loss", "perplexity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is known of a run that goes on.

    Attributes:
        stage: What it does, in a few words.
        since: Clock of the journal when that began, seconds; None = before the first event.
        round_number, rounds: The round that goes on, from 1, and the last; 0 = none began.
        finished: Rounds that ended.
        began: Clock when the round began; None = none goes on.
        asked: Clients asked in this round; 0 = none, or that is secret.
        done, failed: Clients that answered well, or sit out; and those that did not.
        metric: What rounds are rated by; empty = nothing was measured.
        values: Round, its value on validation data, and the loss there, of every round where it
            was measured.
        down, up: Bytes of all rounds in each direction.
        traffic_expected: Whether these are not counted, since that would tell who was drawn.
        epsilon: ε spent; None = privacy is not accounted for, or not told.
        durations: Seconds of the last rounds, with their evaluation.
    """

    stage: str = "starting"
    since: float | None = None
    round_number: int = 0
    rounds: int = 0
    finished: int = 0
    began: float | None = None
    asked: int = 0
    done: int = 0
    failed: int = 0
    metric: str = ""
    values: tuple[tuple[int, float, float], ...] = ()
    down: float = 0
    up: float = 0
    traffic_expected: bool = False
    epsilon: float | None = None
    durations: tuple[float, ...] = ()

    @property
    def in_flight(self) -> int:
        """Clients that have not answered yet."""
        return max(self.asked - self.done - self.failed, 0)

    @property
    def best(self) -> tuple[int, float] | None:
        """The best round so far and its value, as the run chooses; None = none was measured."""
        rule = Criterion(metric=self.metric, lower_is_better=self.metric in _LOWER_IS_BETTER)
        best = max(
            self.values,
            key=lambda one: rule.rate({"loss": one[2], self.metric: one[1]}),
            default=None,
        )
        return best[:2] if best else None

    def left_s(self, clock: float) -> float | None:
        """Estimate how many seconds the rounds will still take.

        Args:
            clock: Now, by the clock of the journal.

        Returns:
            Seconds; None as long as no round has ended.
        """
        spent = clock - self.began if self.began is not None else 0.0
        return estimated(self.durations, self.rounds - self.finished, spent)


def follow(progress: Progress, event: Mapping[str, Any]) -> Progress:
    """Take in one more event.

    Args:
        progress: How far the run was.
        event: The next event of its journal.

    Returns:
        How far it is; events that say nothing of that leave it as it was.
    """
    fold = _FOLDS.get(str(event["event"]))
    return fold(progress, event) if fold else progress


def estimated(durations: Sequence[float], rounds: int, spent: float) -> float | None:
    """Estimate what is left of a run from how long its last rounds took.

    Args:
        durations: Seconds of rounds that ended.
        rounds: Rounds that did not end yet, with the one that goes on.
        spent: Seconds that this one has taken so far.

    Returns:
        The median for each, less what is spent, which counts for no more than its own round;
        None without durations.
    """
    if not durations:
        return None
    usual = statistics.median(durations)
    return max(rounds * usual - min(max(spent, 0.0), usual), 0.0) if rounds > 0 else 0.0


def entered(progress: Progress, stage: str, clock: float | None = None) -> Progress:
    """Begin a stage; one that only says more of the same goes on.

    Args:
        progress: How far the run is.
        stage: What it does; what stands behind a colon may change from one moment to the next.
        clock: Clock of the journal; None = before the first event.
    """
    same = stage.partition(":")[0] == progress.stage.partition(":")[0]
    return replace(progress, stage=stage, since=progress.since if same else clock)


def _started(progress: Progress, event: Mapping[str, Any]) -> Progress:
    return entered(progress, "calling the roll", event.get("clock"))


def _called(progress: Progress, event: Mapping[str, Any]) -> Progress:
    return entered(progress, "about to begin", event.get("clock"))


def _resumed(progress: Progress, event: Mapping[str, Any]) -> Progress:
    """Go on after a round; one that did not end is begun again."""
    last = int(event["round"])
    return replace(
        _started(progress, event),
        round_number=last,
        rounds=int(event.get("rounds", progress.rounds)),
        finished=last,
        began=None,
        asked=0,
        done=0,
        failed=0,
    )


def _round_started(progress: Progress, event: Mapping[str, Any]) -> Progress:
    return replace(
        entered(progress, "training", event.get("clock")),
        round_number=int(event["round"]),
        rounds=int(event["rounds"]),
        began=event.get("clock"),
        asked=int(event.get("asked", 0)),
        done=0,
        failed=0,
    )


def _asked_again(progress: Progress, event: Mapping[str, Any]) -> Progress:
    """Count those asked beside, unless who was asked is secret, and with it how many."""
    more = len(event["cohort"]) if progress.asked else 0
    return replace(entered(progress, "training", event.get("clock")), asked=progress.asked + more)


def _replied(progress: Progress, event: Mapping[str, Any]) -> Progress:
    bad = bool(event["problem"]) and not event["problem"].startswith(SITS_OUT)
    told = replace(progress, done=progress.done + (not bad), failed=progress.failed + bad)
    return told if told.in_flight else entered(told, "aggregating", event.get("clock"))


def _evaluating(progress: Progress, event: Mapping[str, Any]) -> Progress:
    stage = f"evaluating on the {event['split']} set: {event['share']:.0%}"
    return entered(progress, stage, event.get("clock"))


def _judged_one(progress: Progress, event: Mapping[str, Any]) -> Progress:
    return entered(progress, "judging nodes", event.get("clock"))


def _round_finished(progress: Progress, event: Mapping[str, Any]) -> Progress:
    """Take in what a round came to; where counts are secret, what was expected of it."""
    now, traffic = event.get("clock"), event.get("expected", event)
    took = (now - progress.began,) if now and progress.began is not None else ()
    value = _measured(event)
    last = int(event["round"]) == int(event["rounds"])
    return replace(
        entered(progress, "exporting" if last else "saving", now),
        round_number=int(event["round"]),
        rounds=int(event["rounds"]),
        finished=int(event["round"]),
        began=None,
        metric=value[0] if value else progress.metric,
        values=(*progress.values, (int(event["round"]), *value[1:])) if value else progress.values,
        down=progress.down + traffic.get("down", 0),
        up=progress.up + traffic.get("up", 0),
        traffic_expected=traffic is not event,
        epsilon=event.get("epsilon", progress.epsilon),
        durations=(*progress.durations, *took)[-_LAST:],
    )


def _run_finished(progress: Progress, event: Mapping[str, Any]) -> Progress:
    """End all rounds; those of nodes that train for themselves have no end of their own."""
    told = entered(progress, "stopping Flower and Ray", event.get("clock"))
    return replace(told, finished=max(progress.finished, progress.round_number), began=None)


def _measured(event: Mapping[str, Any]) -> tuple[str, float, float] | None:
    """Give what rates a round: the server's validation data, or the mean over nodes."""
    metric = str(event.get("metric", "accuracy"))
    judged = event.get("validation") or {}
    value, loss = judged.get(metric), judged.get("loss")
    over_nodes = event.get("clients") or {}
    if value is None and over_nodes.get("metric", "accuracy") == metric:
        value = over_nodes.get("mean")
    if value is None:
        return None
    return metric, float(value), math.inf if loss is None else float(loss)


_FOLDS = {
    "run_started": _called,
    "roll_call": _called,
    "run_resumed": _resumed,
    "round_started": _round_started,
    "asked_again": _asked_again,
    "reply": _replied,
    "evaluating": _evaluating,
    "node_finished": _judged_one,
    "round_finished": _round_finished,
    "run_finished": _run_finished,
}
