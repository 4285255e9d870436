"""A table, or a choice, of what no run measures is refused before anything runs."""

from pathlib import Path

import pytest
from study_samples import TUNED, plan_of

from fedpeft_app.errors import ConfigError

GRID = 'name = "x"\n[grid]\nmethod.name = ["lora", "head"]\n'
SERVERLESS = "evaluate.server = false\n"
BY_NODES = SERVERLESS + "strategy.fraction-evaluate = 1.0\n"
NODES_TUNE = "config = {rounds = 2, evaluate.server = false, strategy.fraction-evaluate = 1.0}"


def metric_of(folder: Path, text: str) -> str:
    return plan_of(folder, text).study.layout.metric


def fault(folder: Path, text: str) -> str:
    """Read a study that has one fault."""
    with pytest.raises(ConfigError) as caught:
        plan_of(folder, text)
    (found,) = caught.value.faults
    return str(found)


def test_the_servers_test_set_is_what_a_table_shows_where_all_have_it(tmp_path: Path) -> None:
    assert metric_of(tmp_path, GRID) == "accuracy"
    both = GRID + "[config]\nstrategy.fraction-evaluate = 1.0\n"
    assert metric_of(tmp_path, both) == "accuracy"


def test_the_mean_over_nodes_is_shown_where_not_all_have_a_test_set(tmp_path: Path) -> None:
    assert metric_of(tmp_path, GRID + f"[config]\n{BY_NODES}") == "clients.mean"
    partly = GRID + "[config]\nstrategy.fraction-evaluate = 1.0\n"
    partly += '[[cell]]\nrow = "own"\nset = {evaluate.server = false}\n'
    assert metric_of(tmp_path, partly) == "clients.mean"  # all have it, so one quantity


def test_two_quantities_are_never_put_into_one_table_unasked(tmp_path: Path) -> None:
    text = GRID + f"[config]\n{BY_NODES}"
    text += '[[cell]]\nrow = "alone"\nset = {mode = "local", evaluate.server = true, '
    text += "strategy.fraction-evaluate = 0.0}\n"
    assert "not every run measures it" in fault(tmp_path, text)
    assert metric_of(tmp_path, text + '[table]\nmetric = "accuracy"\n') == "accuracy"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[table]\nmetric = 'acuracy'\n", "unknown metric. Known: loss, accuracy"),
        ("[table]\nmetric = 'acuracy'\n", "Did you mean 'accuracy'?"),
        ("[table]\nmetric = 'clients.worst_decile'\n", "Did you mean 'clients.worst-decile'?"),
        ("[table]\nmetric = 'perplexity'\n", "Known: loss, accuracy, macro-f1, auroc, clients"),
        ("[table]\nmetric = 'clients.mean'\n", "set strategy.fraction-evaluate above 0"),
        (f"[config]\n{BY_NODES}[table]\nmetric = 'loss'\n", "set evaluate.server and"),
        (f"[config]\n{SERVERLESS}", "table.metric = 'accuracy': no run measures it: set eval"),
        ("[config]\nevaluate.every = 0\n", "table.metric = 'accuracy': no run measures it"),
    ],
)
def test_what_no_run_measures_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in fault(tmp_path, GRID + text)


def test_options_that_the_task_does_not_take_are_one_fault(tmp_path: Path) -> None:
    found = fault(tmp_path, GRID + '[config]\n"task.options" = \'{"sep": 1}\'\n')
    assert "unknown option 'sep' of text-classification" in found
    assert found.endswith("(In every cell.)")


def test_nodes_choose_by_the_runs_metric_or_by_accuracy(tmp_path: Path) -> None:
    text = TUNED.replace("config = {rounds = 2}", NODES_TUNE)
    assert tuning_metric(tmp_path, text) == ("accuracy", False)
    by_loss = text.replace("[tune]\n", "[tune]\nmetric = 'loss'\n")
    found = fault(tmp_path, by_loss)
    assert found.startswith("tune.metric = 'loss': tuning runs do not measure it on validation")
    assert "only: accuracy. Without evaluate.server" in found
    selected = by_loss.replace(
        "fraction-evaluate = 1.0", 'fraction-evaluate = 1.0, evaluate.select-by = "loss"'
    )
    assert tuning_metric(tmp_path, selected) == ("loss", True)


def tuning_metric(folder: Path, text: str) -> tuple[str, bool]:
    tuning = plan_of(folder, text).study.tuning
    assert tuning is not None
    return tuning.metric, tuning.lower_is_better


@pytest.mark.parametrize(
    ("task", "headline"),
    [
        ('"task.options" = \'{"multi_label": true}\'\n', "micro-f1"),
        ('task = "causal-lm"\n', "loss"),
    ],
)
def test_a_study_goes_by_its_tasks_headline(tmp_path: Path, task: str, headline: str) -> None:
    lower = headline == "loss"
    text = TUNED.replace("[config]\n", f"[config]\n{task}")
    assert metric_of(tmp_path, text) == headline
    assert tuning_metric(tmp_path, text) == (headline, lower)
    by_nodes = text.replace("[config]\n", f"[config]\n{BY_NODES}")
    by_nodes, _, _ = by_nodes.partition("[[cell]]")  # which is central
    study = plan_of(tmp_path, by_nodes).study
    assert (study.layout.metric, study.layout.node_metric) == ("clients.mean", headline)
    assert tuning_metric(tmp_path, by_nodes) == (headline, lower)


def test_nodes_judged_by_different_metrics_share_no_table(tmp_path: Path) -> None:
    text = GRID + f"[config]\n{BY_NODES}"
    text += '[[cell]]\nrow = "by loss"\nset = {evaluate.select-by = "loss"}\n'
    assert "not all runs have the same: accuracy, loss" in fault(tmp_path, text)


def test_tuning_that_would_measure_nothing_is_refused(tmp_path: Path) -> None:
    text = TUNED.replace("{rounds = 2}", "{rounds = 2, evaluate.server = false}")
    assert "tune.metric = 'accuracy': tuning runs do not measure it" in fault(tmp_path, text)


def test_the_server_chooses_by_any_metric_of_the_task(tmp_path: Path) -> None:
    assert plan_of(tmp_path, TUNED.replace("[tune]\n", "[tune]\nmetric = 'macro-f1'\n"))
    found = fault(tmp_path, TUNED.replace("[tune]\n", "[tune]\nmetric = 'macro-f'\n"))
    assert found.endswith("only: loss, accuracy, macro-f1, auroc. Did you mean 'macro-f1'?")
