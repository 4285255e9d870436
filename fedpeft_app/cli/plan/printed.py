"""A plan as a person reads it, or as JSON."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.cli.plan.measured import measured_lines, measured_values
from fedpeft_app.cli.plan.outlook import Outlook, Traffic, look_ahead, to_values
from fedpeft_app.cli.plan.privacy import privacy_lines
from fedpeft_app.config import RunConfig
from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.privacy.statement import counted

if TYPE_CHECKING:
    from fedpeft_app.forecast.calibration import Resources

_MEASURING = "measuring memory and time, some 20 s (--no-calibrate: not at all)"


def print_plan(
    config: RunConfig,
    nodes: int,
    console: Console,
    *,
    resources: "Resources | None" = None,
    as_json: bool = False,
) -> None:
    """Check a configuration as a run would, and print what it comes to.

    Args:
        config: A checked configuration.
        nodes: Simulated nodes.
        console: Where to print.
        resources: What clients have of this machine, to measure memory and time with it; None =
            nothing is measured.
        as_json: Whether to print one JSON object, and nothing else.

    Raises:
        FedPeftError: As `preflight`, or as `calibrate`.
    """

    def tell(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    outlook = look_ahead(config, nodes)
    if as_json:
        values = to_values(outlook)
        if resources is not None:
            values |= measured_values(outlook, outlook.calibrate(resources), resources)
        tell(json.dumps(values, indent=2))
        return
    for line in (*_training(outlook), *_privacy(outlook)):
        tell(line)
    if resources is not None:
        if not console.is_terminal:
            tell(_MEASURING)
        with console.status(_MEASURING):
            found = outlook.calibrate(resources)
        for line in measured_lines(outlook, found, resources):
            tell(line)


def _privacy(outlook: Outlook) -> Iterator[str]:
    """Say what would be guaranteed."""
    yield from privacy_lines(outlook.config, outlook.tried.spec, outlook.crew.sizes)


def _training(outlook: Outlook) -> Iterator[str]:
    """Say who trains what, and what that sends."""
    config, sizes = outlook.config, outlook.crew.sizes
    size = trained_spec(outlook.tried.spec).size
    nodes, examples = counted(len(sizes), "node"), counted(sum(sizes), "example")
    share = f"{size / outlook.tried.parameters:.3%} of {outlook.tried.parameters:,}"
    yield (
        f"{config.method.name} on {config.model.name}: {size:,} numbers train; {nodes} "
        f"hold{'s' * (len(sizes) == 1)} {examples} ({min(sizes):,} to {max(sizes):,})"
    )
    yield f"that is {share} parameters of the model"
    if outlook.traffic is not None:
        yield from _bytes(config, outlook.traffic, len(sizes))


def _bytes(config: RunConfig, traffic: Traffic, nodes: int) -> Iterator[str]:
    """Say what is sent, beside what full fine-tuning would send."""
    from fedpeft_app.round_plan import asked

    expected = "about " * (config.privacy.mode == "user")  # drawn node by node, in secret
    about = "about " * (not traffic.exact)
    total = traffic.up + traffic.down
    yield (
        f"a message is {human_bytes(traffic.message_up)} up and "
        f"{human_bytes(traffic.message_down)} down; "
        f"{expected}{counted(asked(config, nodes), 'node')} a round in "
        f"{counted(config.rounds, 'round')} make {about}{human_bytes(total)}"
    )
    rows = [
        ("bytes", "up", "down", "full fine-tuning, each way"),
        (
            "a message",
            f"{traffic.message_up:,}",
            f"{traffic.message_down:,}",
            f"{traffic.full_message:,}",
        ),
        *_a_round(traffic),
        ("the run", f"{traffic.up:,.0f}", f"{traffic.down:,.0f}", f"{traffic.full_run / 2:,.0f}"),
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    for name, *cells in rows:
        aligned = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        yield f"  {name:<{widths[0]}}  {'  '.join(aligned)}"
    told = (
        "numbers that Flower draws make a message 3 bytes more or less"
        if traffic.exact
        else (
            "about, for sizes depend on what is sent"
            if config.privacy.mode != "user"
            else "expected"
        )
    )
    yield f"  {traffic.times_fewer:,.1f} times fewer than full fine-tuning ({told})"


def _a_round(traffic: Traffic) -> Iterator[tuple[str, str, str, str]]:
    """Say what a round sends: the least and the most where rounds differ."""
    if traffic.rehearsal is None:
        return
    rounds = traffic.rehearsal.rounds
    every = [(*each.trained, *each.judged) for each in rounds]
    up, down = (
        [sum(getattr(one, way) for one in each) for each in every] for way in ("up", "down")
    )
    full = sorted({len(each.trained) * traffic.full_message for each in rounds})
    yield ("a round", _span(up), _span(down), _span(full))


def _span(values: list[int]) -> str:
    """Write one number, or two."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
