"""The moving lines: what they say, at any width."""

import math
from io import StringIO

import pytest
from rich.console import Console

from fedpeft_app.observe.block import ASCII, BLOCKS, Glyphs, bar, block, duration, sparkline
from fedpeft_app.observe.progress import Progress

_RUN = Progress(
    stage="training",
    since=100.0,
    round_number=4,
    rounds=10,
    finished=3,
    began=100.0,
    asked=8,
    done=5,
    failed=1,
    metric="accuracy",
    values=((1, 0.25, 1.0), (2, 0.75, 0.5), (3, 0.5, 0.7)),
    down=4 * 2**20,
    up=2**20,
    epsilon=1.25,
    durations=(30.0, 20.0, 30.0),
)


def drawn(
    progress: Progress = _RUN, width: int = 100, glyphs: Glyphs = BLOCKS, elapsed: float = 125.0
) -> list[str]:
    lines = block(progress, elapsed=elapsed, clock=112.0, width=width, glyphs=glyphs)
    return [line.plain for line in lines]


def test_a_wide_terminal_has_four_lines() -> None:
    assert drawn() == [
        f"⠋ round 4/10 {'━' * 11}{'─' * 27}  training (12 s)",
        "clients: 5/8 done · 2 in flight · 1 failed",
        "accuracy 0.5000  ▁█▅  best 0.7500 in round 2",
        "4.0 MiB down · 1.0 MiB up · epsilon 1.25 · 2:05 elapsed · about 3:18 left",
    ]


def test_a_narrow_terminal_has_more_lines_with_the_same_words() -> None:
    assert drawn(width=40) == [
        f"⠋ round 4/10 {'━' * 2}{'─' * 6}  training (12 s)",
        "clients: 5/8 done · 2 in flight",
        "1 failed",
        "accuracy 0.5000  ▁█▅",
        "best 0.7500 in round 2",
        "4.0 MiB down · 1.0 MiB up",
        "epsilon 1.25 · 2:05 elapsed",
        "about 3:18 left",
    ]


@pytest.mark.parametrize("width", [10, 20, 40, 41, 60, 80, 200])
@pytest.mark.parametrize("glyphs", [BLOCKS, ASCII])
def test_no_line_is_as_wide_as_the_terminal(width: int, glyphs: Glyphs) -> None:
    many = tuple((number, math.sin(number), 1.0) for number in range(1, 300))
    for values in (_RUN.values, many):
        progress = Progress(**{**fields_of(_RUN), "values": values})
        assert all(len(line) < width for line in drawn(progress, width, glyphs))


def fields_of(progress: Progress) -> dict[str, object]:
    return {name: getattr(progress, name) for name in progress.__slots__}


def test_a_terminal_without_blocks_gets_ascii() -> None:
    assert "".join(drawn(glyphs=ASCII)).isascii()


def test_the_best_round_is_marked() -> None:
    console = Console(file=StringIO(), width=100, record=True)
    console.print(block(_RUN, elapsed=0.0, clock=0.0, width=100)[2])
    styled = console.export_text(styles=True)
    assert "\x1b[1;32m█\x1b[0m" in styled
    assert styled.count("\x1b[1;32m") == 1


def test_before_the_first_round_one_line_says_what_goes_on() -> None:
    assert drawn(Progress(stage="starting Flower and Ray"), elapsed=3.2) == [
        "⠴ starting Flower and Ray (3 s)"
    ]


def test_a_secret_cohort_is_unknown_and_its_traffic_expected() -> None:
    secret = {"asked": 0, "done": 0, "failed": 0, "traffic_expected": True}
    lines = drawn(Progress(**{**fields_of(_RUN), **secret}))
    assert lines[1] == "clients: how many is secret"
    assert lines[3].startswith("expected 4.0 MiB down · 1.0 MiB up")


def test_nothing_is_said_of_what_is_not_known() -> None:
    first = Progress(stage="training", since=100.0, round_number=1, rounds=2, began=100.0, asked=1)
    assert drawn(first)[1:] == ["clients: 0/1 done · 1 in flight", "2:05 elapsed"]


def test_a_sparkline_goes_from_lowest_to_highest() -> None:
    assert sparkline([0.0, 1.0, 0.5, 7 / 7]) == "▁█▅█"
    assert sparkline([3.0, 3.0]) == "▅▅"
    assert sparkline([1.0, math.nan, 2.0]) == "▁ █"
    assert sparkline([]) == sparkline([math.nan]).strip() == ""


@pytest.mark.parametrize(
    ("share", "filled"), [(-1, 0), (0, 0), (0.49, 4), (0.99, 9), (1, 10), (2, 10)]
)
def test_a_bar_is_full_at_the_end_and_not_before(share: float, filled: int) -> None:
    assert bar(share, 10) == "━" * filled + "─" * (10 - filled)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (7.4, "7 s"), (67, "1:07"), (3667, "1:01:07")]
)
def test_seconds_are_written_as_clocks_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text
