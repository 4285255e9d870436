"""Charts: where values lie, what is drawn of them, and the same numbers in a table."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reported_runs import ATTACK, Read, read_page

from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.observe.report.axis import (
    bytes_axis,
    log_bytes_axis,
    reach,
    rounds_axis,
    value_axis,
)
from fedpeft_app.observe.report.chart import Chart, Point, Series, figure, panel, thinned
from fedpeft_app.observe.report.figures import listed, metric, shown, whole

NUMBERS = st.floats(-1e100, 1e100)


def test_wide_intervals_leave_means_to_be_seen() -> None:
    assert reach([0.5, 0.75], [0.125, 0.125]) == (0.375, 0.875)
    assert reach([0.5, 0.75], [0.125, 9.0]) == (0.25, 1.0)  # as far as means are apart; a share
    assert reach([2.0, 6.0], [0.0, 99.0]) == (-2.0, 10.0)
    assert reach([4.0], [3.0]) == (1.0, 7.0)
    assert reach([0.5], [3.0]) == (0.0, 1.0)
    assert reach([0.5, 0.5 + 1e-16], [0.25, 0.125]) == (0.25, 0.75)  # the same but for rounding


def chart(*series: Series, own_x: bool = False, apart: bool = False) -> Chart:
    points = [point for one in series for point in one.points]
    return Chart(
        title="accuracy",
        x_name="round",
        x=rounds_axis([point.x for point in points], whole),
        y=value_axis([point.y for point in points if point.y is not None], metric),
        series=series,
        own_x=own_x,
        apart=apart,
    )


def line(*values: float | None, name: str = "test") -> Series:
    return Series(name=name, points=[Point(x=at, y=y) for at, y in enumerate(values, 1)])


def polylines(read: Read) -> list[list[str]]:
    return [str(one["points"]).split() for tag, one in read.tags if tag == "polyline"]


@given(st.lists(NUMBERS, min_size=1))
def test_all_values_lie_within_their_axis(values: list[float]) -> None:
    axis = value_axis(values, metric)
    assert all(0 <= axis.share(value) <= 1 for value in values)
    assert list(axis.ticks) == sorted(axis.ticks)
    assert len(axis.ticks) <= 8


def test_ticks_are_what_people_count_by() -> None:
    assert value_axis([0.52, 0.93], metric).ticks == [0.5, 0.6, 0.7, 0.8, 0.9]
    assert rounds_axis([1, 2, 3], whole).ticks == [1, 2, 3]
    assert rounds_axis(range(1, 101), whole).ticks == [1, *range(10, 101, 10)]
    assert rounds_axis([4], whole).ticks == [4]
    assert rounds_axis([5, 10, 15, 20], whole).ticks == [5, 8, 10, 12, 14, 16, 18, 20]


def test_bytes_are_written_in_whole_units() -> None:
    axis = bytes_axis([3 * 2**20], human_bytes)
    assert [human_bytes(tick) for tick in axis.ticks][:3] == ["0 B", "1.0 MiB", "2.0 MiB"]
    log = log_bytes_axis([2**18, 2**32], human_bytes)
    assert [human_bytes(tick) for tick in log.ticks][:3] == ["1.0 MiB", "10 MiB", "100 MiB"]
    assert log.share(math.sqrt(log.low * log.high)) == pytest.approx(0.5)


def test_a_narrow_logarithmic_axis_has_ticks_too() -> None:
    for high in (1.1, 1.5, 2.5, 7.0):
        assert len(log_bytes_axis([15 * 2**20, 15 * 2**20 * high], human_bytes).ticks) >= 3


def test_a_series_keeps_its_look_whatever_stands_beside_it() -> None:
    alone = Series(name="b", points=line(0.1, 0.2).points, look=5)
    classes = {one.get("class") for _, one in read_page(figure(chart(alone))).tags}
    assert {"c5", "d1"} <= classes
    assert "c0" not in classes


def test_a_line_is_broken_where_nothing_was_measured() -> None:
    read = read_page(figure(chart(line(0.1, 0.2, None, 0.4, 0.5))))
    assert [len(points) for points in polylines(read)] == [2, 2]


def test_higher_values_are_drawn_higher() -> None:
    ((low, high),) = polylines(read_page(figure(chart(line(0.1, 0.9)))))
    assert float(low.split(",")[1]) > float(high.split(",")[1])
    assert low.split(",")[0] == "0.0"
    assert high.split(",")[0] == "1000.0"


def test_the_table_has_every_number_and_a_dash_for_none() -> None:
    page = figure(chart(line(0.1, None), line(0.25, 0.5, name="validation")))
    text = read_page(page).text
    assert "round test validation 1 0.1000 0.2500 2 – 0.5000" in text


def test_the_script_is_given_the_points_that_are_drawn() -> None:
    read = read_page(figure(chart(line(0.0, 1.0), line(None, 0.5, name="validation"))))
    ((_, data),) = read.scripts
    stops = json.loads(data)
    assert [stop[1] for stop in stops] == ["1", "2"]
    assert [[item[0] for item in stop[2]] for stop in stops] == [[0], [0, 1]]
    assert stops[1][2][1][2] == "0.5000"


def test_series_with_places_of_their_own_have_a_stop_each() -> None:
    read = read_page(figure(chart(line(0.0, 1.0), line(0.5, name="b"), own_x=True, apart=True)))
    assert [len(stop[2]) for stop in json.loads(read.scripts[0][1])] == [1, 1, 1]
    assert not polylines(read)


def test_a_name_cannot_leave_its_place() -> None:
    read = read_page(figure(chart(line(0.1, 0.2, name=ATTACK), line(0.3, name="b"))))
    assert [kind for kind, _ in read.scripts] == ["application/json"]
    assert not [tag for tag, _ in read.tags if tag == "img"]
    assert ATTACK in read.text


def test_long_lines_are_thinned_to_what_can_be_seen() -> None:
    points = [Point(x=at, y=float(at)) for at in range(5000)]
    kept = thinned(points)
    assert len(kept) <= 401
    assert (kept[0], kept[-1]) == (points[0], points[-1])


def test_no_charts_no_panel() -> None:
    assert panel([]) == ""


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.5", [1]])
def test_what_is_no_number_is_a_dash(value: object) -> None:
    assert shown(value, metric) == "–"


def test_rounds_next_to_each_other_are_written_together() -> None:
    assert listed([5, 1, 2, 3, 3]) == "1–3, 5"
