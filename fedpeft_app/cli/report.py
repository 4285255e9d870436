"""`fedpeft report`: a run, or a study, as one HTML file."""

import shlex
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedpeft_app.atomic import write_bytes
from fedpeft_app.cli.results import outcome
from fedpeft_app.cli.settings import check_settings, literal, shipped, shipped_studies
from fedpeft_app.config import defaults
from fedpeft_app.config.flat import fields
from fedpeft_app.errors import RunFolderError
from fedpeft_app.observe.report.run import RunStory
from fedpeft_app.observe.report.run_page import run_page
from fedpeft_app.observe.report.study import StudyStory
from fedpeft_app.observe.report.study_page import study_page
from fedpeft_app.runs.directory import RunFolder, find_run, runs_parent
from fedpeft_app.studies.conduct import Standing, standing
from fedpeft_app.studies.plan import Plan, load_plan
from fedpeft_app.studies.record import KEPT_STUDY, Archive
from fedpeft_app.studies.story import study_story

REPORT = "report.html"
_RESULTS = Path("results")  # where `fedpeft study` puts them, from the working directory
_ANYWHERE = ("output.dir", "resume")  # say where a run is kept, and nothing of what it does


def write_report(
    reference: str, output: Path | None, console: Console, *, study: Path | None = None
) -> None:
    """Write the report of a run or a study, and print where it is.

    Args:
        reference: A run's folder, name, part of a name, or "latest"; a study's folder of
            results, or its name.
        output: The file to write; None = report.html in the folder.
        console: Where to print.
        study: The study's file; None = the one that its results keep, or a shipped one.

    Raises:
        FedPeftError: If there is no such run or study, or it cannot be read.
        OSError: If the file cannot be written.
    """
    results = _results(reference)
    if results is None:
        run = find_run(runs_parent(), reference)
        folder, page = run.path, run_page(run_story(run))
    else:
        folder, page = results, _study_page(results, study)
    path = (output or folder / REPORT).expanduser().absolute()
    write_bytes(path, page.encode())
    console.print(str(path), highlight=False, markup=False, soft_wrap=True)


def run_story(run: RunFolder) -> RunStory:
    """Collect what a run's report is made of.

    Args:
        run: The run.

    Raises:
        RunFolderError: If its configuration or its journal is damaged.
    """
    config, events = run.config(), run.events()
    return RunStory(
        name=run.path.name,
        standing=outcome(run),
        events=events,
        config=config,
        defaults=defaults(),
        meanings={key: field.description or "" for key, field in fields().items()},
        commands=_commands(run.path.name, config, events, outcome(run)),
    )


def story_of(plan: Plan, now: Standing, folder: Path, file: str) -> StudyStory:
    """Collect what a study's report is made of.

    Args:
        plan: The study.
        now: How it stands.
        folder: Its results.
        file: What `fedpeft study` was given.
    """
    words = ["fedpeft", "study", file]
    if folder.name != plan.study.name:
        words += ["--to", str(folder)]
    return study_story(plan, now, command=shlex.join(words))


def run_command(config: Mapping[str, Any], nodes: int, *, simulated: bool) -> str:
    """Write the command that runs a configuration again.

    Args:
        config: Every key → value.
        nodes: Simulated nodes.
        simulated: Whether they were; else the command leaves open which federation it is for.

    Guarantee:
        `fedpeft run`, given these arguments, has the same configuration.
    """
    usual = defaults()
    settings = [
        shlex.quote(f"{key}={_argument(value)}")
        for key, value in config.items()
        if key in usual and value != usual[key] and key not in _ANYWHERE
    ]
    where = ["--nodes", str(nodes)] if simulated else ["--connection", "NAME"]
    return " ".join(["fedpeft", "run", *where, *settings])


def _argument(value: Any) -> str:
    """Write a value so that the command line reads it as it was."""
    if isinstance(value, bool):
        return str(value).lower()
    written = str(value)
    try:  # a text that TOML takes for a quoted one, or that has blanks around it
        plain = not isinstance(tomllib.loads(f"value = {written.strip()}")["value"], str)
    except tomllib.TOMLDecodeError:
        plain = True
    kept = plain and written == written.strip()
    return written if kept or not isinstance(value, str) else literal(value)


def _commands(
    name: str, config: Mapping[str, Any], events: Sequence[Mapping[str, Any]], end: str
) -> dict[str, str]:
    """Say how the run is done again, and how it goes on."""
    calls = [event for event in events if event["event"] == "roll_call"]
    commands = {}
    if end in ("failed", "unfinished") and config.get("mode") != "local":
        commands["Go on after the last round that is kept:"] = f"fedpeft run --resume {name}"
    if not calls:
        nodes, simulated = 0, True
    else:
        nodes = len(calls[-1]["examples"]) + len(calls[-1]["refused"])
        simulated = not any("identities" in call for call in calls)
    if nodes:
        title = (
            "The same run, from the start:"
            if simulated
            else f"The same settings, on a federation of {nodes} nodes and what they hold:"
        )
        commands[title] = run_command(config, nodes, simulated=simulated)
    return commands


# ------------------------------------------------------------------ studies


def _results(reference: str) -> Path | None:
    """Find a folder of results; None if the reference is not one."""
    for folder in (Path(reference).expanduser(), _RESULTS / reference):
        if reference and (folder / "cells").is_dir():
            return folder.absolute()
    return None


def _study_page(folder: Path, study: Path | None) -> str:
    """Make the page of a study as its records stand."""
    file = shipped(study) if study else _study_of(folder)
    plan = load_plan(file, check_settings)
    now = standing(plan, Archive(folder))
    said = str(study) if study else file.stem if file.name != KEPT_STUDY else str(file)
    return study_page(story_of(plan, now, folder, said))


def _study_of(folder: Path) -> Path:
    """Find the file that results were made by."""
    if (folder / KEPT_STUDY).is_file():
        return folder / KEPT_STUDY
    for path in shipped_studies():
        if tomllib.loads(path.read_text(encoding="utf-8")).get("name") == folder.name:
            return path
    raise RunFolderError(
        f"Expected the study of {folder} as {KEPT_STUDY} in it, or a shipped one named "
        f"'{folder.name}', found neither. Say which file it is: --study FILE."
    )
