"""How far a run is → the few lines that move on a terminal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.observe.progress import Progress
from fedpeft_app.privacy.statement import shown

_LONGEST_BAR, _SHORTEST_BAR = 40, 8  # columns
_LONGEST_SPARK = 40
_FRAMES_PER_S = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Glyphs:
    """What lines are drawn with.

    Attributes:
        spinner: Frames of what shows that the view is alive.
        filled, empty: Of the bar, one column.
        blocks: Of the sparkline, from the lowest to the highest.
        between: Between two pieces of a line.
    """

    spinner: str
    filled: str
    empty: str
    blocks: str
    between: str


BLOCKS = Glyphs(spinner="⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", filled="━", empty="─", blocks="▁▂▃▄▅▆▇█", between=" · ")
ASCII = Glyphs(spinner="|/-\\", filled="=", empty=".", blocks="_.-=+*#@", between=" | ")


def block(
    progress: Progress, *, elapsed: float, clock: float, width: int, glyphs: Glyphs = BLOCKS
) -> list[Text]:
    """Draw a run.

    Args:
        progress: How far it is.
        elapsed: Seconds since it was launched.
        clock: Now, by the clock of its journal.
        width: Columns of the terminal.
        glyphs: What to draw with.

    Returns:
        Lines of less than `width` columns: one before the first round, then up to four, more of
        them where it is narrow.
    """
    since = clock - progress.since if progress.since is not None else elapsed
    stage = f"{progress.stage} ({duration(since)})"
    alive = glyphs.spinner[int(elapsed * _FRAMES_PER_S) % len(glyphs.spinner)]
    room = max(width - 1, 1)  # a full line wraps on some terminals
    if not progress.rounds:
        return _cut([Text(f"{alive} {stage}")], room)
    lines = [
        *packed([Text(alive) + Text(" ") + _rounds(progress, room, glyphs), Text(stage)], room),
        *packed([Text(piece) for piece in _clients(progress)], room, glyphs.between),
        *packed(_metric(progress, room, glyphs), room, "  "),
        *packed([Text(one) for one in _costs(progress, elapsed, clock)], room, glyphs.between),
    ]
    return _cut(lines, room)


def sparkline(values: Sequence[float], blocks: str = BLOCKS.blocks) -> str:
    """Draw numbers as blocks of different heights, one each.

    Args:
        values: The numbers.
        blocks: From the lowest to the highest.

    Returns:
        The lowest number gets the lowest block, the highest the highest; all alike the middle one;
        what is not finite a blank.
    """
    sound = [value for value in values if math.isfinite(value)]
    low, high = min(sound, default=0.0), max(sound, default=0.0)

    def drawn(value: float) -> str:
        if not math.isfinite(value):
            return " "
        share = (value - low) / (high - low) if high > low else 0.5
        return blocks[round(share * (len(blocks) - 1))]

    return "".join(map(drawn, values))


def bar(share: float, width: int, glyphs: Glyphs = BLOCKS) -> str:
    """Draw a share.

    Args:
        share: In [0, 1].
        width: Columns.
        glyphs: What to draw with.
    """
    filled = math.floor(min(max(share, 0.0), 1.0) * width)
    return glyphs.filled * filled + glyphs.empty * (width - filled)


def duration(seconds: float) -> str:
    """Write seconds as a clock does: 7 s, 1:07, 1:01:07.

    Args:
        seconds: From 0.
    """
    minutes, left = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{left:02d}"
    return f"{minutes}:{left:02d}" if minutes else f"{left} s"


def packed(pieces: Sequence[Text], width: int, between: str = "  ") -> list[Text]:
    """Put pieces into as few lines as hold them, none broken in two.

    Args:
        pieces: The pieces.
        width: Columns of a line.
        between: What stands between two on a line.
    """
    lines: list[Text] = []
    for piece in pieces:
        if lines and lines[-1].cell_len + len(between) + piece.cell_len <= width:
            lines[-1] = lines[-1] + Text(between) + piece
        else:
            lines.append(piece)
    return lines


def _rounds(progress: Progress, room: int, glyphs: Glyphs) -> Text:
    """Say which round it is, with a bar of those that ended."""
    title = f"round {progress.round_number}/{progress.rounds} "
    width = min(max(room // 2 - len(title), _SHORTEST_BAR), _LONGEST_BAR)
    return Text(title, style="bold") + Text(
        bar(progress.finished / progress.rounds, width, glyphs), style="not bold cyan"
    )


def _clients(progress: Progress) -> list[str]:
    """Say what clients do while they do it."""
    if not progress.began and not progress.asked:
        return []
    if not progress.asked:
        return ["clients: how many is secret"]
    failed = [f"{progress.failed} failed"] if progress.failed else []
    flying = [f"{progress.in_flight} in flight"] if progress.in_flight else []
    return [f"clients: {progress.done}/{progress.asked} done", *flying, *failed]


def _metric(progress: Progress, room: int, glyphs: Glyphs) -> list[Text]:
    """Draw how the run's metric went, the best round marked."""
    best = progress.best
    if best is None:
        return []
    values = progress.values[-min(_LONGEST_SPARK, room) :]
    line = Text(sparkline([value for _, value, _ in values], glyphs.blocks), style="cyan")
    at = next((at for at, (number, *_) in enumerate(values) if number == best[0]), None)
    if at is not None:
        line.stylize("bold green", at, at + 1)
    return [
        Text(f"{progress.metric} {progress.values[-1][1]:.4f}"),
        line,
        Text(f"best {best[1]:.4f} in round {best[0]}", style="green"),
    ]


def _costs(progress: Progress, elapsed: float, clock: float) -> list[str]:
    """Say what was sent and spent so far, and how long it will take."""
    left = progress.left_s(clock)
    expected = "expected " if progress.traffic_expected else ""
    sent = f"{expected}{human_bytes(progress.down)} down", f"{human_bytes(progress.up)} up"
    epsilon = f"epsilon {shown(progress.epsilon)}" if progress.epsilon is not None else ""
    return [
        *(sent if progress.down or progress.up else ()),
        *([epsilon] if epsilon else ()),
        f"{duration(elapsed)} elapsed",
        *([f"about {duration(left)} left"] if left and left >= 0.5 else ()),
    ]


def _cut(lines: Sequence[Text], room: int) -> list[Text]:
    """Cut off what no packing could make short enough."""
    for line in lines:
        line.truncate(room)
    return list(lines)
