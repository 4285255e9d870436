"""The recorder: what is evaluated, kept and chosen while rounds go by."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import read_events
from decoded import Decoded

from fedpeft_app.adapters import AdapterState
from fedpeft_app.config import defaults
from fedpeft_app.criterion import Criterion
from fedpeft_app.errors import QuorumError, RunFolderError
from fedpeft_app.observe.journal import Journal
from fedpeft_app.observe.lines import describe
from fedpeft_app.recorder import Recorder, Secrecy, spread
from fedpeft_app.runs.checkpoint import kept_rounds, load_checkpoint
from fedpeft_app.runs.directory import RunFolder, create_run
from fedpeft_app.runs.retention import retention
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.strategy import Member, Reply
from fedpeft_app.strategies.watcher import RoundResult
from fedpeft_app.wire.ledger import Entry, Ledger

Values = Mapping[str, float]


class Judge:
    """Stands for an `Examiner`: gives prepared metrics, notes what it was asked.

    Args:
        validation: Metrics of the validation set, one per examination; empty = no such set.
    """

    def __init__(self, validation: Sequence[Values]) -> None:
        self._validation = list(validation)
        self._held = bool(validation)
        self.asked: list[tuple[float, str, str]] = []

    def holds(self, split: str) -> bool:
        return split == "test" or self._held

    def examine(self, state: AdapterState, split: str, precision: str) -> Values:
        self.asked.append((float(state.vector[0]), split, precision))
        if split == "test":  # the later the better: would choose the last round
            return {"accuracy": len(self.asked) / 100, "macro-f1": 0.5, "loss": 0.0}
        return self._validation.pop(0) if self._held else {}


def by(**metrics: Sequence[float]) -> list[Values]:
    """Give metrics round by round; `f1` stands for macro-f1."""
    columns = {name.replace("f1", "macro-f1"): values for name, values in metrics.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def going_by(metric: str) -> Criterion:
    """Choose by one metric."""
    return Criterion(metric=metric, lower_is_better=metric == "loss")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """An empty run."""
    return create_run(tmp_path, "run", run_id=1, config=defaults())


Record = Callable[..., Recorder]


@pytest.fixture
def record(folder: RunFolder, state: AdapterState) -> Record:
    """Let a recorder watch a run in which round r's state begins with the value r."""

    def watch(
        judge: Judge,
        rounds: int,
        clients: Sequence[Mapping[int, Values]] = (),
        *,
        last: int = 0,  # the round that the run ends with; 0 = the last one planned
        final: bool = True,  # whether that is known before it is looked at
        ended: list[bool] | None = None,  # whether each round should have been the last
        **settings: Any,
    ) -> Recorder:
        defaults = {
            "every": 1,
            "precision": "bf16",
            "criterion": going_by("accuracy"),
            "test_rounds": True,
            "keep": retention("last:1"),
        }
        kept = Ledger(backbone_bytes=0, full_parameters=0)
        with closing(Journal(folder.journal)) as journal:
            recorder = Recorder(
                folder=folder,
                journal=journal,
                ledger=kept,
                examiner=judge,
                rounds=rounds,
                **{**defaults, **settings},
            )
            last = last or rounds
            for number in range(1, last + 1):
                metrics = clients[number - 1] if clients else {}
                note_bytes(kept, number)
                judged = result(state, number, metrics, final=final and number == last)
                (ended if ended is not None else []).append(recorder.round_finished(judged))
        return recorder

    return watch


def note_bytes(ledger: Ledger, number: int) -> None:
    """Note ten bytes down and one up in round 1, twenty and two in round 2, …"""
    for direction, size in (("down", 10 * number), ("up", number)):
        ledger.note(
            Entry(round_number=number, node=0, direction=direction, kind="train", size=size)
        )


def result(
    state: AdapterState, number: int, clients: Mapping[int, Values], *, final: bool
) -> RoundResult:
    """Make a round in which nodes 3 and 5 trained and node 4 failed."""
    vector = state.vector.copy()
    vector[0] = number
    good = [
        Reply(
            member=Member(node_id=70 + node, partition=node, examples=examples),
            start=state,
            update=Decoded(state=state),
            weight=float(examples),
            metrics={"loss": loss, "examples-trained": examples},
        )
        for node, examples, loss in ((3, 10, 1.0), (5, 30, 2.0))
    ]
    return RoundResult(
        round_number=number,
        state=AdapterState(spec=state.spec, vector=vector),
        good=good,
        rejected={4: "disk on fire"},
        seconds=1.5,
        client_metrics=clients,
        final=final,
    )


def recorder(
    folder: RunFolder,
    journal: Journal,
    secrecy: Secrecy | None = None,
    judge: Judge | None = None,
) -> Recorder:
    """Make the recorder of a run of one round, without validation data unless a judge has some."""
    ledger = Ledger(backbone_bytes=0, full_parameters=0)
    note_bytes(ledger, 1)
    return Recorder(
        folder=folder,
        journal=journal,
        ledger=ledger,
        examiner=judge or Judge([]),
        rounds=1,
        every=1,
        precision="fp32",
        criterion=going_by("accuracy"),
        test_rounds=True,
        keep=retention("last:1"),
        secrecy=secrecy,
    )


@pytest.mark.parametrize(("select_by", "best"), [("accuracy", 2), ("macro-f1", 3), ("loss", 1)])
def test_the_best_round_is_the_best_by_the_chosen_metric(
    record: Record, select_by: str, best: int
) -> None:
    judge = Judge(by(accuracy=[0.1, 0.9, 0.2, 0.3], f1=[0.1, 0.2, 0.9, 0.3], loss=[1, 2, 3, 4]))
    recorder = record(judge, 4, criterion=going_by(select_by))
    assert recorder.best.round_number == best
    assert recorder.best.state.vector[0] == best
    assert recorder.last.round_number == 4


@pytest.mark.parametrize(
    ("accuracies", "patience", "ends"),
    [
        ([0.5, 0.6, 0.6, 0.6, 0.9], 2, [False, False, False, True, False]),
        ([0.5, 0.4, 0.3, 0.2], 0, [False] * 4),
        ([0.5, 0.4, 0.6, 0.5, 0.4], 2, [False, False, False, False, True]),
    ],
)
def test_patience_counts_evaluations_that_were_no_better(
    folder: RunFolder,
    record: Record,
    accuracies: list[float],
    patience: int,
    ends: list[bool],
) -> None:
    loss = [1.0] * len(accuracies)
    judge = Judge(by(accuracy=accuracies, f1=accuracies, loss=loss))
    found: list[bool] = []
    record(judge, 9, last=len(accuracies), final=False, ended=found, patience=patience)
    assert found == ends
    noted = [event for event in read_events(folder.journal) if event["event"] == "budget_spent"]
    assert len(noted) == sum(ends)
    assert all("none is better than round" in str(describe(event)) for event in noted)


@pytest.mark.parametrize("select_by", ["accuracy", "loss"])
def test_the_earliest_of_equals_is_the_best(record: Record, select_by: str) -> None:
    judge = Judge(by(accuracy=[0.4, 0.5, 0.5, 0.5], loss=[1.5, 1.0, 1.0, 1.0]))
    assert record(judge, 4, criterion=going_by(select_by)).best.round_number == 2


def test_test_data_never_chooses(record: Record) -> None:
    falling = Judge(by(accuracy=[0.9, 0.5, 0.1]))  # while test accuracy rises
    assert record(falling, 3).best.round_number == 1
    assert record(Judge([]), 3).best is None


def test_what_is_not_a_number_is_never_the_best(record: Record) -> None:
    nan = float("nan")
    assert (
        record(Judge(by(loss=[nan, 3.0, nan])), 3, criterion=going_by("loss")).best.round_number
        == 2
    )
    assert record(Judge(by(loss=[nan, nan])), 2, criterion=going_by("loss")).best is None


def test_every_second_round_and_the_last_are_evaluated(record: Record, folder: RunFolder) -> None:
    judge = Judge(by(accuracy=[0.1, 0.2, 0.3]))
    record(judge, 5, every=2)
    assert judge.asked == [
        (2.0, "validation", "bf16"),
        (2.0, "test", "bf16"),
        (4.0, "validation", "bf16"),
        (4.0, "test", "bf16"),
        (5.0, "validation", "bf16"),
        (5.0, "test", "fp32"),  # the last round's figures are final
    ]
    assert ["test" in event for event in read_events(folder.journal)] == [False, True] * 2 + [True]


def test_the_round_that_ends_a_run_is_evaluated_whenever_it_comes(
    record: Record, folder: RunFolder
) -> None:
    judge = Judge(by(accuracy=[0.1, 0.2]))
    record(judge, 9, every=2, last=3)  # a budget may end it
    assert judge.asked[-2:] == [(3.0, "validation", "bf16"), (3.0, "test", "fp32")]
    assert (read_events(folder.journal)[-1]["round"], kept_rounds(folder)) == (3, [3])


def test_zero_is_never(record: Record) -> None:
    judge = Judge(by(accuracy=[0.1]))
    recorder = record(judge, 3, every=0)
    assert judge.asked == []
    assert recorder.best is None
    assert recorder.last.round_number == 3


def test_the_best_and_the_last_round_are_kept(record: Record, folder: RunFolder) -> None:
    record(Judge(by(accuracy=[0.1, 0.9, 0.3, 0.2, 0.5])), 5)
    assert kept_rounds(folder) == [2, 5]
    assert load_checkpoint(folder, 2).metrics["validation"] == {"accuracy": 0.9}


def test_a_round_that_becomes_the_best_replaces_the_best(record: Record, folder: RunFolder) -> None:
    record(Judge(by(accuracy=[0.1, 0.2, 0.3])), 3)
    assert kept_rounds(folder) == [3]


def test_all_rounds_are_kept_if_asked(record: Record, folder: RunFolder) -> None:
    record(Judge(by(accuracy=[0.1, 0.9, 0.3])), 3, keep=retention("all"))
    assert kept_rounds(folder) == [1, 2, 3]


_NODES = [  # pooled accuracy, worked by hand: (1·0.9 + 3·0.1) / 4 = 0.3, (1·0.1 + 3·0.5) / 4 = 0.4
    {0: {"accuracy": 0.9, "loss": 1.0, "num-examples": 1}, 1: {"accuracy": 0.1, "num-examples": 3}},
    {0: {"accuracy": 0.1, "loss": 9.0, "num-examples": 1}, 1: {"accuracy": 0.5, "num-examples": 3}},
]


def test_without_server_data_the_nodes_choose_weighted_by_examples(record: Record) -> None:
    assert record(Judge([]), 2, clients=_NODES).best.round_number == 2  # plain means: 0.5 and 0.3


def test_the_servers_data_comes_before_the_nodes(record: Record) -> None:
    judge = Judge(by(accuracy=[0.2, 0.1]))
    assert record(judge, 2, clients=_NODES).best.round_number == 1


def test_server_and_node_figures_are_never_compared(record: Record) -> None:
    """Rounds between two evaluations are not judged by the nodes' higher figures."""
    nodes = [{0: {"accuracy": 0.99, "num-examples": 1}}] * 4
    recorder = record(Judge(by(accuracy=[0.2, 0.1])), 4, clients=nodes, every=2)
    assert recorder.best.round_number == 2


def test_a_round_whose_metric_is_undefined_is_never_the_best(
    record: Record, folder: RunFolder
) -> None:
    judged = [{"accuracy": 0.9}, {"accuracy": 0.1, "auroc": 0.5}, {"accuracy": 0.9}]
    recorder = record(Judge(judged), 3, criterion=going_by("auroc"))
    assert recorder.best.round_number == 2
    noted = [event for event in read_events(folder.journal) if event["event"] == "unrated"]
    assert [(event["round"], event["metric"]) for event in noted] == [(1, "auroc"), (3, "auroc")]
    assert describe(noted[0]).startswith("round 1 cannot be chosen: auroc is not defined on its")


def test_where_no_round_can_be_rated_none_is_the_best(record: Record) -> None:
    recorder = record(Judge([{"accuracy": 0.9}] * 2), 2, criterion=going_by("auroc"))
    assert (recorder.best, recorder.last.round_number) == (None, 2)


def test_the_journal_has_a_rounds_numbers(record: Record, folder: RunFolder) -> None:
    record(Judge(by(accuracy=[0.1, 0.2])), 2, clients=_NODES)
    event = read_events(folder.journal)[1]
    assert {key: event[key] for key in ("round", "rounds", "ok", "failed", "seconds")} == {
        "round": 2,
        "rounds": 2,
        "ok": 2,
        "failed": 1,
        "seconds": 1.5,
    }
    assert event["rejected"] == {"4": "disk on fire"}
    assert event["train_loss"] == 1.75  # (10 · 1 + 30 · 2) / 40
    assert event["examples"] == 40
    assert (event["down"], event["up"]) == (20, 2)
    assert event["nodes"]["5"] == {"loss": 2.0, "examples-trained": 30}
    assert event["clients"]["mean"] == pytest.approx(0.3)
    assert event["precision"] == "fp32"


def test_what_a_node_says_of_itself_hides_no_metric(folder: RunFolder, state: AdapterState) -> None:
    sound = result(state, 1, {}, final=True)
    told = [replace(reply, facts={"loss": 0.0, "threads": 2}) for reply in sound.good]
    with closing(Journal(folder.journal)) as journal:
        recorder(folder, journal).round_finished(replace(sound, good=told))
    (event,) = read_events(folder.journal)
    assert event["nodes"]["5"] == {"loss": 2.0, "examples-trained": 30, "threads": 2}


def test_the_test_set_may_wait_for_the_end(record: Record) -> None:
    judge = Judge([{"accuracy": 0.5}, {"accuracy": 0.25}])
    recorder = record(judge, 2, test_rounds=False)
    assert recorder.best is not None
    assert recorder.best.round_number == 1
    assert "test" not in recorder.best.metrics


def test_starts_and_replies_are_noted_by_partition(folder: RunFolder) -> None:
    journal = Journal(folder.journal)
    watching = recorder(folder, journal)
    members = [Member(node_id=70 + node, partition=node, examples=1) for node in (3, 5)]
    watching.round_started(1, members)
    watching.reply_arrived(1, members[1], "disk on fire")
    journal.close()
    started, reply = read_events(folder.journal)
    assert (started["round"], started["rounds"], started["cohort"]) == (1, 1, [3, 5])
    assert (reply["round"], reply["node"], reply["problem"]) == (1, 5, "disk on fire")


def test_what_nodes_do_not_tell_is_not_made_up(folder: RunFolder, state: AdapterState) -> None:
    one = result(state, 1, {}, final=True)
    silent = [replace(reply, metrics={"epsilon": 1.0}) for reply in one.good]
    with closing(Journal(folder.journal)) as journal:
        recorder(folder, journal).round_finished(replace(one, good=silent))
    (event,) = read_events(folder.journal)
    assert (event["train_loss"], event["examples"]) == (None, None)


def secret_round(
    folder: RunFolder, outcome: RoundResult, cohort: Sequence[int], problem: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Watch a round whose cohort is secret; give the journal, and what is kept aside."""
    aside = folder.path / "aside.jsonl"
    for path in (folder.journal, aside):
        path.unlink(missing_ok=True)
    members = [Member(node_id=70 + node, partition=node, examples=1) for node in cohort]
    with closing(Journal(folder.journal)) as journal, closing(Journal(aside)) as secret:
        expected = {"clients": 2.5, "down": 1000, "up": 500}
        watching = recorder(folder, journal, Secrecy(journal=secret, expected=expected))
        watching.round_started(1, members)
        for member in members:
            watching.reply_arrived(1, member, problem)
            watching.came_late(1, member, asked_in=0)
        watching.round_finished(outcome)
    return read_events(folder.journal), read_events(aside)


def timeless(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k not in ("at", "clock")} for event in events]


def test_a_journal_is_the_same_whoever_was_drawn(folder: RunFolder, state: AdapterState) -> None:
    one = result(state, 1, {}, final=True)
    nobody = replace(one, good=[], rejected={}, seconds=0.0)
    told, _ = secret_round(folder, one, [3, 4, 5], "Node 2: … (training loss 3.21)")
    other, _ = secret_round(folder, nobody, [], "")
    assert timeless(told) == timeless(other)
    assert [event["event"] for event in told] == ["round_started", "round_finished"]
    assert told[-1]["expected"] == {"clients": 2.5, "down": 1000, "up": 500}


def test_what_a_journal_leaves_out_is_kept_aside(folder: RunFolder, state: AdapterState) -> None:
    _, kept = secret_round(folder, result(state, 1, {}, final=True), [3, 4, 5], "disk on fire")
    started, *of_nodes, finished = kept
    replies, late = of_nodes[::2], of_nodes[1::2]
    assert (started["asked"], started["cohort"]) == (3, [3, 4, 5])
    assert [(one["node"], one["problem"]) for one in replies] == [
        (node, "disk on fire") for node in (3, 4, 5)
    ]
    assert [(one["event"], one["node"]) for one in late] == [
        ("late_reply", node) for node in (3, 4, 5)
    ]
    assert (finished["ok"], finished["failed"], finished["up"]) == (2, 1, 1)
    assert finished["rejected"] == {"4": "disk on fire"}


def test_spread_is_this() -> None:
    # Sorted 0, 0.25, 1: deciles lie on the line through (0, 0), (1/2, 0.25), (1, 1).
    found = spread({7: 1.0, 2: 0.0, 4: 0.25})
    assert found["mean"] == pytest.approx(1.25 / 3)
    assert (found["worst"], found["best"]) == (0.0, 1.0)
    assert found["worst_decile"] == found["worst"]  # a tenth of three nodes is one
    assert found["deciles"] == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.4, 0.55, 0.7, 0.85])
    assert found["nodes"] == {"7": 1.0, "2": 0.0, "4": 0.25}


def test_where_less_is_better_the_highest_is_the_worst() -> None:
    found = spread({7: 1.0, 2: 0.0, 4: 0.25}, going_by("loss"))
    assert (found["metric"], found["worst"], found["best"]) == ("loss", 1.0, 0.0)
    assert found["worst_decile"] == 1.0
    assert found["deciles"] == sorted(found["deciles"])


def test_nodes_are_summed_up_by_the_runs_metric_and_accuracy_is_kept_beside_it(
    record: Record, folder: RunFolder
) -> None:
    def node(loss: float, accuracy: float) -> Values:
        held_out = {"loss": loss, "accuracy": accuracy, "num-examples": 1}
        return {**held_out, "test.loss": 2 * loss, "test.accuracy": accuracy / 2}

    nodes = {0: node(0.5, 0.25), 1: node(1.5, 0.75)}
    record(Judge([]), 1, clients=[nodes], criterion=going_by("loss"))
    (event,) = read_events(folder.journal)
    figures = {name: (event[name]["metric"], event[name]["mean"]) for name in _OF_NODES}
    assert figures == {
        "clients": ("loss", 1.0),
        "clients_test": ("loss", 2.0),
        "clients_accuracy": ("accuracy", 0.5),
        "clients_test_accuracy": ("accuracy", 0.25),
    }
    assert event["clients"]["worst"] == 1.5


_OF_NODES = ("clients", "clients_test", "clients_accuracy", "clients_test_accuracy")


def test_nodes_without_the_runs_metric_are_left_out(record: Record, folder: RunFolder) -> None:
    nodes = {**_NODES[0], 2: {"accuracy": 0.5, "auroc": 0.25, "num-examples": 1}}
    record(Judge([]), 1, clients=[nodes], criterion=going_by("auroc"))
    event = read_events(folder.journal)[-1]
    assert event["clients"]["nodes"] == {"2": 0.25}
    assert sorted(event["clients_accuracy"]["nodes"]) == ["0", "1", "2"]
    assert "clients_test" not in event


def test_the_spread_of_one_node_is_its_own() -> None:
    found = spread({3: 0.5})
    assert {found["mean"], found["worst"], found["best"], *found["deciles"]} == {0.5}
    assert found["metric"] == "accuracy"


def test_of_equal_rounds_the_one_with_the_lower_loss_is_best(record: Record) -> None:
    judge = Judge(by(accuracy=[0.5, 0.5, 0.5], loss=[0.9, 0.7, 0.8], f1=[0, 0, 0]))
    recorder = record(judge, 3)
    assert recorder.best is not None
    assert recorder.best.round_number == 2


def test_evaluations_that_fail_are_journalled(folder: RunFolder) -> None:
    with closing(Journal(folder.journal)) as journal:
        watcher = recorder(folder, journal)
        watcher.evaluation_failed(1, Member(node_id=9, partition=2, examples=1), "disk on fire")
        watcher.nobody_judged(1, {2: "disk on fire"})
    failed, nobody = read_events(folder.journal)
    assert (failed["event"], failed["node"], failed["problem"]) == (
        "evaluation_failed",
        2,
        "disk on fire",
    )
    assert (nobody["event"], nobody["failed"]) == ("nobody_judged", {"2": "disk on fire"})


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("judged_before", [True, False])
def test_a_run_that_nobody_ever_judged_fails_at_its_end_and_keeps_it(
    folder: RunFolder, state: AdapterState, *, final: bool, judged_before: bool
) -> None:
    told = {0: {"loss": 0.5, "accuracy": 0.5, "num-examples": 1.0}}
    with closing(Journal(folder.journal)) as journal:
        watcher = recorder(folder, journal)
        watcher.round_finished(result(state, 1, told if judged_before else {}, final=False))
        watcher.nobody_judged(2, {2: "disk on fire"})
        end = result(state, 2, {}, final=final)
        if final and not judged_before:
            words = (
                "Round 2: of the 1 node that were asked to evaluate .* none did:\n  node 2: disk"
            )
            with pytest.raises(QuorumError, match=words):
                watcher.round_finished(end)
        else:
            watcher.round_finished(end)
        assert 2 in kept_rounds(folder)
        again = recorder(folder, journal)  # as one that goes on from there
        again.go_on(load_checkpoint(folder, 2))
        again.nobody_judged(3, {2: "disk on fire"})
        fails = contextlib.nullcontext() if judged_before else pytest.raises(QuorumError)
        with fails:
            again.round_finished(result(state, 3, {}, final=True))


def going_on(
    folder: RunFolder, record: Record, harm: Callable[[Path], object] = lambda path: None
) -> Recorder:
    """Go on from round 2 of a run whose best round is the first, after harm to its checkpoint."""
    judge = Judge(by(accuracy=[0.9, 0.1], loss=[0.1, 0.9], f1=[0, 0]))
    record(judge, 2, keep=retention("last:1,best:1"))
    last, best = load_checkpoint(folder, 2), min(folder.checkpoints.iterdir())
    harm(best)
    with closing(Journal(folder.journal)) as journal:
        again = recorder(folder, journal, judge=judge)
        again.go_on(last)
    return again


def damaged(folder: RunFolder) -> list[int]:
    """List the rounds whose checkpoint is noted as damaged."""
    events = read_events(folder.journal)
    return [event["round"] for event in events if event["event"] == "checkpoint_damaged"]


def test_a_damaged_best_round_is_noted_and_done_without(record: Record, folder: RunFolder) -> None:
    assert going_on(folder, record).best.round_number == 1
    assert going_on(folder, record, lambda path: path.write_bytes(b"cut")).best.round_number == 2
    assert damaged(folder) == [1]


def test_a_best_round_that_cannot_be_read_now_is_not_done_without(
    record: Record, folder: RunFolder
) -> None:
    def hide(path: Path) -> None:
        path.unlink()
        path.mkdir()  # cannot be read, whoever runs this

    with pytest.raises(RunFolderError, match=r"Cannot read the checkpoint .*may be sound"):
        going_on(folder, record, hide)
    assert damaged(folder) == []


def test_where_the_server_judges_no_node_has_to(folder: RunFolder, state: AdapterState) -> None:
    judge = Judge(by(accuracy=[0.5], loss=[0.9], f1=[0]))
    with closing(Journal(folder.journal)) as journal:
        watcher = recorder(folder, journal, judge=judge)
        watcher.nobody_judged(1, {2: "disk on fire"})
        watcher.round_finished(result(state, 1, {}, final=True))
    assert watcher.best is not None


def test_checkpoints_say_what_they_are_made_with(record: Record, folder: RunFolder) -> None:
    made = Snapshot(values={"config": {"seed": 3}, "versions": {"torch": "2.6"}})
    record(Judge([]), 1, made=made)
    assert load_checkpoint(folder, 1).require_progress().part("made") == made
