"""What is left of a study, forecast: cells, bytes, ε, and, once calibrated, hours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedpeft_app.cli.cells import Share
from fedpeft_app.cli.plan.measured import duration_of, human_seconds
from fedpeft_app.cli.plan.outlook import Outlook, look_ahead, resources_here
from fedpeft_app.config import parse
from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.privacy.statement import counted, shown
from fedpeft_app.studies.plan import Cell

_CALIBRATION_S = 20  # of one, on a quiet machine


@dataclass(frozen=True, slots=True, kw_only=True)
class CellAhead:
    """What one run would cost.

    Attributes:
        cell: The run.
        sent: Bytes of the whole run, both ways; 0 for a baseline.
        epsilon: What it would guarantee; infinite where nothing is.
        seconds: How long it would take; NaN where nothing was measured.
    """

    cell: Cell
    sent: float
    epsilon: float
    seconds: float


def forecast_cells(
    cells: Sequence[Cell], timed: Share | None, tell: Callable[[str], None]
) -> list[CellAhead]:
    """Forecast runs, one calibration for all that it is the same for.

    Args:
        cells: Runs that can start.
        timed: What each gets of this machine, to measure how long they take; None = not measured.
        tell: Told what is measured.

    Raises:
        FedPeftError: As `look_ahead` and `calibrate`.
    """
    from fedpeft_app.forecast.calibration import Calibration, alike

    measured: dict[object, Calibration] = {}
    found = []
    for cell in cells:
        config = parse(cell.config)
        outlook = look_ahead(config, cell.nodes, startable=True)
        seconds = math.nan
        if timed:
            cpus, actors = timed.of(pooled=config.mode == "central")
            resources = resources_here(
                config, cell.nodes, client_cpus=cpus, client_gpus=timed.client_gpus, actors=actors
            )
            key = alike(config, resources)
            if key not in measured:
                tell(f"measuring for some {_CALIBRATION_S} s: {cell.name}, and what is like it")
                measured[key] = outlook.calibrate(resources)
            seconds = duration_of(outlook, measured[key], resources).total_s
        sent = outlook.traffic.up + outlook.traffic.down if outlook.traffic else 0.0
        one = CellAhead(cell=cell, sent=sent, epsilon=_epsilon(outlook), seconds=seconds)
        found.append(one)
    return found


def forecast_lines(ahead: Sequence[CellAhead], jobs: int = 1) -> list[str]:
    """Write a line for each run, and one for all.

    Args:
        ahead: The runs, at least one.
        jobs: How many go on at the same time.
    """
    lines = [
        f"{one.cell.id}  {human_bytes(one.sent):>9}  {_privacy(one.epsilon):>13}  "
        f"{_time(one.seconds):>8}  {one.cell.name}"
        for one in ahead
    ]
    sent = human_bytes(sum(one.sent for one in ahead))
    jobs = min(jobs, len(ahead))
    times = [one.seconds for one in ahead]
    seconds = max(sum(times) / jobs, *times)  # NaN if one is
    time = (
        "--calibrate measures how long they take"
        if math.isnan(seconds)
        else f"about {human_seconds(seconds)} {_abreast(jobs)}"
    )
    return [*lines, f"{counted(len(ahead), 'run')} ahead: {sent} sent in all; {time}"]


def _abreast(jobs: int) -> str:
    """Say how many runs go on at the same time."""
    return "one after the other" if jobs == 1 else f"for {jobs} at a time, if none slows another"


def _epsilon(outlook: Outlook) -> float:
    """Give ε at the end of a run."""
    config = outlook.config
    if config.privacy.mode == "none":
        return math.inf
    from fedpeft_app.adapters.parts import trained_spec
    from fedpeft_app.forecast.privacy import forecast

    size = trained_spec(outlook.tried.spec).size
    return forecast(config, size, outlook.crew.sizes).spent.epsilon


def _privacy(epsilon: float) -> str:
    """Write ε."""
    return "no privacy" if math.isinf(epsilon) else f"epsilon {shown(epsilon)}"


def _time(seconds: float) -> str:
    """Write a time, if it is known."""
    return "" if math.isnan(seconds) else human_seconds(seconds)
