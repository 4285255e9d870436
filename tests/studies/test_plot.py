"""The picture of a study: every measured line is in it, and the same lines give the same bytes."""

from dataclasses import fields, replace

from fedpeft_app.studies.plot import to_svg
from fedpeft_app.studies.table import Line


def line(row: str, mean: float | None, run_bytes: float | None) -> Line:
    """Make a line of a table."""
    nothing = dict.fromkeys(field.name for field in fields(Line))
    made = {**nothing, "row": row, "column": "", "planned": 1, "runs": 1}
    return Line(**{**made, "mean": mean, "run_bytes": run_bytes})  # type: ignore[arg-type]


TABLE = [line("int8", 0.9, 2.0**20), line("full", 0.95, 2.0**30), line("failed", None, 2.0**20)]


def test_every_measured_line_is_a_point() -> None:
    picture = to_svg(TABLE, "accuracy")
    assert picture is not None
    text = picture.decode()
    assert all(word in text for word in (">int8<", ">full<", "accuracy, mean"))
    assert "failed" not in text


def test_the_same_lines_give_the_same_bytes() -> None:
    assert to_svg(TABLE, "accuracy") == to_svg(list(TABLE), "accuracy")


def test_columns_are_named() -> None:
    picture = to_svg([replace(one, column="0.5") for one in TABLE], "accuracy")
    assert picture is not None
    assert b"int8, 0.5" in picture


def test_less_than_two_points_are_no_picture() -> None:
    assert to_svg(TABLE[1:], "accuracy") is None
    assert to_svg([line("local", 0.7, None), TABLE[0]], "accuracy") is None
