"""A study's results as LaTeX, to be read into a paper that loads booktabs."""

from collections.abc import Iterable, Sequence

from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.studies.page import metric_title
from fedpeft_app.studies.study import Study
from fedpeft_app.studies.table import Line

_ABSENT = "--"
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    **{mark: f"{{{mark}}}" for mark in "[]"},  # else an option of the line break before it
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def to_latex(study: Study, table: Sequence[Line]) -> str:
    """Write a tabular: a row a line, the metric by column, then what a row costs.

    Args:
        study: What the file says.
        table: Its lines.

    Returns:
        LaTeX that needs booktabs; what was not measured is a dash, the best of a column bold
        where it is surely so. Means over seeds ± half of the 95 % interval.
    """
    columns = list(dict.fromkeys(line.column for line in table))
    placed = {(line.row, line.column): line for line in table}
    rows = list(dict.fromkeys(line.row for line in table))
    keys = ", ".join(study.layout.columns)
    heads = [f"{keys} = {column}" if column else metric_title(study) for column in columns]
    costs = ["parameters", "per message"]
    body = []
    for row in rows:
        fields = [placed.get((row, column)) for column in columns]
        first = next(field for field in fields if field)
        cells = [escaped(row), *map(_level, fields), _count(first.trainable), _bytes(first)]
        body.append(cells)
    head = [", ".join(study.layout.rows) or "cell", *heads, *costs]
    name = escaped(f"{study.name}: {metric_title(study)}, {_seeds(study)}")
    lines = [
        f"% {name}, mean and 95 % interval; needs \\usepackage{{booktabs}}",
        f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        _line(map(escaped, head)),
        r"\midrule",
        *map(_line, body),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Write text such that LaTeX prints it.

    Args:
        text: Anything.
    """
    return "".join(_SPECIAL.get(mark, mark) for mark in " ".join(text.split()))


def _seeds(study: Study) -> str:
    """Say how many seeds there are."""
    return f"{len(study.seeds)} seed" + "s" * (len(study.seeds) != 1)


def _line(cells: Iterable[str]) -> str:
    """Write a line of the table."""
    return f"{' & '.join(cells)} \\\\"


def _level(line: Line | None) -> str:
    """Write a mean with its interval."""
    if line is None or line.mean is None:
        return _ABSENT
    width = f" \\pm {line.half_width:.4f}" if line.half_width is not None else ""
    value = f"{line.mean:.4f}{width}"
    return f"$\\mathbf{{{value}}}$" if line.best else f"${value}$"


def _count(value: int | None) -> str:
    """Write a number of parameters."""
    return _ABSENT if value is None else f"{value:,}"


def _bytes(line: Line) -> str:
    """Write the bytes of a message."""
    return human_bytes(line.bytes_per_message) if line.bytes_per_message else _ABSENT
