"""Numbers are read from journals, and none is made up."""

import json
from pathlib import Path
from typing import Any

import pytest
from study_samples import Pretence, conducted, journal, plan_of

from fedpeft_app.errors import RunFolderError
from fedpeft_app.studies.conduct import standing
from fedpeft_app.studies.record import Archive, measure

CONFIG = {"method.name": "lora", "rounds": 2}


def test_validation_is_that_of_the_chosen_round() -> None:
    events = journal(CONFIG, 0.8)
    other = {**events[1], "round": 1, "validation": {"accuracy": 0.1}}
    assert measure([events[0], other, *events[1:]]).validation["accuracy"] == pytest.approx(0.7)


def test_nodes_judge_where_the_server_does_not() -> None:
    events = journal(CONFIG, 0.8)
    del events[1]["validation"]
    events[1]["clients"] = {"mean": 0.6, "worst": 0.1}
    assert measure(events).validation == {"accuracy": 0.6}


def test_nodes_judge_by_the_runs_metric_and_by_accuracy() -> None:
    events = journal(CONFIG, 0.8)
    del events[1]["validation"]
    events[1]["clients"] = {"metric": "loss", "mean": 1.5}
    events[1]["clients_accuracy"] = {"metric": "accuracy", "mean": 0.6}
    assert measure(events).validation == {"loss": 1.5, "accuracy": 0.6}


def test_what_nodes_report_on_has_no_say_in_validation() -> None:
    start, done, end = journal(CONFIG, 0.8)
    del done["validation"]
    done |= {"clients": {"mean": 0.6}, "clients_test": {"mean": 0.9}, "untrained": [3]}
    found = measure([start, done, end])
    assert found.validation == {"accuracy": 0.6}
    assert (found.clients, found.clients_test) == ({"mean": 0.6}, {"mean": 0.9})
    assert (found.figure("clients.mean"), found.figure("accuracy")) == (0.9, 0.8)
    assert found.untrained == [3]


def test_nodes_are_shown_as_they_did_in_the_chosen_round() -> None:
    start, done, end = journal(CONFIG, 0.8)
    first = {**done, "round": 1, "clients": {"mean": 0.1}}
    second = {**done, "clients": {"mean": 0.2, "worst": 0.1}}
    assert measure([start, first, second, end]).clients == {"mean": 0.2, "worst": 0.1}
    summed_up = {**end, "clients": {"mean": 0.3}}
    assert measure([start, first, second, summed_up]).clients == {"mean": 0.3}
    assert measure([start, done, end]).figure("clients.worst") is None


def test_records_from_before_nodes_were_kept_can_be_read(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 'name = "x"\n[grid]\nmethod.name = ["lora"]\n')
    now = conducted(plan, tmp_path, Pretence(tmp_path / "runs"))
    (path,) = (tmp_path / "cells").glob("*.json")
    fields = json.loads(path.read_text(encoding="utf-8"))
    for added in ("clients", "clients_test", "untrained"):
        del fields["measured"][added]
    path.write_text(json.dumps(fields), encoding="utf-8")
    assert standing(plan, Archive(tmp_path)) == now


def test_examples_are_counted_over_all_rounds() -> None:
    events = journal(CONFIG, 0.8)
    assert measure([*events, {**events[1], "round": 1, "examples": 11}]).examples == 111


def test_nodes_alone_count_the_same_each() -> None:
    def node(number: int, test: float, examples: int) -> dict[str, Any]:
        judged = {"validation": {"accuracy": test - 0.1}, "test": {"accuracy": test}}
        train = {"examples-trained": float(examples)}
        return {"event": "node_finished", "node": number, "train": train, **judged}

    start, _, end = journal(CONFIG, 0.9)
    found = measure([start, node(0, 0.5, 10), node(1, 0.9, 90), {**end, "round": 1}])
    assert found.test["accuracy"] == pytest.approx(0.7)  # not .9, the best node's
    assert found.validation["accuracy"] == pytest.approx(0.6)
    assert (found.examples, found.chosen, found.rounds) == (100, "mean over 2 nodes", [])


def test_what_a_private_run_keeps_secret_is_not_made_up() -> None:
    start, done, end = journal(CONFIG, 0.8)
    for secret in ("examples", "down", "up", "seconds", "train_loss"):
        del done[secret]
    for secret in ("down", "up"):
        del end[secret]
    found = measure([start, done, end])
    assert (found.examples, found.down, found.up) == (None, None, None)
    assert found.test["accuracy"] == 0.8


def test_examples_that_some_rounds_do_not_tell_are_not_counted() -> None:
    events = journal(CONFIG, 0.8)
    assert measure([*events, {**events[1], "round": 1, "examples": None}]).examples is None


def test_private_nodes_alone_tell_no_examples() -> None:
    start, _, end = journal(CONFIG, 0.9)
    judged = {"validation": {"accuracy": 0.4}, "test": {"accuracy": 0.5}}
    train = {"num-examples": 1, "epsilon": 3.0}
    alone = {"event": "node_finished", "node": 0, "train": train, **judged}
    assert measure([start, alone, {**end, "round": 1}]).examples is None


@pytest.mark.parametrize("missing", ["run_started", "run_finished"])
def test_a_journal_without_the_numbers_is_refused(missing: str) -> None:
    events = [event for event in journal(CONFIG, 0.8) if event["event"] != missing]
    with pytest.raises(RunFolderError, match=f"Expected '{missing}' in the journal"):
        measure(events)
