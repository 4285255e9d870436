"""`fedpeft study`: run a study's cells, each as a command of its own, and print its table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console

from fedpeft_app.atomic import write_bytes, write_json
from fedpeft_app.cli.ahead import forecast_cells, forecast_lines
from fedpeft_app.cli.cells import Processes, Share, require_shares
from fedpeft_app.cli.launch import interruptible
from fedpeft_app.cli.rehearsal import require_startable
from fedpeft_app.cli.report import REPORT, story_of
from fedpeft_app.cli.settings import check_settings, read_arguments, shipped
from fedpeft_app.config.flat import Scalar
from fedpeft_app.errors import ConfigError, Fault, LaunchError
from fedpeft_app.observe.report.study_page import study_page
from fedpeft_app.registry import near_miss
from fedpeft_app.studies.conduct import (
    Standing,
    ahead,
    asked_for,
    conduct,
    is_left,
    require_unchanged,
    standing,
)
from fedpeft_app.studies.grid import Entry
from fedpeft_app.studies.latex import to_latex
from fedpeft_app.studies.page import to_markdown
from fedpeft_app.studies.pictures import pictures
from fedpeft_app.studies.plan import Plan, load_plan
from fedpeft_app.studies.portrayal import portray
from fedpeft_app.studies.provenance import provenance
from fedpeft_app.studies.record import KEPT_STUDY, Archive
from fedpeft_app.studies.study import usual
from fedpeft_app.studies.table import lines, to_csv


def run_study(
    file: Path,
    console: Console,
    *,
    to: Path | None,
    only: Sequence[str],
    seeds: str,
    dry_run: bool,
    retry_failed: bool,
    calibrate: bool = False,
    share: Share = Share(),  # noqa: B008 - frozen
) -> None:
    """Run what is left of a study, then write and print its table.

    Args:
        file: The study file, or the name of one that comes with fedpeft.
        console: Where to print.
        to: Folder of the results; None = `results/<name>` in the working directory.
        only: "KEY=VALUE" each: run only cells that have all of these.
        seeds: Run only these seeds, separated by commas; empty = all.
        dry_run: Whether to say what would be run, and stop.
        retry_failed: Whether to run cells again that failed.
        calibrate: Whether a dry run measures how long runs take, too.
        share: What each run gets of this machine, and how many go on at the same time.

    Raises:
        ConfigError: If the study is not sound, one of its runs could not start, a filter fits
            nothing, or there are not as many shares of this machine.
        LaunchError: If another study is at work in the folder, if files that finished runs
            were made of have changed, or if runs that were asked for have not finished.
    """
    require_shares(share)
    source = shipped(file)
    plan = load_plan(source, check_settings)
    wanted = _filter(plan, only, seeds)
    folder = (to or Path("results") / plan.study.name).expanduser().absolute()
    archive = Archive(folder)
    tell = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    if dry_run:
        now = standing(plan, archive)
        timed = share if calibrate else None
        _announce(plan, now, wanted, retry_failed=retry_failed, timed=timed, tell=tell)
        return
    with archive.held(), interruptible():
        now = standing(plan, archive)
        require_startable(ahead(plan, now, wanted, retry_failed=retry_failed), tell)
        write_bytes(folder / KEPT_STUDY, source.read_bytes())  # a report tells by it what is left
        now = conduct(
            plan,
            archive,
            (processes := Processes(share)),
            wanted=wanted,
            retry_failed=retry_failed,
            made_with=lambda cell: provenance(cell.config),
            tell=tell,
            jobs=share.jobs,
            stop=processes.stop,
        )
        _publish(plan, now, folder, str(file), tell)
    _require_finished(now, wanted)


def _filter(plan: Plan, only: Sequence[str], seeds: str) -> Callable[[Entry, int], bool]:
    """Make a filter of entries and seeds; refuse what fits nothing."""
    settings, faults = read_arguments(only)
    for key in settings.keys() - usual().keys():
        hint = near_miss(key, usual())
        faults.append(
            Fault(key=f"--only {key}", value=settings[key], problem=f"unknown key.{hint}")
        )
    known = {seed for entry in plan.entries for seed in entry.seeds}
    chosen = {int(part) if part.strip().isdecimal() else part for part in seeds.split(",") if part}
    if wrong := chosen - known:
        problem = f"not in the study: {', '.join(map(str, wrong))}. It has {sorted(known)}."
        faults.append(Fault(key="--seeds", value=seeds, problem=problem))
    if faults:
        raise ConfigError(faults, where="the filter")

    def wanted(entry: Entry, seed: int) -> bool:
        full: Mapping[str, Scalar] = {**usual(), **entry.settings}
        fits = all(full[key] == value for key, value in settings.items())
        return fits and (not chosen or seed in chosen)

    if not any(wanted(entry, seed) for entry in plan.entries for seed in entry.seeds):
        problem = "fits no cell of the study. See them with --dry-run."
        raise ConfigError([Fault(key="--only", value=list(only), problem=problem)], "the filter")
    return wanted


def _announce(
    plan: Plan,
    now: Standing,
    wanted: Callable[[Entry, int], bool],
    *,
    retry_failed: bool,
    timed: Share | None,
    tell: Callable[[str], None],
) -> None:
    """Say what would be run, and what it would cost; refuse what a study itself would."""
    require_unchanged(now)
    cells = ahead(plan, now, wanted, retry_failed=retry_failed)
    require_startable(cells, tell)
    _list(plan, now, wanted, retry_failed=retry_failed, tell=tell)
    once = list({cell.name: cell for cell in reversed(cells)}.values())[::-1]  # not each candidate
    if once:
        for line in forecast_lines(forecast_cells(once, timed, tell), timed.jobs if timed else 1):
            tell(line)


def _list(
    plan: Plan,
    now: Standing,
    wanted: Callable[[Entry, int], bool],
    *,
    retry_failed: bool,
    tell: Callable[[str], None],
) -> None:
    """List the runs that are asked for, and which of them are left."""
    tuning = {cell.id for cell in plan.tuning_cells(asked_for(plan, wanted))}
    runs = [(cell.id, cell.name, record) for cell, record in now.trials if cell.id in tuning]
    for slot in now.slots:
        name = f"{slot.entry.name}, seed {slot.seed}"
        if wanted(slot.entry, slot.seed) and slot.cell:
            runs.append((slot.cell.id, name, slot.record))
        elif wanted(slot.entry, slot.seed):
            runs.append(("-" * 12, f"{name}, once tuned", None))
    left = 0
    for identifier, name, record in runs:
        is_open = is_left(record, retry_failed=retry_failed)
        state = "left" if is_open or record is None else record.status
        left += is_open
        tell(f"{identifier}  {state:<8}  {name}")
    tell(f"{left} run{'s' if left != 1 else ''} left in '{plan.study.name}'")


def _publish(
    plan: Plan, now: Standing, folder: Path, file: str, tell: Callable[[str], None]
) -> None:
    """Write the table, the pictures, what tuning chose and the report; print the table."""
    text = to_markdown(plan.study, now)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "table.md", text.encode())
    table = lines(plan.study, now)
    write_bytes(folder / "table.csv", to_csv(table).encode())
    write_bytes(folder / "table.tex", to_latex(plan.study, table).encode())
    story = story_of(plan, now, folder, file)
    (folder / "plots").mkdir(exist_ok=True)
    for name, picture in pictures(portray(plan.study, now, story)).items():
        write_bytes(folder / "plots" / f"{name}.svg", picture)
    if plan.study.tuning:
        choices = [
            {"for": choice.group, "chosen": choice.chosen, "scores": choice.scores}
            for choice in now.choices
        ]
        write_json(folder / "tuning.json", {**asdict(plan.study.tuning), "choices": choices})
    write_bytes(folder / REPORT, study_page(story).encode())
    tell(f"\n{text}\nwritten to {folder}")


def _require_finished(now: Standing, wanted: Callable[[Entry, int], bool]) -> None:
    """End with the truth about what was asked for.

    Tuning shows in it: where it chose nothing, the runs that wait for it have no record. A
    candidate that failed while another was chosen has done its part.
    """
    asked = [slot.record for slot in now.slots if wanted(slot.entry, slot.seed)]
    bad = [record for record in asked if record is None or record.status != "finished"]
    if bad:
        raise LaunchError(
            f"{len(bad)} of {len(asked)} runs have not finished. Their logs are beside their "
            f"JSON files; --retry-failed runs those that failed again."
        )
