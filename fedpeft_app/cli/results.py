"""Finished runs: list, remove, export, predict."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedpeft_app.config import RunConfig, parse
from fedpeft_app.errors import RunFolderError
from fedpeft_app.facts import run_facts
from fedpeft_app.node.memory import erase
from fedpeft_app.observe.journal import is_being_written
from fedpeft_app.observe.lines import headline
from fedpeft_app.privacy.statement import shown
from fedpeft_app.runs.directory import RunFolder, find_run, list_runs, remove_run, runs_parent

if TYPE_CHECKING:
    from fedpeft_app.runs.checkpoint import Checkpoint

_COLUMNS = ("run", "mode", "method", "data", "rounds", "outcome", "metric", "test", "epsilon")
_NOTHING = "(nothing)"  # no label of several, or an end at once
_SHOWN = 70  # characters of a text that are printed beside its label


def outcome(run: RunFolder) -> str:
    """Say in one word how a run stands.

    Args:
        run: The run.

    Returns:
        "finished", "failed", "running", "unfinished" for a run whose process was ended, or
        "unreadable" for one with a damaged journal.
    """
    try:
        kinds = {event["event"] for event in run.events()}
    except RunFolderError:
        return "unreadable"
    if "run_finished" in kinds:
        return "finished"
    if "run_failed" in kinds:
        return "failed"
    return "running" if is_being_written(run.journal) else "unfinished"


def list_runs_table(console: Console) -> None:
    """Print all runs, newest first: a table, or tab-separated lines where output is piped.

    Args:
        console: Where to print.
    """
    parent = runs_parent()
    rows = [_row(run) for run in list_runs(parent)]
    if not rows:
        console.print(f"no runs in {parent}", highlight=False, markup=False, soft_wrap=True)
    elif console.is_terminal:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        last = len(_COLUMNS) if any(row[-1] for row in rows) else len(_COLUMNS) - 1
        for name in (_COLUMNS[0], *_COLUMNS[4:last]):
            table.add_column(name, overflow="fold")
        for row in rows:  # two lines a run fit 80 characters
            below = ", ".join(filter(None, row[1:4]))
            first = f"{escape(row[0])}\n[dim]{escape(below)}[/dim]"
            table.add_row(first, *map(escape, row[4:last]))
        console.print(table)
    else:
        for row in (_COLUMNS, *rows):
            typer.echo("\t".join(row), file=console.file)


def clean_runs(references: list[str], *, everything: bool, unfinished: bool, ask: bool) -> None:
    """Remove the named runs, all runs, or those that did not finish.

    What simulated nodes kept for themselves on this machine goes with them, but for their books of
    what they spent of privacy.

    Args:
        references: Runs by folder, name or part of a name.
        everything: Remove every run.
        unfinished: Remove every run that failed or was ended.
        ask: Whether to ask first.

    Raises:
        RunFolderError: If a reference fits no run, or names one that is going on.
    """
    parent = runs_parent()
    chosen = {run.path: run for run in (find_run(parent, name) for name in references)}
    if running := [path.name for path, run in chosen.items() if outcome(run) == "running"]:
        raise RunFolderError(f"Still running, not removed: {', '.join(running)}. Stop it first.")
    for run in list_runs(parent):
        end = outcome(run)
        if (everything and end != "running") or (unfinished and end in ("failed", "unfinished")):
            chosen[run.path] = run
    if not chosen:
        typer.echo("nothing to remove; name runs, or use --unfinished or --all")
        return
    for path in chosen:
        typer.echo(path)
    if ask:
        typer.confirm(f"Remove {len(chosen)} run folder{'s' * (len(chosen) > 1)}?", abort=True)
    for run in chosen.values():
        remove_run(run)
        erase(run.path.name)


def export_adapter(
    reference: str,
    round_: str,
    form: str,
    target: Path | None,
    console: Console,
    *,
    node: int | None = None,
) -> None:
    """Export a round of a run and print how to load it.

    Args:
        reference: The run.
        round_: A round's number, "best" or "last".
        form: One of `runs.export.FORMS`.
        target: The folder to write; None for one in the run's folder.
        console: Where to print.
        node: Partition of the node whose own parameters go in too; None = nobody's.

    Raises:
        FedPeftError: If there is no such run or round, the model is not the run's any more,
            or the folder cannot be written.
    """
    from fedpeft_app.restore import restore, round_of
    from fedpeft_app.run_data import bound_task
    from fedpeft_app.runs.export import export, kept_by_nodes, require_replaceable

    run = find_run(runs_parent(), reference)
    config = parse(run.config())
    number = round_of(run, round_)
    name = "adapter" if form == "adapter" else f"adapter-{form}"
    if number != round_of(run, "best"):
        name += f"-round-{number}"  # the run's own adapter stays what the journal says it is
    if node is not None:
        name += f"-node-{node}"
    path = (target or run.path / name).expanduser().absolute()
    require_replaceable(path)
    restored = restore(run, config, number, node)
    snippet = export(
        restored.adapted,
        restored.checkpoint.state,
        restored.processor,
        path,
        form=form,
        max_length=config.data.max_length,
        usage=bound_task(config, restored.labels).usage,
        facts=_facts(run, config, restored.checkpoint),
        personal=restored.personal,
    )
    console.print(f"exported to {path}\n\n{snippet}", highlight=False, markup=False, soft_wrap=True)
    if node is None and (kept := kept_by_nodes(restored.adapted)):
        warning = f"its {kept} was never trained: each node kept its own; --node K exports that"
        console.print(warning, style="yellow", soft_wrap=True)


def predict_texts(
    reference: str,
    texts: list[str],
    console: Console,
    *,
    round_: str = "best",
    node: int | None = None,
) -> None:
    """Print for each input the answer, its probability if it is a label, and its beginning.

    Args:
        reference: The run.
        texts: Texts, instructions, or paths of images; at least one.
        console: Where to print.
        round_: A round's number, "best" or "last".
        node: Partition of the node whose own parameters are used; None = nobody's.

    Raises:
        FedPeftError: If there is no such run, or its model is not to be had any more.
        RunFolderError: If nodes kept parameters for themselves and no node is named.
    """
    from fedpeft_app.restore import predict, restore, round_of
    from fedpeft_app.runs.export import kept_by_nodes

    run = find_run(runs_parent(), reference)
    config = parse(run.config())
    restored = restore(run, config, round_of(run, round_), node)
    if node is None and (kept := kept_by_nodes(restored.adapted)):
        raise RunFolderError(
            f"Each node of {run.path.name} kept a {kept} of its own; without one nothing is "
            f"predicted. Say whose: --node K, with --round last if the best round is not kept."
        )
    for text, found in zip(texts, predict(restored, config, texts), strict=True):
        line = " ".join(text.split())
        shown = line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
        sure = "" if found.probability is None else f"\t{found.probability:.3f}"
        typer.echo(f"{found.answer or _NOTHING}{sure}\t{shown}", file=console.file)


def _row(run: RunFolder) -> tuple[str, ...]:
    """Sum a run up, also one whose files are damaged."""
    try:
        config, events, end = run.config(), run.events(), outcome(run)
    except RunFolderError:
        return (run.path.name, "", "", "", "", "unreadable", "", "", "")
    metric, value = headline(_finished(events)) or ("", None)
    alone = config["mode"] == "local"  # nothing is exchanged, so there are no rounds
    done = sum(event["event"] == "round_finished" for event in events)
    return (
        run.path.name,
        str(config["mode"]),
        str(config["method.name"]),
        Path(str(config.get("data.name", ""))).name,
        "alone" if alone else f"{done}/{config['rounds']}",
        end,
        metric,
        "" if value is None else f"{value:.4f}",
        _epsilon(config, events),
    )


def _epsilon(config: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    """Say what a run has spent of privacy, as it stated last; empty where nothing is stated."""
    stated = _last(events, "privacy_statement").get("rows", {})
    told = next((e["epsilon"] for e in reversed(events) if e.get("epsilon") is not None), None)
    if not stated:
        return ""
    if told is None:
        return "not known"
    unsafe = " UNSAFE" * (config.get("privacy.unsafe-seed", -1) >= 0)
    return f"{'at least ' * ('not known' in stated)}{shown(told)}{unsafe}"


def _facts(run: RunFolder, config: RunConfig, checkpoint: "Checkpoint") -> dict[str, Any]:
    """Collect what the model card says about a checkpoint."""
    events = run.events()
    members = [len(event["examples"]) for event in events if event["event"] == "roll_call"]
    finished = _finished(events)
    exported: str | int = checkpoint.round_number
    exact = checkpoint.metrics.get("precision") == "fp32"
    test = checkpoint.metrics.get("test", {}) if exact else {}
    if finished and finished["round"] == checkpoint.round_number:
        exported = f"{exported} ({finished['chosen']})"
        test = finished["test"]
    return run_facts(
        config,
        run.path.name,
        exported=exported,
        nodes=members[-1] if members else None,
        traffic=finished,
        test=test,
        privacy=_last(events, "privacy_statement").get("rows", {}),
    )


def _last(events: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Give the last event of a name; empty where there is none."""
    return next((event for event in reversed(events) if event["event"] == name), {})


def _finished(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Give the event that ends a whole run; empty where there is none."""
    return next((event for event in events if event["event"] == "run_finished"), {})
