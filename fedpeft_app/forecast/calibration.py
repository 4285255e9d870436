"""A short calibration: what a run's processes take of this machine, measured on a little of it.

As many clients as train at the same time, at most `_MOST_CLIENTS`, train on a few batches beside
one another, each with the threads that it will have; then a server judges a few batches alone. So
what they take from one another is measured, too. Nothing of it is part of any run.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from fedpeft_app.config import RunConfig, flatten
from fedpeft_app.errors import LaunchError
from fedpeft_app.forecast.rates import Timed

SIGN = "@fedpeft "  # what the lines of `probe` begin with
_MOST_CLIENTS = 8  # at once: enough for memory's bandwidth to tell, few enough for memory
_BUDGET_S = 6.0  # of what is timed, for a client and for a server
_WHOLE_KEYS = ("task", "task.options", "mode")
_SECTIONS = ("model.", "method.", "privacy.")
_FURTHER_KEYS = (  # what else decides how long a batch takes, how long examples are, and memory
    *("data.name", "data.subset", "data.max-length", "data.image-size", "data.max-examples"),
    *("data.max-test-examples", "train.batch-size", "train.gradient-accumulation"),
    *("train.optimizer", "train.precision", "train.gradient-checkpointing"),
    *("train.frozen-cache-gib", "evaluate.batch-size", "evaluate.server", "strategy.name"),
    *("strategy.fraction-train", "strategy.fraction-evaluate", "wire.uplink", "wire.downlink"),
)
_NOT_KEYS = ("method.init-from", "privacy.target-epsilon", "privacy.noise-multiplier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What clients of a simulation have of this machine.

    Attributes:
        nodes: How many clients there are.
        actors: How many of them train at the same time, from 1.
        threads: Of each, from 1.
        gpu: Of each, from 0; fractions allowed.
    """

    nodes: int
    actors: int
    threads: int
    gpu: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured.

    Attributes:
        load_s: Seconds that starting, importing and loading took, all processes at once.
        training: Pieces of training, of all clients.
        filling: The same, where frozen layers ran for the first time; empty if they always run.
        node_judging: Pieces of evaluation on a client; often none.
        around_s: Seconds of a client for reading an order and writing the answer.
        judging_first: Pieces of the server's evaluation in the run's arithmetic.
        judging: The same, when the same examples come again.
        judging_exactly: The same in float32.
        fold_s: Seconds to fold a cohort's replies and to keep the result.
        client_grown: (batches until then, peak in bytes of its resident memory) of the client
            that had most.
        server_bytes: Peak of the server's.
        device_bytes: Peak of what PyTorch had of a client's GPU; 0 = there is none.
    """

    load_s: float
    training: Sequence[Timed]
    filling: Sequence[Timed]
    node_judging: Sequence[Timed]
    around_s: float
    judging_first: Sequence[Timed]
    judging: Sequence[Timed]
    judging_exactly: Sequence[Timed]
    fold_s: float
    client_grown: Sequence[tuple[int, int]]
    server_bytes: int
    device_bytes: int


def alike(config: RunConfig, resources: Resources) -> tuple[object, ...]:
    """Give what a calibration depends on: runs that have it in common share one.

    Args:
        config: A run's configuration.
        resources: What its clients have.
    """
    flat = flatten(config)
    keys = [key for key in flat if key.startswith(_SECTIONS) and key not in _NOT_KEYS]
    chosen = [*_WHOLE_KEYS, *keys, *_FURTHER_KEYS]
    return (resources, *((key, flat.get(key)) for key in sorted(chosen)))


def calibrate(config: RunConfig, resources: Resources, *, node: int, cohort: int) -> Calibration:
    """Measure for some 20 seconds.

    Args:
        config: A configuration that passed `preflight`.
        resources: What clients have.
        node: The partition whose examples are trained on: that of the largest node.
        cohort: Replies of a round, from 1.

    Raises:
        LaunchError: If one of the processes ends before it has measured anything.
    """
    request = {"config": flatten(config), "nodes": resources.nodes, "budget_s": _BUDGET_S}
    client = {**request, "role": "client", "node": node, "threads": resources.threads}
    server = {**request, "role": "server", "cohort": cohort}
    began = time.perf_counter()
    with ExitStack() as stack:
        count = min(resources.actors, _MOST_CLIENTS)
        clients = [stack.enter_context(_probe(client)) for _ in range(count)]
        alone = stack.enter_context(_probe(server))
        for process in (*clients, alone):
            _heard(process)
        load_s = time.perf_counter() - began
        trained = _measured(clients)
        (served,) = _measured([alone])
    return Calibration(
        load_s=load_s,
        training=[piece for one in trained for piece in _timed(one["pieces"])],
        filling=[piece for one in trained for piece in _timed(one["fills"])],
        node_judging=[piece for one in trained for piece in _timed(one["judging"])],
        around_s=max(one["around_s"] for one in trained),
        judging_first=_timed(served["first"]),
        judging=_timed(served["again"]),
        judging_exactly=_timed(served["exact"]),
        fold_s=served["fold_s"],
        client_grown=[tuple(at) for at in max((one["grown"] for one in trained), key=_last)],
        server_bytes=served["peak_bytes"],
        device_bytes=max(one["device_bytes"] for one in trained),
    )


def _last(grown: Sequence[Sequence[int]]) -> int:
    """Give the peak in the end."""
    return grown[-1][1]


def _timed(values: Sequence[Mapping[str, Any]]) -> list[Timed]:
    """Read pieces."""
    return [Timed(**value) for value in values]


@contextmanager
def _probe(request: Mapping[str, Any]) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that measures, and let none outlive us."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    if threads := request.get("threads"):
        environment["OMP_NUM_THREADS"] = str(threads)  # as Ray does for its actors
    process = subprocess.Popen(
        [sys.executable, "-m", "fedpeft_app.forecast.probe"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        _tell(process, json.dumps(request))
        yield process
    finally:
        process.kill()
        process.communicate()


def _tell(process: "subprocess.Popen[str]", line: str) -> None:
    """Write a line to a process; one that has ended is found out when it is heard."""
    if process.stdin is not None:
        try:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        except BrokenPipeError:
            return


def _measured(processes: Sequence["subprocess.Popen[str]"]) -> list[dict[str, Any]]:
    """Let processes measure at the same time."""
    for process in processes:
        _tell(process, "go")
    return [_heard(process) for process in processes]


def _heard(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Wait for the next thing that a process says."""
    for line in process.stdout or ():
        if line.startswith(SIGN):
            said: dict[str, Any] = json.loads(line.removeprefix(SIGN))
            return said
    _, problem = process.communicate()
    last = (problem or "").strip().splitlines()[-1:]
    raise LaunchError(
        f"Expected a calibration to measure time and memory, got a process that ended with exit "
        f"status {process.returncode}: {''.join(last) or 'it said nothing'}. If memory ran out, "
        f"let fewer clients train at once (--actors); --no-calibrate plans without."
    )
