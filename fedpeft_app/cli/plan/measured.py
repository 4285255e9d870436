"""What a plan says of memory and time, once a calibration has measured them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psutil

from fedpeft_app.cli.plan.outlook import Outlook
from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.privacy.statement import counted

if TYPE_CHECKING:
    from fedpeft_app.forecast.calibration import Calibration, Resources
    from fedpeft_app.forecast.duration import Duration

_LARGE = 0.8  # share of the machine's memory from which a run may well not fit


def duration_of(outlook: Outlook, found: "Calibration", resources: "Resources") -> "Duration":
    """Say how long a run takes, by what was measured.

    Args:
        outlook: The run.
        found: What was measured, on it or on one that is `alike`.
        resources: What clients have.
    """
    from fedpeft_app.forecast.duration import duration

    rehearsal = outlook.traffic.rehearsal if outlook.traffic else None
    return duration(outlook.config, outlook.crew, rehearsal, found, resources)


def measured_lines(outlook: Outlook, found: "Calibration", resources: "Resources") -> Iterator[str]:
    """Say what a run takes of this machine.

    Args:
        outlook: The run.
        found: What was measured.
        resources: What clients have.
    """
    yield from _memory(outlook, found, resources)
    took = duration_of(outlook, found, resources)
    threads = counted(resources.threads, "thread")
    yield (
        f"time: about {human_seconds(took.total_s)} here, "
        f"{counted(resources.actors, 'client')} at a time with {threads} each:"
    )
    for name, seconds in (
        ("start", took.start_s),
        ("training", took.train_s),
        ("judging", took.judge_s),
        ("the rest", took.around_s),
    ):
        yield f"  {name:<9}{human_seconds(seconds):>8}"
    budget = outlook.config.budget
    if ends := [
        key
        for key, value in (
            ("budget.uplink-mib", budget.uplink_mib),
            ("budget.minutes", budget.minutes),
            ("budget.patience", budget.patience),
        )
        if value
    ]:
        yield f"  at most: {', '.join(ends)} may end it earlier"


def _peaks(outlook: Outlook, found: "Calibration", resources: "Resources") -> tuple[int, int]:
    """Forecast what a client and the server have in memory at most, in bytes."""
    from fedpeft_app.forecast.duration import rounds_of
    from fedpeft_app.forecast.memory import client_peak, server_peak
    from fedpeft_app.round_plan import asked

    traffic, nodes = outlook.traffic, len(outlook.crew.data)
    cohort = asked(outlook.config, nodes) if traffic else nodes
    message = max(traffic.message_up, traffic.message_down) if traffic else 0
    rounds = rounds_of(outlook.config, outlook.crew, traffic.rehearsal if traffic else None)
    batches = sum(work.batches for cohort in rounds for _, work in cohort)
    return (
        client_peak(found.client_grown, batches / resources.actors),
        server_peak(found.server_bytes, cohort=cohort, message=message),
    )


def _memory(outlook: Outlook, found: "Calibration", resources: "Resources") -> Iterator[str]:
    """Say what each process takes, and whether all of them fit."""
    client, server = _peaks(outlook, found, resources)
    total, machine = resources.actors * client + server, psutil.virtual_memory().total
    yield (
        f"memory: {human_bytes(client)} a client, {human_bytes(server)} the server; "
        f"{human_bytes(total)} in all, of {human_bytes(machine)} that this machine has"
    )
    if found.device_bytes:
        yield f"  of a GPU {human_bytes(found.device_bytes)} a client, beside what CUDA takes"
    if total > _LARGE * machine:
        yield (
            "  mind: that may not fit. Let fewer clients train at once (--actors), or lower "
            "train.batch-size, evaluate.batch-size or data.max-length."
        )


def measured_values(
    outlook: Outlook, found: "Calibration", resources: "Resources"
) -> dict[str, Any]:
    """Write the same as JSON values.

    Args:
        outlook: The run.
        found: What was measured.
        resources: What clients have.
    """
    took = duration_of(outlook, found, resources)
    client, server = _peaks(outlook, found, resources)
    return {
        "memory": {
            "client": client,
            "server": server,
            "device": found.device_bytes,
            "clients_at_once": resources.actors,
        },
        "time": {
            "total_s": took.total_s,
            "start_s": took.start_s,
            "train_s": took.train_s,
            "judge_s": took.judge_s,
            "around_s": took.around_s,
            "actors_cpu_s": took.actors_cpu_s,
            "server_cpu_s": took.server_cpu_s,
        },
    }


def human_seconds(seconds: float) -> str:
    """Write a time as a person says it.

    Args:
        seconds: From 0.
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 100:
        return f"{minutes:.1f} min"
    return f"{minutes / 60:.1f} h"
