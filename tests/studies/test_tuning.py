"""Values are chosen by validation data, on the stated budget, and used for the runs."""

import math
from pathlib import Path

import pytest
from study_samples import TUNED, Pretence, conducted, plan_of

from fedpeft_app.errors import ConfigError
from fedpeft_app.studies.plan import Cell
from fedpeft_app.studies.record import Ending
from fedpeft_app.studies.tuning import Choice, trials

FAILED = Ending(exit_status=1, run=None, message="diverged")


def high_rate_is_best(cell: Cell) -> float:
    """The higher rate wins."""
    return 0.9 if cell.config["train.learning-rate"] == 1e-2 else 0.6


def test_trials_run_on_the_stated_budget(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TUNED)
    tried = trials(plan.study, plan.entries)
    assert [trial.candidate for trial in tried] == [
        {"train.learning-rate": 1e-3},
        {"train.learning-rate": 1e-2},
    ]
    cells = [cell for trial in tried for cell in plan.trial_cells(trial)]
    assert [(cell.config["rounds"], cell.config["seed"]) for cell in cells] == [(2, 7)] * 2
    assert {cell.config["mode"] for cell in cells} == {"federated"}


def test_the_choice_goes_into_the_runs_it_was_made_for(tmp_path: Path) -> None:
    runner = Pretence(tmp_path / "runs", high_rate_is_best)
    conducted(plan_of(tmp_path, TUNED), tmp_path, runner)
    rates = {cell.name: cell.config["train.learning-rate"] for cell in runner.asked[2:]}
    assert rates == {
        "lora, seed 0": 1e-2,
        "lora, seed 1": 1e-2,
        "head, seed 0": 0.0,  # nothing was searched for it
        "head, seed 1": 0.0,
        "lora, central, seed 0": 1e-2,  # agrees in the tuning key, method.name
        "lora, central, seed 1": 1e-2,
    }


def test_test_data_has_no_say(tmp_path: Path) -> None:
    """Validation prefers one rate, test the other."""
    from study_samples import journal, write_run

    def contrary(cell: Cell) -> Ending:
        low = cell.config["train.learning-rate"] == 1e-3
        events = journal(cell.config, 0.2 if low else 0.9)
        events[1]["validation"] = {"accuracy": 0.9 if low else 0.2}
        run = write_run(tmp_path / "runs", cell.run_name, events)
        return Ending(exit_status=0, run=run, message="")

    now = conducted(plan_of(tmp_path, TUNED), tmp_path, Pretence(tmp_path / "runs", contrary))
    assert [choice.chosen for choice in now.choices] == [{"train.learning-rate": 1e-3}]


def test_a_loss_is_better_when_it_is_lower(tmp_path: Path) -> None:
    text = TUNED.replace("[tune]\n", '[tune]\nmetric = "loss"\n')
    runner = Pretence(tmp_path / "runs", high_rate_is_best)  # loss = 1 − accuracy
    now = conducted(plan_of(tmp_path, text), tmp_path, runner)
    ((_, low), (_, high)) = now.choices[0].scores
    assert (low, high) == (pytest.approx(0.4), pytest.approx(0.1))
    assert now.choices[0].chosen == {"train.learning-rate": 1e-2}


def test_a_metric_that_nothing_measured_chooses_nothing(tmp_path: Path) -> None:
    text = TUNED.replace("[tune]\n", '[tune]\nmetric = "auroc"\n')  # of one class there is none
    with pytest.raises(ConfigError, match=r"tune\.metric = 'auroc'.*: accuracy, loss"):
        conducted(plan_of(tmp_path, text), tmp_path, Pretence(tmp_path / "runs"))


def test_what_is_no_number_is_not_chosen(tmp_path: Path) -> None:
    text = TUNED.replace("[tune]\n", '[tune]\nmetric = "loss"\n')

    def diverging(cell: Cell) -> float:
        return math.nan if cell.config["train.learning-rate"] == 1e-3 else 0.5

    now = conducted(plan_of(tmp_path, text), tmp_path, Pretence(tmp_path / "runs", diverging))
    assert [score for _, score in now.choices[0].scores] == [None, pytest.approx(0.5)]


@pytest.mark.parametrize(
    ("chosen", "edge"),
    [
        ({"rounds": 1, "train.learning-rate": 1e-3}, ("rounds", "train.learning-rate")),
        ({"rounds": 2, "train.learning-rate": 1e-2}, ("train.learning-rate",)),
        ({"rounds": 2, "train.learning-rate": 2e-3}, ()),
    ],
)
def test_a_choice_at_the_edge_of_what_was_tried_is_known(
    chosen: dict[str, float], edge: tuple[str, ...]
) -> None:
    tried = [
        {"rounds": rounds, "train.learning-rate": rate, "train.optimizer": "sgd", "seed": 1}
        for rounds in (2, 1, 3)
        for rate in (1e-2, 2e-3, 1e-3)
    ]
    scores = tuple((one, 1.0 if chosen.items() <= one.items() else None) for one in tried)
    assert Choice(group={}, scores=scores).at_edge == edge
    assert Choice(group={}, scores=((tried[0], None),)).at_edge == ()


def test_the_first_of_equals_is_chosen() -> None:
    scores = (({"rounds": 1}, None), ({"rounds": 2}, 0.5), ({"rounds": 3}, 0.5))
    assert Choice(group={}, scores=scores).chosen == {"rounds": 2}
    assert Choice(group={}, scores=scores[:1]).chosen is None


def test_a_candidate_that_failed_is_not_chosen(tmp_path: Path) -> None:
    def diverging(cell: Cell) -> float | Ending:
        return FAILED if cell.config["train.learning-rate"] == 1e-2 else 0.3

    now = conducted(plan_of(tmp_path, TUNED), tmp_path, Pretence(tmp_path / "runs", diverging))
    assert now.choices[0].chosen == {"train.learning-rate": 1e-3}
    assert [score is None for _, score in now.choices[0].scores] == [False, True]


def test_nothing_runs_on_values_that_nothing_chose(tmp_path: Path) -> None:
    def failing(cell: Cell) -> float | Ending:
        return FAILED if cell.config["train.learning-rate"] else 0.5

    runner = Pretence(tmp_path / "runs", failing)
    now = conducted(plan_of(tmp_path, TUNED), tmp_path, runner)
    assert runner.names[2:] == ["head, seed 0", "head, seed 1"]
    assert [slot.cell is None for slot in now.slots] == [True, True, False, False, True, True]


def test_a_crashed_trial_leaves_the_choice_open(tmp_path: Path) -> None:
    def crashing(cell: Cell) -> float | Ending:
        crashed = Ending(exit_status=-9, run=None, message="")
        return crashed if cell.config["train.learning-rate"] == 1e-2 else 0.3

    plan = plan_of(tmp_path, TUNED)
    now = conducted(plan, tmp_path, Pretence(tmp_path / "runs", crashing))
    assert now.choices == ()
    again = Pretence(tmp_path / "runs", high_rate_is_best)
    now = conducted(plan, tmp_path, again)
    assert again.names[0] == "tuning lora: train.learning-rate = 0.01, seed 7"
    assert now.choices[0].chosen == {"train.learning-rate": 1e-2}


def test_several_keys_are_tried_in_every_combination(tmp_path: Path) -> None:
    text = TUNED.replace(
        "train.learning-rate = [1e-3, 1e-2]",
        "train.learning-rate = [1e-3, 1e-2]\ntrain.head-learning-rate = [0.01, 0.1, 1.0]",
    )
    plan = plan_of(tmp_path, text)
    assert len(trials(plan.study, plan.entries)) == 2 * 3


def test_a_cell_that_sets_the_value_itself_is_not_tuned(tmp_path: Path) -> None:
    text = TUNED.replace('{mode = "central"}', '{mode = "central", train.learning-rate = 0.5}')
    entries = plan_of(tmp_path, text).entries
    assert [entry.search is None for entry in entries] == [False, True, True]
