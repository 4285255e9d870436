"""The local-only baseline: every node for itself, the best chosen by validation data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import LocalGrid, read_events

from fedpeft_app.assembly import fit_settings
from fedpeft_app.config import parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.errors import ConfigError
from fedpeft_app.examiner import Examiner
from fedpeft_app.runs.checkpoint import load_checkpoint
from fedpeft_app.runs.directory import RunFolder


@pytest.fixture
def settings(tiny_settings: dict[str, Any]) -> dict[str, Any]:
    """Flat settings of a local-only run."""
    return {**tiny_settings, "mode": "local"}


def run_judged(
    settings: Mapping[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    validation: Sequence[Mapping[str, float]],
) -> RunFolder:
    """Run four nodes whose states get these validation metrics, node by node."""
    prepared = list(validation)
    examine = Examiner.examine

    def judge(examiner: Examiner, state: Any, split: str, precision: str) -> Any:
        if split == "validation":
            return prepared.pop(0)
        return examine(examiner, state, split, precision)

    monkeypatch.setattr(Examiner, "examine", judge)
    return coordinate(LocalGrid(4, dict(settings)), parse(settings), run_id=1)


@pytest.mark.parametrize(
    ("select_by", "values", "best"),
    [
        ("accuracy", [0.1, 0.3, 0.9, 0.9], 2),  # the first of equals
        ("loss", [0.5, 0.1, 0.9, 0.9], 1),
        ("loss", [float("nan"), 0.9, 0.8, float("nan")], 2),
        ("loss", [float("nan")] * 4, 0),
    ],
)
def test_the_best_node_is_exported(
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    select_by: str,
    values: list[float],
    best: int,
) -> None:
    metrics = [{"accuracy": 0.5, "loss": 0.5, select_by: value} for value in values]
    run = run_judged({**settings, "evaluate.select-by": select_by}, monkeypatch, metrics)
    events = read_events(run.journal)
    nodes = {event["node"]: event for event in events if event["event"] == "node_finished"}
    assert sorted(nodes) == [0, 1, 2, 3]
    assert events[-1]["test"] == nodes[best]["test"]
    assert load_checkpoint(run, 1).metrics["test"] == nodes[best]["test"]
    over_nodes = events[-1]["nodes"]
    test = {str(node): event["test"][select_by] for node, event in nodes.items()}
    assert (over_nodes["metric"], over_nodes["nodes"]) == (select_by, test)
    best_of, worst_of = (min, max) if select_by == "loss" else (max, min)
    assert over_nodes["best"] == best_of(test.values())
    assert over_nodes["worst"] == worst_of(test.values())


def test_nodes_that_cannot_be_rated_are_noted(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = [{"accuracy": 0.9}, {"accuracy": 0.1, "auroc": 0.5}, {"accuracy": 0.9}, {}]
    run = run_judged({**settings, "evaluate.select-by": "auroc"}, monkeypatch, metrics)
    events = read_events(run.journal)
    assert load_checkpoint(run, 1).metrics["validation"] == metrics[1]
    noted = [event for event in events if event["event"] == "unrated"]
    assert [(event["node"], event["metric"]) for event in noted] == [(0, "auroc"), (2, "auroc")]


@pytest.mark.parametrize("mode", ["local", "federated"])
def test_a_metric_that_the_task_does_not_have_is_refused_before_anybody_is_asked(
    tiny_settings: dict[str, Any], mode: str
) -> None:
    settings = {**tiny_settings, "mode": mode, "evaluate.select-by": "perplexity"}
    grid = LocalGrid(4, settings)
    with pytest.raises(ConfigError, match=r"'perplexity'.*does not measure it, only: loss, acc"):
        coordinate(grid, parse(settings), run_id=1)
    assert grid.sent == []


def test_every_node_trains_as_long_as_all_rounds_would(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["rounds"] = 3
    grid = LocalGrid(4, settings)
    run = coordinate(grid, parse(settings), run_id=1)
    trained = [message for message in grid.sent if message.metadata.message_type == "train"]
    assert len(trained) == 4
    finished = [e for e in read_events(run.journal) if e["event"] == "node_finished"]
    assert [event["train"]["examples-trained"] for event in finished] == [81] * 4  # 3 · 108 / 4


def test_a_private_node_that_trains_alone_spends_what_a_run_of_all_rounds_would(
    settings: dict[str, Any],
) -> None:
    private = {**settings, "privacy.mode": "sample", "privacy.target-epsilon": 4.0, "rounds": 3}
    run = coordinate(LocalGrid(4, private), parse(private), run_id=1)
    (stated,) = (event for event in run.events() if event["event"] == "privacy_statement")
    assert stated["rows"]["privacy"].startswith("(4.00, 1e-05)-differential privacy")


@pytest.mark.parametrize(
    ("mode", "rounds", "epochs", "steps"), [("federated", 5, 2, 3), ("local", 1, 10, 15)]
)
def test_nodes_that_train_alone_train_all_rounds_in_one_go(
    settings: dict[str, Any], mode: str, rounds: int, epochs: int, steps: int
) -> None:
    more = {"mode": mode, "rounds": 5, "train.local-epochs": 2, "train.max-steps": 3}
    found = fit_settings(parse({**settings, **more}))
    assert (found.rounds, found.epochs, found.max_steps) == (rounds, epochs, steps)
