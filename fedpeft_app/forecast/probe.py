"""A process that does a little of what a client of a run does, or its server, and measures itself.

`calibration` starts it. It is told by a line of JSON what to be, says by one that it has loaded
model and data, waits for a line, and says by another what it measured. It imports what a process
of Flower's simulation has in memory. It keeps nothing but activations of frozen layers, and spends
no privacy: nothing is written into a node's book, and nothing of what it trains leaves it.
"""

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import flwr.simulation  # noqa: F401 - as the processes of a simulation, for their memory
import numpy as np
import ray  # noqa: F401
import torch

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.assembly import adapted_model, codecs, fit_settings, make_worker, sample_level
from fedpeft_app.config import RunConfig, parse
from fedpeft_app.config.readings import options
from fedpeft_app.data.encoded import ExampleSet
from fedpeft_app.forecast.calibration import SIGN
from fedpeft_app.forecast.memory import peak_bytes
from fedpeft_app.forecast.rates import Timed
from fedpeft_app.forecast.work import judged, trained
from fedpeft_app.privacy.events import Event
from fedpeft_app.privacy.mechanism import Mechanism
from fedpeft_app.run_data import bound_task, open_data, server_splits
from fedpeft_app.runs.checkpoint import Checkpoint, save_checkpoint
from fedpeft_app.runs.directory import create_run
from fedpeft_app.strategies.catalogue import make_strategy
from fedpeft_app.strategies.strategy import Member, Reply
from fedpeft_app.training.cut import find_cut
from fedpeft_app.training.evaluate import evaluate
from fedpeft_app.training.fit import FitSettings, examples_come_again
from fedpeft_app.training.frozen import AT_ONCE
from fedpeft_app.training.private import schedule
from fedpeft_app.training.worker import Worker
from fedpeft_app.wire.content import from_bytes, to_bytes
from fedpeft_app.wire.record import (
    DELTA,
    STATE,
    Order,
    Update,
    read_order,
    section_of,
    write_order,
    write_update,
)

_FEWEST_BATCHES, _MOST_BATCHES = 4, 12  # of a piece that is timed, unless one takes too long


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a process is to do.

    Attributes:
        role: "client" or "server".
        config: The run's flat configuration.
        nodes: Simulated nodes.
        node: For a client, whose examples it trains on.
        threads: Threads that it may use; 0 = torch's own choice.
        cohort: For a server, how many replies it folds.
        budget_s: Seconds that what is timed may take, more or less.
    """

    role: str
    config: Mapping[str, Any]
    nodes: int
    node: int = 0
    threads: int = 0
    cohort: int = 1
    budget_s: float = 6.0


def main() -> None:
    """Follow one request."""
    request = Request(**json.loads(sys.stdin.readline()))
    if request.threads:
        torch.set_num_threads(request.threads)
    config = parse(request.config)
    prepare = _client if request.role == "client" else _server
    measure = prepare(config, request)
    _say({"loaded": True})
    sys.stdin.readline()
    _say(measure())


def _say(what: Mapping[str, Any]) -> None:
    """Tell who started us."""
    sys.stdout.write(f"{SIGN}{json.dumps(what)}\n")
    sys.stdout.flush()


# ------------------------------------------------------------------ a client


def _client(config: RunConfig, request: Request) -> Callable[[], dict[str, Any]]:
    """Load what a client needs."""
    count = 1 if config.mode == "central" else request.nodes
    worker = make_worker(config, {"partition-id": request.node, "num-partitions": count})
    settings = worker.settings
    cached = settings.frozen_cache_bytes if examples_come_again(settings) else 0
    settings = replace(settings, max_steps=0, frozen_cache_bytes=cached)
    worker = replace(worker, settings=settings)
    return lambda: _measured_client(config, request, worker)


def _measured_client(config: RunConfig, request: Request, worker: Worker) -> dict[str, Any]:
    """Train on a few batches, as orders have it."""
    everything = server_splits(config).train if config.evaluate.server else worker.train
    size = worker.settings.batch_size * worker.settings.accumulation
    longest = _longest(everything, size)
    first = _trained(config, worker, longest)  # the largest step there is; and it warms up
    peak_of_a_step = _device_peak()
    second = _trained(config, worker, longest)
    done = first.timed.batches + second.timed.batches
    grown = [(done, peak_bytes())]
    batches = _count(request, second.timed)
    pieces = [_trained(config, worker, one) for one in _pieces(worker.train, size * batches)]
    grown.append((done + sum(piece.timed.batches for piece in pieces), peak_bytes()))
    fills: list[Timed] = []
    if first.skipped:  # what the first pass costs, whatever lies on the disk of an earlier one
        whole = replace(worker, settings=replace(worker.settings, frozen_cache_bytes=0))
        examples = _pieces(worker.train, size * batches)
        fills = [_trained(config, whole, one).timed for one in examples]
        pieces = [_trained(config, worker, one) for one in _pieces(worker.train, size * batches)]
    if len(worker.held_out):
        held = worker.held_out.select(_order(worker.held_out)[: worker.evaluate_batch_size])
        judging = [_judged(config, worker.adapted, held, worker.settings.precision)]
    else:
        judging = []
    return {
        "pieces": [asdict(piece.timed) for piece in pieces],
        "fills": [asdict(piece) for piece in fills],
        "judging": [asdict(piece) for piece in judging],
        "around_s": min(piece.around_s for piece in pieces),
        "layers_skipped": first.skipped,
        "grown": [*grown[:-1], (grown[-1][0], peak_bytes())],
        "device_bytes": max(peak_of_a_step, _device_peak()),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """Training that was done: its passes; seconds of all around them; frozen layers left out."""

    timed: Timed
    around_s: float
    skipped: int


def _trained(config: RunConfig, worker: Worker, examples: ExampleSet) -> _Piece:
    """Carry out an order to train on some examples: read it, train, write the answer."""
    worker = replace(worker, train=examples)
    spec, settings = worker.adapted.spec, worker.settings
    uplink, _ = codecs(config)
    start = worker.adapted.initial
    content = to_bytes(
        write_order(Order(spec=spec, sections=[section_of(STATE, start)], round_number=1))
    )
    began = time.perf_counter()
    order = read_order(from_bytes(content), spec)
    state = order.sections[0].decode()
    personal = worker.adapted.personal
    cpu = time.process_time()
    fitted = worker.fit(
        state,
        1,
        personal=personal.initial if personal.parameters else None,
        mechanism=_mechanism(config, len(examples), settings),
    )
    cpu = time.process_time() - cpu
    generator = np.random.default_rng(0)
    section = section_of(DELTA, fitted.delta, uplink, generator)
    answer = Update(spec=spec, sections=[section], round_number=1, metrics={"num-examples": 1.0})
    to_bytes(write_update(answer))
    whole = time.perf_counter() - began
    private = config.privacy.mode == "sample"
    work = trained(examples.lengths, settings, round_number=1, partition=0, private=private)
    seconds = fitted.report.seconds
    timed = Timed(batches=work.batches, tokens=work.tokens, wall_s=seconds, cpu_s=cpu)
    return _Piece(timed=timed, around_s=whole - seconds, skipped=fitted.report.layers_skipped)


def _mechanism(config: RunConfig, examples: int, settings: FitSettings) -> Mechanism | None:
    """Protect examples with some noise, as much work as with any other."""
    level = sample_level(config)
    if level is None:
        return None
    sampling, steps = schedule(examples, settings)
    event = Event(noise_multiplier=1.0, sampling=sampling, steps=steps)
    return level.mechanism(event, 1, 0)


# ------------------------------------------------------------------ the server


def _server(config: RunConfig, request: Request) -> Callable[[], dict[str, Any]]:
    """Load what the server needs."""
    source = open_data(config, config.data.name)
    adapted_model(config, source.label_names)
    if config.evaluate.server:
        server_splits(config)
    return lambda: _measured_server(config, request)


def _measured_server(config: RunConfig, request: Request) -> dict[str, Any]:
    """Judge a few batches in the run's arithmetic and in float32, and fold a cohort's replies."""
    labels = open_data(config, config.data.name).label_names
    adapted = adapted_model(config, labels)
    found: dict[str, Any] = {"first": [], "again": [], "exact": []}
    if config.evaluate.server and config.evaluate.every:
        test = server_splits(config).test
        test = test if len(test) else server_splits(config).validation
        precision = fit_settings(config).precision
        size = config.evaluate.batch_size
        warm = _judged(config, adapted, _longest(test, size), precision)
        times = max(1, min(_MOST_BATCHES, int(request.budget_s / 6 / max(warm.wall_s, 1e-3))))
        once = AT_ONCE if _starts_late(config, adapted, test) else 0  # what lies on the disk is
        for one in _pieces(test, size * times):  # not used: runs may be the first of their kind
            found["exact"].append(asdict(_judged(config, adapted, one, "fp32", once)))
            found["first"].append(asdict(_judged(config, adapted, one, precision, once)))
            found["again"].append(asdict(_judged(config, adapted, one, precision)))
    found["fold_s"] = _folded(config, adapted.initial, request.cohort)
    return {**found, "peak_bytes": peak_bytes(), "device_bytes": _device_peak()}


def _folded(config: RunConfig, initial: AdapterState, cohort: int) -> float:
    """Fold made-up replies and keep the result, as at the end of a round; give the seconds."""
    strategy = make_strategy(
        config.strategy.name, options(config.strategy.options), seed=config.seed
    )
    uplink, _ = codecs(config)
    spec = initial.spec
    members = [Member(node_id=node + 1, partition=node, examples=1) for node in range(cohort)]
    strategy.prepare(spec, members)
    tasks = strategy.configure(1, initial, members)
    replies = []
    for member in members:
        part = trained_spec(spec, tasks[member.node_id].part)
        drawn = np.random.default_rng(member.partition)
        values = 1e-3 * drawn.standard_normal(part.size, dtype=np.float32)
        section = section_of(DELTA, AdapterState(spec=part, vector=values), uplink, drawn)
        replies.append(
            Reply(
                member=member,
                start=tasks[member.node_id].state,
                update=section,
                weight=1.0,
                metrics={"loss": 1.0},
            )
        )
    began = time.perf_counter()
    state = strategy.aggregate(1, initial, replies)
    with tempfile.TemporaryDirectory() as parent:
        folder = create_run(Path(parent), "plan", 0, {})
        save_checkpoint(folder, Checkpoint(state=state, round_number=1, metrics={}))
    return time.perf_counter() - began


# ------------------------------------------------------------------ both


def _judged(
    config: RunConfig, adapted: Any, examples: ExampleSet, precision: str, once: int | None = None
) -> Timed:
    """Judge the model on some examples.

    Args:
        config: The run's configuration.
        adapted: The model.
        examples: The examples.
        precision: The arithmetic.
        once: None = as in a later round, with what frozen layers gave before; else as in the
            first, so many examples at a time; 0 = as many as the run says.
    """
    size = config.evaluate.batch_size
    work = judged(examples, size)
    task = bound_task(config, open_data(config, config.data.name).label_names)
    began, cpu = time.perf_counter(), time.process_time()
    evaluate(
        adapted,
        task,
        examples,
        batch_size=once or size,
        precision=precision,
        frozen_cache_bytes=fit_settings(config).frozen_cache_bytes if once is None else 0,
    )
    return Timed(
        batches=work.batches,
        tokens=work.tokens,
        wall_s=time.perf_counter() - began,
        cpu_s=time.process_time() - cpu,
    )


def _starts_late(config: RunConfig, adapted: Any, examples: ExampleSet) -> bool:
    """Say whether frozen layers run once, by themselves."""
    if not fit_settings(config).frozen_cache_bytes:
        return False
    task = bound_task(config, open_data(config, config.data.name).label_names)
    return not isinstance(find_cut(adapted, task, examples), str)


def _count(request: Request, step: Timed) -> int:
    """Count the steps of a piece such that three of them keep to the budget.

    By processor time, where threads are known: a crowded machine must not make pieces smaller,
    for what a process has in memory grows over its first steps.
    """
    took = step.cpu_s / request.threads if request.threads else step.wall_s
    fitting = int(request.budget_s / 3 / max(took, 1e-3))
    fewest = _FEWEST_BATCHES if took < request.budget_s / _FEWEST_BATCHES else 1
    return max(fewest, min(_MOST_BATCHES, fitting))


def _order(examples: ExampleSet) -> np.ndarray:
    """Order examples by falling length."""
    return np.argsort(-examples.lengths, kind="stable")


def _longest(examples: ExampleSet, count: int) -> ExampleSet:
    """Take the longest."""
    return examples.select(_order(examples)[:count])


def _pieces(examples: ExampleSet, count: int) -> Iterator[ExampleSet]:
    """Take some of the shortest, some at random, and some of the longest."""
    order = _order(examples)
    drawn = np.random.default_rng(0).permutation(len(examples))[:count]
    for chosen in (order[-count:], drawn, order[:count]):
        gc.collect()
        yield examples.select(chosen)


def _device_peak() -> int:
    """Give the most memory of a GPU that PyTorch has had; 0 where there is none."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


if __name__ == "__main__":
    main()
