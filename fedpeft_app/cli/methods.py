"""`fedpeft methods`: what each PEFT method trains and sends on a model."""

from collections.abc import Sequence

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from fedpeft_app.config import RunConfig
from fedpeft_app.costs import MethodCost, cost_of, shape_source
from fedpeft_app.methods.catalogue import METHODS, find_method

_COLUMNS = ("method", "body", "head", "of all", "MiB", "bytes up", "bytes down", "full is")
_MIB = 2**20


def print_methods(config: RunConfig, labels: int, names: Sequence[str], console: Console) -> None:
    """Print the table, and why methods are refused.

    On a terminal the table is aligned. Where output is piped it is tab-separated, and the
    refusals go to stderr.

    Args:
        config: Model, pooling, task and the methods' settings.
        labels: Outputs of a classifier's head.
        names: Methods; empty = all that are known.
        console: Where to print.

    Raises:
        FedPeftError: If the model is not to be had.
        typer.Exit: With status 1, if no method fits.
    """
    from fedpeft_app.assembly import method_settings
    from fedpeft_app.data_plan import make_task

    fresh_config, known_kind = shape_source(config.model.name, config.model.revision)
    kind = known_kind or make_task(config).model_kind
    costs = [
        cost_of(
            find_method(name),
            fresh_config(),
            kind,
            settings=method_settings(config),
            labels=labels,
            pooling=config.model.pooling,
            send_head=config.method.head == "train",
        )
        for name in names or METHODS.names()
    ]
    fitting = [cost for cost in costs if not cost.refused]
    rows = [_row(cost) for cost in sorted(fitting, key=lambda cost: -cost.total)]
    if console.is_terminal:
        _print_table(rows, console)
    else:
        for row in (_COLUMNS, *rows):
            typer.echo("\t".join(row), file=console.file)
    aside = console if console.is_terminal else Console(stderr=True)
    for line in _refusals(costs):
        aside.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if not fitting:
        raise typer.Exit(1)


def _refusals(costs: Sequence[MethodCost]) -> list[str]:
    """Write a line a reason, with all methods that are refused for it."""
    alike: dict[str, list[MethodCost]] = {}
    for cost in costs:
        if cost.refused:
            reason = cost.refused.replace(f"method.name = '{cost.name}'", "this method")
            alike.setdefault(reason, []).append(cost)
    return [
        f"{', '.join(cost.name for cost in group)}: "
        f"{reason if len(group) > 1 else group[0].refused}"
        for reason, group in alike.items()
    ]


def _print_table(rows: Sequence[tuple[str, ...]], console: Console) -> None:
    """Draw the table, and say what its columns mean."""
    columns = (Column(name, justify="left" if name == "method" else "right") for name in _COLUMNS)
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
    console.print(
        "body, head: trained parameters · of all: their share of the model's · MiB: the values "
        "that a node sends, in float32 · bytes up, down: a message from a node and to it, "
        "measured as Flower serialises its content · "
        "full is: how many times more full fine-tuning sends, both ways · "
        "≈: scaled up from a message of 64 MiB · –: nothing is sent",
        style="dim",
    )


def _row(cost: MethodCost) -> tuple[str, ...]:
    """Write one method's figures."""
    return (
        cost.name,
        f"{cost.body:,}",
        f"{cost.head:,}",
        f"{cost.total / cost.model:.3%}",
        f"{cost.payload_bytes / _MIB:.3f}",
        _message(cost, cost.up_bytes),
        _message(cost, cost.down_bytes),
        f"{2 * cost.model / (cost.up + cost.down):,.0f}×" if cost.up else "–",
    )


def _message(cost: MethodCost, size: int) -> str:
    """Write the size of a message, and whether it was measured at this size."""
    if not size:
        return "–"
    return f"{'≈ ' if cost.extrapolated else ''}{size:,}"
