"""The table says what was measured, and what was not."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from study_samples import TUNED, TWO_BY_TWO, Pretence, conducted, journal, plan_of, write_run

from fedpeft_app.studies.conduct import Standing, standing
from fedpeft_app.studies.page import to_markdown
from fedpeft_app.studies.plan import Cell, Plan
from fedpeft_app.studies.record import Archive, Ending
from fedpeft_app.studies.table import lines, missing, to_csv


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
    assert lora.run_bytes == 18 + 12
    assert (lora.runs, lora.planned) == (3, 3)


def test_the_text_of_a_table(study: tuple[Plan, Standing]) -> None:
    plan, now = study
    text = to_markdown(plan.study, now).splitlines()
    assert text[:7] == [
        "# two-by-two",
        "",
        "| test accuracy | data.dirichlet-alpha = 0.1 | data.dirichlet-alpha = 1.0 |",
        "| --- | --: | --: |",
        "| full | 0.6000 ± 0.2484 | 0.6000 ± 0.2484 |",
        "| lora | 0.5800 ± 0.2236 | 0.5800 ± 0.2236 |",
        "",
    ]
    assert text[7] == (
        "| method.name | data.dirichlet-alpha | test accuracy | runs | difference to full "
        "| parameters | bytes per message | times fewer | bytes per run | examples trained "
        "| seconds |"
    )
    assert text[11] == (
        "| lora | 0.1 | 0.5800 ± 0.2236 | 3 of 3 | -0.0200 ± 0.0248 | 10 | 40 B | 100.0 | 30 B "
        "| 100 | 8 |"
    )
    assert text[8] == "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
    assert text[-1] == "- made with fedpeft = 0 (12 runs)"
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
    assert "| full | 0.1 | – | 0 of 3 | – | – | – | – | – | – | – |" in text
    assert "| lora | 0.1 | 0.5000 | 1 of 3 | – | 10 | 40 B | – | 30 B | 100 | 8 |" in text
    assert "- 10 of 12 runs missing:" in text
    assert missing(plan.study, now)[:2] == [
        "full / 0.1, seed 0: failed: no memory",
        "full / 0.1, seeds 1, 2: not run",
    ]


def test_a_metric_that_a_run_did_not_measure_is_missing(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO_BY_TWO + 'metric = "auroc"\n')
    now = conducted(plan, tmp_path, Pretence(tmp_path / "runs"))
    assert lines(plan.study, now)[0].mean is None
    assert missing(plan.study, now)[0].endswith("no auroc, only: accuracy, loss")


def test_a_baseline_without_a_network_has_no_message(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TUNED)
    lora, _, central = lines(plan.study, conducted(plan, tmp_path, Pretence(tmp_path / "runs")))
    assert lora.bytes_per_message == 40
    assert (central.row, central.bytes_per_message) == ("lora, central", None)


def test_choice_and_budget_are_stated(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TUNED)
    before = to_markdown(plan.study, standing(plan, Archive(tmp_path)))
    assert "\n  - lora, seeds 0, 1: tuning has chosen nothing yet\n" in before
    text = to_markdown(plan.study, conducted(plan, tmp_path, Pretence(tmp_path / "runs")))
    assert (
        "- tuned for method.name = lora: train.learning-rate = 0.001 (validation accuracy: "
        "train.learning-rate = 0.001: 0.4000; train.learning-rate = 0.01: 0.4000); "
        "train.learning-rate at the edge of what was tried" in text
    )
    assert (
        "- tuning budget: 2 of 2 runs, 16 s, with rounds = 2, seeds 7; "
        "chosen by validation data alone" in text
    )


def test_a_candidate_that_failed_is_named_with_its_reason(tmp_path: Path) -> None:
    def diverging(cell: Cell) -> float | Ending:
        failed = Ending(exit_status=1, run=None, message="not finite <nan>\nat all")
        return failed if cell.config["train.learning-rate"] == 1e-2 else 0.5

    plan = plan_of(tmp_path, TUNED)
    now = conducted(plan, tmp_path, Pretence(tmp_path / "runs", diverging))
    text = to_markdown(plan.study, now)
    assert text.endswith(
        "- 1 of 2 tuning runs without a score:\n"
        "  - tuning lora: train.learning-rate = 0.01, seed 7: failed: not finite \\<nan>\n"
    )
    assert "train.learning-rate = 0.01: –); train.learning-rate at the edge" in text
    assert "runs missing" not in text


def keeping_secrets(runs: Path) -> Callable[[Cell], Ending]:
    """Make up runs whose journals do not say who was drawn, nor what follows from it."""

    def run(cell: Cell) -> Ending:
        start, done, end = journal(cell.config, 0.5)
        for secret in ("examples", "train_loss", "down", "up", "seconds"):
            del done[secret]
        expected = {"clients": 2.5, "down": 90, "up": 60}
        told = {key: end[key] for key in end if key not in ("down", "up")}
        events = [start, done, {**told, "expected": expected}]
        return Ending(exit_status=0, run=write_run(runs, cell.run_name, events), message="")

    return run


def test_what_a_private_run_keeps_secret_is_a_dash_in_the_table(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, 'name = "x"\n[grid]\nmethod.name = ["lora"]\n')
    runner = Pretence(tmp_path / "runs", keeping_secrets(tmp_path / "runs"))
    now = conducted(plan, tmp_path, runner)
    (line,) = lines(plan.study, now)
    assert (line.mean, line.bytes_per_message, line.seconds) == (0.5, 40, 8.0)
    assert (line.run_bytes, line.examples) == (None, None)
    (row,) = [row for row in to_markdown(plan.study, now).splitlines() if row.startswith("| lora")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[-3:] == ["–", "–", "8"]


# ------------------------------------------------------------------ what nodes measure

PERSONAL = """
name = "personal"
seeds = [0, 1]
[config]
evaluate.server = false
strategy.fraction-evaluate = 1.0
[grid]
method.head = ["train", "personal"]
"""


def judged_by_nodes(runs: Path, **figures: dict[str, float]) -> Callable[[Cell], Ending]:
    """Make up runs whose nodes judge on their own data."""

    def run(cell: Cell) -> Ending:
        start, done, end = journal(cell.config, 0.5)
        end.pop("test")
        events = [start, done, {**end, "test": {}, **figures}]
        return Ending(exit_status=0, run=write_run(runs, cell.run_name, events), message="")

    return run


def test_nodes_are_shown_where_the_server_has_no_test_set(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, PERSONAL)
    figures = {"mean": 0.8, "worst_decile": 0.5, "worst": 0.4}
    runner = Pretence(tmp_path / "runs", judged_by_nodes(tmp_path / "runs", clients=figures))
    text = to_markdown(plan.study, conducted(plan, tmp_path, runner))
    assert "| method.head | accuracy, mean over nodes | runs |" in text
    assert "| personal | 0.8000 ± 0.0000 | 2 of 2 |" in text
    assert (
        "- each node is judged on data of its own that it holds out to choose the round by, and "
        "counts the same (4 runs)\n" in text
    )
    assert "the server's test set" not in text


def test_the_metric_of_nodes_is_named(tmp_path: Path) -> None:
    text = PERSONAL.replace("[grid]", 'evaluate.select-by = "macro-f1"\n[grid]')
    plan = plan_of(tmp_path, text)
    figures = {"metric": "macro-f1", "mean": 0.25}
    runner = Pretence(tmp_path / "runs", judged_by_nodes(tmp_path / "runs", clients=figures))
    shown = to_markdown(plan.study, conducted(plan, tmp_path, runner))
    assert "| method.head | macro-f1, mean over nodes | runs |" in shown
    assert "| personal | 0.2500 ± 0.0000 | 2 of 2 |" in shown


@pytest.mark.parametrize(
    ("metric", "value"),
    [("clients.mean", 0.7), ("clients.worst-decile", 0.3), ("clients.worst", 0.2)],
)
def test_what_nodes_hold_out_to_report_comes_first(
    tmp_path: Path, metric: str, value: float
) -> None:
    plan = plan_of(tmp_path, PERSONAL + f'[table]\nmetric = "{metric}"\n')
    chosen_on = {"mean": 0.8, "worst_decile": 0.5, "worst": 0.4}
    reported = {"mean": 0.7, "worst_decile": 0.3, "worst": 0.2}
    judge = judged_by_nodes(tmp_path / "runs", clients=chosen_on, clients_test=reported)
    now = conducted(plan, tmp_path, Pretence(tmp_path / "runs", judge))
    assert [line.mean for line in lines(plan.study, now)] == [value, value]
    assert "holds out only to report on, and counts the same (4 runs)" in to_markdown(
        plan.study, now
    )


def test_the_best_is_marked_only_where_all_others_are_surely_behind(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO_BY_TWO)

    def judged(cell: Cell) -> float:
        """With 0.1 lora always lags by .05 and a little; with 1.0 by as much as by chance."""
        seed, is_lora = int(cell.config["seed"]), cell.config["method.name"] == "lora"
        lags = (
            (0.05, 0.051, 0.052) if cell.config["data.dirichlet-alpha"] == 0.1 else (0.1, 0, -0.06)
        )
        return 0.5 + 0.1 * seed - is_lora * lags[seed]

    now = conducted(plan, tmp_path, Pretence(tmp_path / "runs", judged))
    assert [(line.row, line.column) for line in lines(plan.study, now) if line.best] == [
        ("full", "0.1")
    ]
    text = to_markdown(plan.study, now)
    assert "| full | **0.6000 ± 0.2484** | 0.6000 ± 0.2484 |" in text
    assert "in bold: better than every other row" in text


def test_of_a_loss_the_least_is_best(tmp_path: Path) -> None:
    text = TWO_BY_TWO.replace("[table]", '[table]\nmetric = "loss"')
    plan = plan_of(tmp_path, text)
    now = conducted(plan, tmp_path, Pretence(tmp_path / "runs", accuracy))
    assert plan.study.layout.lower_is_better
    assert {line.row for line in lines(plan.study, now) if line.best} <= {"full"}


@pytest.mark.parametrize("lags", [(0.25, 0.25, 0.25), (0.25, 0.25, None)])
def test_nothing_is_best_without_spread_or_with_seeds_missing(
    lags: tuple[float | None, ...], tmp_path: Path
) -> None:
    def judged(cell: Cell) -> float | Ending:
        lag = lags[int(cell.config["seed"])] if cell.config["method.name"] == "lora" else 0.0
        return Ending(exit_status=1, run=None, message="no") if lag is None else 0.75 - lag

    plan = plan_of(tmp_path, TWO_BY_TWO)
    now = conducted(plan, tmp_path, Pretence(tmp_path / "runs", judged))
    assert not any(line.best for line in lines(plan.study, now))


def test_one_seed_marks_nothing(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO_BY_TWO.replace("[0, 1, 2]", "[0]"))
    now = conducted(plan, tmp_path, Pretence(tmp_path / "runs", accuracy))
    assert not any(line.best for line in lines(plan.study, now))


TWO_SETS = TWO_BY_TWO.replace("[grid]", '[grid]\ndata.name = ["reuters-r8", "20newsgroups"]')


def test_rows_are_compared_with_those_that_learn_from_the_same(tmp_path: Path) -> None:
    """On the easy data full leads lora by .01, .02 and .03; on the hard ones lora leads."""

    def measured(cell: Cell) -> float:
        is_hard = cell.config["data.name"] == "20newsgroups"
        lead = 0.005 if is_hard and cell.config["method.name"] == "lora" else 0.0
        return accuracy(cell) * (0.5 if is_hard else 1.0) + lead * (
            4 + 2 * int(cell.config["seed"])
        )

    plan = plan_of(tmp_path, TWO_SETS)
    now = conducted(plan, tmp_path, Pretence(tmp_path / "runs", measured))
    easy, hard = lines(plan.study, now)[:2], lines(plan.study, now)[4:6]
    assert [line.row for line in easy] == ["reuters-r8, full", "reuters-r8, lora"]
    assert [(line.group, line.series) for line in hard] == [
        ("20newsgroups", "full"),
        ("20newsgroups", "lora"),
    ]
    assert easy[0].difference is hard[0].difference is None  # "full" is the baseline of both
    assert easy[1].difference == pytest.approx(-0.02)
    assert hard[1].difference == pytest.approx(0.02)
    assert [line.row for line in lines(plan.study, now) if line.best] == ["20newsgroups, lora"] * 2


def test_a_baseline_may_be_a_row_of_one_group(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO_SETS.replace('"full"\n', '"reuters-r8, full"\n', 2))
    assert plan.study.layout.baseline == "reuters-r8, full"
