"""The table says what was measured, and what was not."""

import csv
import io
from pathlib import Path

import pytest
from study_samples import TUNED, TWO_BY_TWO, Pretence, conducted, plan_of

from fedpeft_app.studies.conduct import Standing, standing
from fedpeft_app.studies.plan import Cell, Plan
from fedpeft_app.studies.record import Archive, Ending
from fedpeft_app.studies.table import lines, missing, to_csv, to_markdown


def accuracy(cell: Cell) -> float:
    """Full is best; every seed shifts both methods by the same .1, and lora's lag grows."""
    seed = int(cell.config["seed"])
    lag = 0.01 * (seed + 1) if cell.config["method.name"] == "lora" else 0.0
    return 0.5 + 0.1 * seed - lag


@pytest.fixture
def study(tmp_path: Path) -> tuple[Plan, Standing]:
    """A study that was run in full."""
    plan = plan_of(tmp_path, TWO_BY_TWO)
    return plan, conducted(plan, tmp_path, Pretence(tmp_path / "runs", accuracy))


def test_means_differences_and_ratios_by_hand(study: tuple[Plan, Standing]) -> None:
    plan, now = study
    full, _, lora, _ = lines(plan.study, now)
    # full: .5 .6 .7, s = .1; lora: .49 .58 .67, s = .09; t(2) / √3 = 2.4841
    assert full.mean == pytest.approx(0.6)
    assert full.half_width == pytest.approx(0.24841, abs=1e-5)
    assert lora.mean == pytest.approx(0.58)
    assert lora.half_width == pytest.approx(0.09 * 2.4841, abs=1e-5)
    # differences −.01 −.02 −.03, s = .01: ten times surer than either mean
    assert lora.difference == pytest.approx(-0.02)
    assert lora.difference_half_width == pytest.approx(0.024841, abs=1e-6)
    assert full.difference is None  # a row is not compared with itself
    assert (lora.bytes_per_message, lora.times_fewer, full.times_fewer) == (40, 100, 1)
    assert (lora.trainable, lora.examples, lora.seconds) == (10, 100, 8)
    assert (lora.runs, lora.planned) == (3, 3)


def test_the_text_of_a_table(study: tuple[Plan, Standing]) -> None:
    plan, now = study
    text = to_markdown(plan.study, now).splitlines()
    assert text[:7] == [
        "# two-by-two",
        "",
        "| test accuracy | 0.1 | 1.0 |",
        "| --- | --- | --- |",
        "| full | 0.6000 ± 0.2484 | 0.6000 ± 0.2484 |",
        "| lora | 0.5800 ± 0.2236 | 0.5800 ± 0.2236 |",
        "",
    ]
    assert text[7] == (
        "| method.name | data.dirichlet-alpha | test accuracy | n | difference to full "
        "| parameters | bytes per message | times fewer | examples trained | seconds |"
    )
    assert text[11] == (
        "| lora | 0.1 | 0.5800 ± 0.2236 | 3 of 3 | -0.0200 ± 0.0248 | 10 | 40 B | 100.0 | 100 | 8 |"
    )
    assert text[-1] == "- made with fedpeft = 0"
    assert not any("missing" in line for line in text)


def test_csv_has_every_digit_and_nothing_for_nothing(study: tuple[Plan, Standing]) -> None:
    plan, now = study
    rows = list(csv.DictReader(io.StringIO(to_csv(lines(plan.study, now)))))
    assert len(rows) == 4
    assert float(rows[2]["mean"]) == lines(plan.study, now)[2].mean
    assert rows[0]["difference"] == ""


def test_what_was_not_measured_is_a_dash_and_is_counted(tmp_path: Path) -> None:
    def partly(cell: Cell) -> float | Ending:
        if cell.config["method.name"] == "full":
            return Ending(exit_status=1, run=None, message="no memory\nat all")
        return 0.5

    plan = plan_of(tmp_path, TWO_BY_TWO)
    runner = Pretence(tmp_path / "runs", partly)
    now = conducted(plan, tmp_path, runner, wanted=lambda entry, seed: seed == 0)
    full, _, lora, _ = lines(plan.study, now)
    assert (full.runs, full.mean, full.trainable, full.bytes_per_message) == (0, None, None, None)
    assert (lora.runs, lora.mean, lora.half_width) == (1, 0.5, None)
    assert (lora.difference, lora.times_fewer) == (None, None)  # nothing to compare with
    text = to_markdown(plan.study, now)
    assert "| full | 0.1 | – | 0 of 3 | – | – | – | – | – | – |" in text
    assert "| lora | 0.1 | 0.5000 | 1 of 3 | – | 10 | 40 B | – | 100 | 8 |" in text
    assert "- 10 of 12 runs missing:" in text
    assert missing(plan.study, now)[:2] == [
        "full / 0.1, seed 0: failed: no memory",
        "full / 0.1, seed 1: not run",
    ]


def test_a_metric_that_the_task_does_not_have_is_missing(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO_BY_TWO + 'metric = "f2"\n')
    now = conducted(plan, tmp_path, Pretence(tmp_path / "runs"))
    assert lines(plan.study, now)[0].mean is None
    assert missing(plan.study, now)[0].endswith("no 'f2' on the test set, accuracy, loss")


def test_a_baseline_without_a_network_has_no_message(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TUNED)
    lora, _, central = lines(plan.study, conducted(plan, tmp_path, Pretence(tmp_path / "runs")))
    assert lora.bytes_per_message == 40
    assert (central.row, central.bytes_per_message) == ("lora, central", None)


def test_choice_and_budget_are_stated(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TUNED)
    before = to_markdown(plan.study, standing(plan, Archive(tmp_path)))
    assert "missing: lora, seed 0: tuning has chosen nothing yet" in before
    text = to_markdown(plan.study, conducted(plan, tmp_path, Pretence(tmp_path / "runs")))
    assert (
        "- tuned for method.name = lora: train.learning-rate = 0.001 (validation accuracy: "
        "train.learning-rate = 0.001: 0.4000; train.learning-rate = 0.01: 0.4000)" in text
    )
    assert (
        "- tuning budget: 2 of 2 runs, 16 s, with rounds = 2, seeds 7; "
        "chosen by validation data alone" in text
    )
