"""Run what is left of a study, one cell after the other, and see how it stands."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedpeft_app.errors import ConfigError, Fault, LaunchError
from fedpeft_app.studies.grid import Entry, combinations
from fedpeft_app.studies.plan import Cell, Plan
from fedpeft_app.studies.provenance import contents, spanning
from fedpeft_app.studies.record import Archive, Ending, Record, make_record
from fedpeft_app.studies.side_by_side import side_by_side
from fedpeft_app.studies.study import Settings, Study
from fedpeft_app.studies.tuning import Choice, choose, group_of, trials

Tell = Callable[[str], None]
MadeWith = Callable[[Cell], Mapping[str, str]]


class Runner(Protocol):
    """Runs one cell, for example as a process of its own."""

    def __call__(self, cell: Cell, archive: Archive) -> Ending:
        """Run a cell to its end.

        Args:
            cell: The cell.
            archive: Where its log goes.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place for one run's numbers.

    Attributes:
        entry: The field of the table.
        seed: The run's seed.
        cell: The run; None while tuning has chosen nothing for it.
        record: How it ended; None if it did not yet.
    """

    entry: Entry
    seed: int
    cell: Cell | None
    record: Record | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a study stands.

    Attributes:
        slots: The study's own runs, in the order of its entries and seeds.
        choices: What tuning chose, for the groups whose trials have all ended.
        trials: The runs of tuning, with their records.
    """

    slots: tuple[Slot, ...]
    choices: tuple[Choice, ...]
    trials: tuple[tuple[Cell, Record | None], ...]


def conduct(
    plan: Plan,
    archive: Archive,
    runner: Runner,
    *,
    wanted: Callable[[Entry, int], bool],
    retry_failed: bool,
    made_with: MadeWith,
    tell: Tell,
    jobs: int = 1,
    stop: Callable[[], None] = lambda: None,
) -> Standing:
    """Run what has not ended yet: first the tuning, then the study's own cells.

    Args:
        plan: The study.
        archive: Its records; what is there is kept.
        runner: Runs a cell.
        wanted: Says which runs are asked for now, by entry and seed.
        retry_failed: Whether to run cells again that failed for a reason they gave; those
            that crashed without one are always run again.
        made_with: Says what a run is made with at this moment; asked before and after each,
            since the code may change while a study runs.
        tell: Told what happens.
        jobs: Cells that are run at the same time, each from a thread.
        stop: Called when those that go on are to end, since something ended the study.

    Returns:
        How the study stands then. A cell that fails does not stop the others.

    Raises:
        ConfigError: If the tuning runs did not measure what is to choose among them.
        LaunchError: If a model or data on this machine has changed since a run was finished.
        RunFolderError: If a record, or the journal of a finished run, cannot be read.
    """
    require_unchanged(standing(plan, archive))

    def run(cells: Iterable[Cell]) -> None:
        left = {
            cell.id: cell
            for cell in cells
            if is_left(archive.get(cell.id), retry_failed=retry_failed)
        }
        began, ended = time.monotonic(), itertools.count(1)

        def one(cell: Cell) -> None:
            tell(cell.name)
            before = made_with(cell)
            record = make_record(cell, runner(cell, archive), spanning(before, made_with(cell)))
            archive.put(record)
            name = f"{cell.name}: " if jobs > 1 else ""
            tell(f"    {name}{summary(record)}{_ahead(next(ended), len(left), began)}")

        side_by_side(one, left.values(), jobs=jobs, stop=stop)

    run(plan.tuning_cells(asked_for(plan, wanted)))
    before = standing(plan, archive)
    run(slot.cell for slot in before.slots if slot.cell and wanted(slot.entry, slot.seed))
    return standing(plan, archive)


def _ahead(done: int, of: int, began: float) -> str:
    """Say how far this is, and for how long it will go on at this pace."""
    if done == of:
        return ""
    left = (time.monotonic() - began) / done * (of - done)
    return f" · {done} of {of}, {left / 60:.0f} minutes left at this pace"


def standing(plan: Plan, archive: Archive) -> Standing:
    """See how a study stands, running nothing.

    Args:
        plan: The study.
        archive: Its records.
    """
    records = {cell.id: (cell, archive.get(cell.id)) for cell in plan.tuning_cells(plan.entries)}
    choices = _choices(plan, archive)
    slots = tuple(
        _slot(plan, archive, entry, seed, _tuned(plan, entry, choices))
        for entry in plan.entries
        for seed in entry.seeds
    )
    return Standing(slots=slots, choices=choices, trials=tuple(records.values()))


def ahead(
    plan: Plan, now: Standing, wanted: Callable[[Entry, int], bool], *, retry_failed: bool
) -> list[Cell]:
    """List the runs that are left; of what waits for tuning, a run for every candidate.

    Args:
        plan: The study.
        now: How it stands.
        wanted: Says which runs are asked for, by entry and seed.
        retry_failed: As for `conduct`.
    """
    tuning = {cell.id for cell in plan.tuning_cells(asked_for(plan, wanted))}
    found = [
        cell
        for cell, record in now.trials
        if cell.id in tuning and is_left(record, retry_failed=retry_failed)
    ]
    for slot in now.slots:
        if not wanted(slot.entry, slot.seed):
            continue
        if slot.cell is None and slot.entry.search:
            tried = combinations(slot.entry.search.values)
            found += [plan.cell(slot.entry, slot.seed, candidate) for candidate in tried]
        elif slot.cell and is_left(slot.record, retry_failed=retry_failed):
            found.append(slot.cell)
    return found


def asked_for(plan: Plan, wanted: Callable[[Entry, int], bool]) -> list[Entry]:
    """List the entries of which a run is asked for.

    Args:
        plan: The study.
        wanted: Says which runs are, by entry and seed.
    """
    return [entry for entry in plan.entries if any(wanted(entry, seed) for seed in entry.seeds)]


def require_unchanged(now: Standing) -> None:
    """Refuse to put new numbers beside those that were measured on other files.

    Args:
        now: How the study stands.

    Raises:
        LaunchError: If a model or data on this machine has changed since a run was finished.
    """
    kept = [(slot.cell, slot.record) for slot in now.slots if slot.cell] + list(now.trials)
    changed = {
        cell.name: key
        for cell, record in kept
        if record and record.measured
        for key, value in contents(cell.config).items()
        if record.made_with.get(key, value) != value
    }
    if changed:
        name, key = next(iter(changed.items()))
        raise LaunchError(
            f"Expected the {key} as it was when '{name}' was measured, found another; "
            f"{len(changed)} finished runs are concerned. Measure anew with another --to, or "
            f"delete their JSON files."
        )


def is_left(record: Record | None, *, retry_failed: bool = False) -> bool:
    """Say whether a cell is to be run.

    Args:
        record: How it ended; None if it did not.
        retry_failed: Whether failures count as left.
    """
    if record is None or record.status == "crashed":
        return True
    return retry_failed and record.status == "failed"


def summary(record: Record) -> str:
    """Sum a cell up in a line.

    Args:
        record: The cell's record.
    """
    if record.measured is None:
        return f"{record.status}: {record.problem}"
    measured = record.measured
    kind, shown = "test", measured.test
    if not shown and measured.clients_test:
        over_nodes = measured.clients_test
        kind = "nodes' mean test"
        shown = {over_nodes.get("metric", "accuracy"): over_nodes["mean"]}
    elif not shown:
        kind, shown = "validation", measured.validation
    numbers = ", ".join(f"{kind} {name} {value:.4f}" for name, value in shown.items())
    return f"{numbers or 'nothing judged'} ({measured.seconds:.0f} s)"


def _slot(plan: Plan, archive: Archive, entry: Entry, seed: int, tuned: Settings | None) -> Slot:
    """Look a run up."""
    cell = plan.cell(entry, seed, tuned) if tuned is not None else None
    record = archive.get(cell.id) if cell else None
    return Slot(entry=entry, seed=seed, cell=cell, record=record)


def _tuned(plan: Plan, entry: Entry, choices: Sequence[Choice]) -> Settings | None:
    """Give what tuning adds to an entry; None while that is not known."""
    if entry.search is None or plan.study.tuning is None:
        return {}
    group = group_of(plan.study.tuning, entry)
    return next((choice.chosen for choice in choices if choice.group == group), None)


def _choices(plan: Plan, archive: Archive) -> tuple[Choice, ...]:
    """Choose for the groups whose trials have all ended."""
    tried = [
        (trial, [archive.get(cell.id) for cell in plan.trial_cells(trial)])
        for trial in trials(plan.study, plan.entries)
    ]
    waiting = [trial.group for trial, runs in tried if any(map(is_left, runs))]
    ended = [
        (trial, _score(plan.study, runs)) for trial, runs in tried if trial.group not in waiting
    ]
    lower = plan.study.tuning is not None and plan.study.tuning.lower_is_better
    return choose(ended, lower_is_better=lower)


def _score(study: Study, runs: Sequence[Record | None]) -> float | None:
    """Rate a trial by validation data alone; None if one of its runs failed, or measured NaN.

    Raises:
        ConfigError: If the runs did not measure what is to choose.
    """
    measured = [run.measured for run in runs if run and run.measured]
    if study.tuning is None or len(measured) < len(runs):
        return None
    metric = study.tuning.metric
    lacking = [run.validation for run in measured if metric not in run.validation]
    if lacking:
        known = ", ".join(lacking[0]) or "nothing"
        problem = f"a tuning run measured only this on validation data: {known}. It is kept."
        raise ConfigError([Fault(key="tune.metric", value=metric, problem=problem)], "the study")
    mean = sum(run.validation[metric] for run in measured) / len(measured)
    return mean if math.isfinite(mean) else None
