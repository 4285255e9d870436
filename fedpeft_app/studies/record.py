"""What a cell of a study left behind: one JSON file, never a number that was not measured."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedpeft_app.atomic import write_json
from fedpeft_app.config import defaults
from fedpeft_app.config.flat import Scalar
from fedpeft_app.errors import LaunchError, RunFolderError
from fedpeft_app.runs.directory import RunFolder
from fedpeft_app.studies.metrics import CLIENT_METRICS
from fedpeft_app.studies.plan import Cell, differing

KEPT_STUDY = "study.toml"  # beside the table: the file that a study was run from
_FORMAT = "fedpeft-cell-1"
_KEPT_OF_A_ROUND = (
    "round",
    "train_loss",
    "examples",
    "down",
    "up",
    "seconds",
    "validation",
    "test",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The numbers of a finished run, as its journal has them.

    Attributes:
        test: Metric → value of the chosen state; in mode = "local", the mean over nodes.
        validation: Metric → value of the chosen round; the mean over nodes where the server
            holds no validation data, or in mode = "local".
        round: The chosen round, from 1.
        chosen: Why this round.
        rounds: What each round measured; empty in mode = "local".
        examples: Training examples processed, all rounds and nodes; None where nodes do not
            tell.
        down: Bytes from the server to nodes; None where that is secret.
        up: Bytes from nodes to the server; likewise.
        bytes_per_message: Mean of the train messages, both directions; what was expected of it
            where it is secret.
        trainable: Parameters that train.
        parameters: Parameters of the model, head included.
        seconds: From the start of the server app to the end.
        clients: The run's metric over nodes in the chosen round, each on data of its own that
            it holds out to choose rounds: "metric" (missing in older records: accuracy), "mean"
            (each node counts the same), "worst_decile", "worst", "nodes" and more, as the
            journal has it; empty where nodes do not evaluate.
        clients_test: The same on what nodes hold out only to report.
        untrained: Nodes among them whose own head never trained.
    """

    test: Mapping[str, float]
    validation: Mapping[str, float]
    round: int
    chosen: str
    rounds: Sequence[Mapping[str, Any]]
    examples: int | None
    down: int | None
    up: int | None
    bytes_per_message: int
    trainable: int
    parameters: int
    seconds: float
    clients: Mapping[str, Any] = field(default_factory=dict)
    clients_test: Mapping[str, Any] = field(default_factory=dict)
    untrained: Sequence[int] = field(default_factory=list)

    def figure(self, metric: str) -> float | None:
        """Give what a table shows of the run; None where it was not measured.

        Args:
            metric: A metric of the task, on the test set, or one of `CLIENT_METRICS`: on what
                nodes hold out only to report, where they do.
        """
        if metric in CLIENT_METRICS:
            return (self.clients_test or self.clients).get(CLIENT_METRICS[metric])
        return self.test.get(metric)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One cell, ended one way or another.

    Attributes:
        id: The cell's id.
        name: Row, column and seed, as the study had them.
        status: "finished"; "failed", for a reason that the run gave; or "crashed", without.
        problem: Why it did not finish; empty if it did.
        settings: What differs from the defaults, the seed apart.
        seed: The seed.
        nodes: Simulated nodes.
        run: Name of the run's folder; empty if it never had one.
        measured: The numbers; None unless finished.
        made_with: What `provenance` says; both values of what changed during the run.
    """

    id: str
    name: str
    status: str
    problem: str
    settings: Mapping[str, Scalar]
    seed: int
    nodes: int
    run: str
    measured: Measured | None
    made_with: Mapping[str, str]

    @property
    def reason(self) -> str:
        """The first line of the problem; empty if there is none."""
        return self.problem.partition("\n")[0]

    @property
    def federated(self) -> bool:
        """Whether messages of this run would travel over a network."""
        return self.settings.get("mode", "federated") == "federated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run's command ended.

    Attributes:
        exit_status: 0 for a finished run; below 0 if a signal ended it.
        run: The folder that it made; None if it got no further than its checks.
        message: Its last words.
    """

    exit_status: int
    run: RunFolder | None
    message: str


def make_record(cell: Cell, ending: Ending, made_with: Mapping[str, str]) -> Record:
    """Sum a run up.

    Args:
        cell: What was run.
        ending: How it ended.
        made_with: What `provenance` says.

    Raises:
        RunFolderError: If a finished run's journal lacks what it must have.
    """
    events = ending.run.events() if ending.run else []
    status, problem = _outcome(ending, events)
    settings = differing(cell.config, defaults())
    settings.pop("seed", None)
    return Record(
        id=cell.id,
        name=cell.name,
        status=status,
        problem=problem,
        settings=settings,
        seed=int(cell.config["seed"]),
        nodes=cell.nodes,
        run=ending.run.path.name if ending.run else "",
        measured=measure(events) if status == "finished" else None,
        made_with=made_with,
    )


def measure(events: Sequence[Mapping[str, Any]]) -> Measured:
    """Read a finished run's numbers from its journal.

    Args:
        events: The journal.

    Raises:
        RunFolderError: If it lacks one that it must have.
    """
    try:
        started = _only(events, "run_started")
        finished = _only(events, "run_finished")
        alone = [event for event in events if event["event"] == "node_finished"]
        rounds = [event for event in events if event["event"] == "round_finished"]
        return Measured(
            test=_mean(node["test"] for node in alone) if alone else _as_measured(finished["test"]),
            validation=_as_measured(_validation(alone, rounds, finished["round"])),
            round=finished["round"],
            chosen=f"mean over {len(alone)} nodes" if alone else finished["chosen"],
            rounds=[{k: event[k] for k in _KEPT_OF_A_ROUND if k in event} for event in rounds],
            examples=_examples(rounds, alone),
            down=finished.get("down"),
            up=finished.get("up"),
            bytes_per_message=finished["bytes_per_message"],
            trainable=started["trainable"],
            parameters=started["parameters"],
            seconds=finished["seconds"],
            clients=_of_chosen("clients", finished, rounds) or {},
            clients_test=_of_chosen("clients_test", finished, rounds) or {},
            untrained=_of_chosen("untrained", finished, rounds) or [],
        )
    except KeyError as error:
        raise RunFolderError(f"Expected {error} in the journal of a finished run.") from error


class Archive:
    """The records of a study, a JSON file each, beside the recipes and logs of their runs.

    Args:
        folder: Where they are; made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "cells"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other studies out of the folder; ends with the process at the latest.

        Raises:
            LaunchError: If another one is at work in it.
        """
        folder = self._folder.parent
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise LaunchError(
                f"Expected no other study at work in {folder}, found one. Wait until it ends, "
                f"or give another folder with --to."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def path(self, identifier: str, ending: str) -> Path:
        """Name a cell's file, and make the folder.

        Args:
            identifier: The cell's id.
            ending: "json", "log" or "toml".
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / f"{identifier}.{ending}"

    def put(self, record: Record) -> None:
        """Keep a record, atomically.

        Args:
            record: Takes the place of an older one.
        """
        write_json(self.path(record.id, "json"), {"format": _FORMAT, **asdict(record)})

    def get(self, identifier: str) -> Record | None:
        """Read a record.

        Args:
            identifier: The cell's id.

        Returns:
            The record; None if the cell has not ended yet.

        Raises:
            RunFolderError: If the file is damaged, or made by another version.
        """
        path = self._folder / f"{identifier}.json"
        try:
            return _from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunFolderError(
                f"Cannot read {path}: {error}. Delete it to run its cell again."
            ) from error


def _from_json(fields: dict[str, Any]) -> Record:
    """Read what `put` wrote."""
    if fields.pop("format") != _FORMAT:
        raise ValueError(f"expected the format '{_FORMAT}'")
    measured = fields.pop("measured")
    return Record(**fields, measured=Measured(**measured) if measured else None)


def _outcome(ending: Ending, events: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Tell an end with a reason from one without, which a second try may mend."""
    if ending.exit_status == 0:
        return "finished", ""
    stated = [event["problem"] for event in events if event["event"] == "run_failed"]
    if stated:
        return "failed", str(stated[-1])
    refused = ending.exit_status == 1 and ending.run is None
    return "failed" if refused else "crashed", ending.message or f"exit {ending.exit_status}"


def _examples(
    rounds: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]]
) -> int | None:
    """Add up the examples that nodes processed; None if one of them does not tell."""
    counts = [event.get("examples") for event in rounds]
    counts += [node["train"].get("examples-trained") for node in alone]
    told = [int(count) for count in counts if count is not None]
    return sum(told) if len(told) == len(counts) else None


def _validation(
    alone: Sequence[Mapping[str, Any]], rounds: Sequence[Mapping[str, Any]], chosen: int
) -> Mapping[str, float]:
    """Find what was measured on validation data: by the server, or else by nodes."""
    if alone:
        return _mean(node["validation"] for node in alone)
    event = _round(rounds, chosen)
    if event.get("validation"):
        judged: Mapping[str, float] = event["validation"]
        return judged
    spreads = (event.get("clients"), event.get("clients_accuracy"))
    return {found.get("metric", "accuracy"): found["mean"] for found in spreads if found}


def _of_chosen(key: str, finished: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> Any:
    """Find what was noted of the chosen state; None if nothing was."""
    return finished.get(key) or _round(rounds, finished["round"]).get(key)


def _round(rounds: Sequence[Mapping[str, Any]], number: int) -> Mapping[str, Any]:
    """Find a round's event; empty if there is none."""
    return next((event for event in rounds if event["round"] == number), {})


def _only(events: Iterable[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Give the last event of a kind."""
    found = [event for event in events if event["event"] == name]
    if not found:
        raise KeyError(name)
    return found[-1]


def _as_measured(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Read what was no number back as NaN: the journal has null for it."""
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def _mean(measured: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Average metrics that all have, each node counting the same."""
    nodes = list(measured)
    names = [name for name in nodes[0] if all(name in node for node in nodes)]
    return {name: sum(node[name] for node in nodes) / len(nodes) for name in names}
