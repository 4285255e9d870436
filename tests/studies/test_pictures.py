"""The pictures of a study: all that was measured is in them, and the same records give the same."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from study_samples import TWO_BY_TWO, Pretence, conducted, plan_of

from fedpeft_app.observe.report.study import Moment, Row
from fedpeft_app.studies.pictures import pictures
from fedpeft_app.studies.pictures.canvas import Portrayal
from fedpeft_app.studies.pictures.columns import is_wide, placed, shifted
from fedpeft_app.studies.pictures.traffic import pareto_front
from fedpeft_app.studies.plan import Cell
from fedpeft_app.studies.portrayal import portray
from fedpeft_app.studies.story import study_story

TWO_SETS = TWO_BY_TWO.replace("[grid]", '[grid]\ndata.name = ["reuters-r8", "20newsgroups"]')
TWO_KEYS = TWO_BY_TWO.replace(
    '[table]\ncolumns = "data.dirichlet-alpha"',
    "train.local-epochs = [1, 2]\n[table]\n"
    'columns = ["data.dirichlet-alpha", "train.local-epochs"]',
)


def portrayal_of(
    folder: Path, text: str = TWO_BY_TWO, measured: Callable[[Cell], float] = lambda cell: 0.8
) -> Portrayal:
    """Portray a study that was run in full."""
    plan = plan_of(folder, text)
    now = conducted(plan, folder, Pretence(folder / "runs", measured))
    return portray(plan.study, now, study_story(plan, now, command=""))


def test_every_row_and_column_is_named(tmp_path: Path) -> None:
    drawn = {name: picture.decode() for name, picture in pictures(portrayal_of(tmp_path)).items()}
    assert set(drawn) == {"bytes", "columns"}
    for text in drawn.values():
        assert all(f">{word}<" in text for word in ("full", "lora"))
    assert ">data.dirichlet-alpha = 0.1<" in drawn["bytes"]
    assert ">data.dirichlet-alpha<" in drawn["columns"]


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    portrayal = portrayal_of(tmp_path)
    assert pictures(portrayal) == pictures(portrayal)


def test_two_keys_of_columns_make_a_grid_with_its_numbers(tmp_path: Path) -> None:
    drawn = pictures(portrayal_of(tmp_path, TWO_KEYS))
    assert set(drawn) == {"bytes", "grid"}
    text = drawn["grid"].decode()
    assert text.count(">0.800<") == 8  # of two rows
    assert all(f">{word}<" in text for word in ("train.local-epochs", "0.1", "2"))


def test_rounds_and_nodes_are_drawn_where_they_were_measured(tmp_path: Path) -> None:
    portrayal = portrayal_of(tmp_path)
    moments = [Moment(round=1, value=0.5, sent=1e6), Moment(round=2, value=0.7, sent=None)]
    rows: list[Row] = [replace(row, moments=moments) for row in portrayal.story.rows]
    story = replace(portrayal.story, rows=rows, curve_metric="validation accuracy")
    drawn = pictures(
        replace(portrayal, story=story, nodes={("lora", "0.1"): [0.1, 0.9]}, node_metric="macro-f1")
    )
    assert set(drawn) == {"bytes", "columns", "rounds", "nodes"}  # bytes of a round are missing
    assert b"validation accuracy, mean over seeds" in drawn["rounds"]
    assert b"macro-f1 of single nodes" in drawn["nodes"]


def test_a_row_looks_the_same_in_all_pictures(tmp_path: Path) -> None:
    portrayal = portrayal_of(tmp_path)
    fewer = [replace(row, mean=None) if row.row == "full" else row for row in portrayal.story.rows]
    drawn = pictures(replace(portrayal, story=replace(portrayal.story, rows=fewer)))
    assert b"#d55e00" in drawn["columns"]  # the second colour, though the first row has no point
    assert b"#0072b2" not in drawn["columns"]


def test_less_than_two_points_of_a_column_are_no_picture_of_bytes(tmp_path: Path) -> None:
    portrayal = portrayal_of(tmp_path)
    local = [
        replace(row, run_bytes=None) if row.row == "full" else row for row in portrayal.story.rows
    ]
    assert "bytes" not in pictures(replace(portrayal, story=replace(portrayal.story, rows=local)))


def test_the_front_is_what_nothing_beats() -> None:
    points = [(4, 0.8), (2, 0.7), (1, 0.5), (2, 0.6), (3, 0.4), (5, 0.8)]
    assert pareto_front(points) == [(1, 0.5), (2, 0.7), (4, 0.8)]
    assert pareto_front(points, lower_is_better=True) == [(1, 0.5), (3, 0.4)]


def test_rows_without_a_name_or_with_an_odd_one_are_in_the_legend(tmp_path: Path) -> None:
    portrayal = portrayal_of(tmp_path)
    odd = {"full": "", "lora": "_$x^2$"}
    rows = [replace(row, series=odd[row.row]) for row in portrayal.story.rows]
    drawn = pictures(replace(portrayal, story=replace(portrayal.story, rows=rows)))
    for name in ("bytes", "columns"):
        assert all(word in drawn[name].decode() for word in (">all<", "_$x^2$<"))


def test_a_table_of_columns_alone_is_drawn(tmp_path: Path) -> None:
    text = TWO_BY_TWO.replace('method.name = ["full", "lora"]\n', "").replace(
        'baseline = "full"', ""
    )
    assert set(pictures(portrayal_of(tmp_path, text))) == {"columns"}


def test_columns_are_placed_by_number_or_in_order() -> None:
    assert placed(["1.0", "0.1"]) == {"0.1": 0.1, "1.0": 1.0}
    assert placed(["iid", "0.1"]) == {"iid": 0.0, "0.1": 1.0}
    assert placed(["Infinity", "0.1"]) == {"Infinity": 0.0, "0.1": 1.0}
    assert [*placed(["0.0", "3.0", "8.0"], zero_is_no_limit=True)] == ["3.0", "8.0", "0.0"]
    assert [*placed(["0", "50", "2000"], zero_is_no_limit=True)] == ["50", "2000", "0"]
    assert [*placed(["0", "50"], zero_is_no_limit=True)] == ["50", "0"]
    assert is_wide([0.01, 1.0])
    assert not is_wide([0.0, 100.0])


def test_what_is_learnt_from_other_data_has_panels_of_its_own(tmp_path: Path) -> None:
    pictured = pictures(portrayal_of(tmp_path, TWO_SETS))
    drawn = {name: picture.decode() for name, picture in pictured.items()}
    assert drawn["columns"].count(">reuters-r8<") == drawn["columns"].count(">20newsgroups<") == 1
    assert ">reuters-r8, data.dirichlet-alpha = 0.1<" in drawn["bytes"]
    for text in drawn.values():
        assert text.count(">full<") == text.count(">lora<") == 1  # in the legend: one look for both
        assert "#009e73" not in text  # the third colour


def test_a_grid_is_in_the_order_of_numbers(tmp_path: Path) -> None:
    text = TWO_KEYS.replace("train.local-epochs = [1, 2]", "train.local-epochs = [2, 10, 1]")
    drawn = pictures(portrayal_of(tmp_path, text))["grid"].decode()
    assert drawn.index(">1<") < drawn.index(">2<") < drawn.index(">10<")


def test_series_stand_side_by_side_on_either_kind_of_axis() -> None:
    near, far = {"1": 1.0, "3": 3.0}, {"1": 1.0, "100": 100.0}
    assert [shifted(near, name, 0.1) for name in near] == pytest.approx([1.2, 3.2])
    assert [shifted(far, name, 0.5) for name in far] == pytest.approx([10.0, 1000.0])
    assert shifted(near, "3", 0.0) == 3.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("text", [TWO_BY_TWO, TWO_KEYS])
def test_what_is_no_number_is_not_drawn(tmp_path: Path, text: str, value: float) -> None:
    def measured(cell: Cell) -> float:
        return value if cell.config["method.name"] == "full" else 0.8

    drawn = pictures(portrayal_of(tmp_path, text, measured))
    assert len(drawn) == 1  # the bytes of one method alone are no picture
    for picture in drawn.values():
        assert b"lora" in picture
        assert b"full" not in picture
    other = tmp_path / "other"
    other.mkdir()
    assert not pictures(portrayal_of(other, text, lambda cell: value))
