"""Finished runs: list, remove, export, predict."""

from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from fedpeft_app.config import RunConfig, parse
from fedpeft_app.errors import RunFolderError
from fedpeft_app.mirrors import home
from fedpeft_app.runs.directory import find_run, list_runs, remove_run


def runs_parent(config: RunConfig | None = None) -> Path:
    """Give the folder of run folders: the configured one, or the user's own."""
    if config is not None and config.output.dir:
        return Path(config.output.dir).expanduser().absolute()
    return home() / "runs"


def outcome(events: list[dict[str, Any]]) -> str:
    """Say in one word how a run ended."""
    kinds = {event["event"] for event in events}
    if "run_finished" in kinds:
        return "finished"
    return "failed" if "run_failed" in kinds else "unfinished"


def list_runs_table(console: Console) -> None:
    """Print a table of all runs, newest first."""
    table = Table("run", "mode", "method", "data", "rounds", "outcome", "test accuracy")
    for run in list_runs(runs_parent()):
        config, events = run.config(), run.events()
        finished = next((event for event in events if event["event"] == "run_finished"), {})
        accuracy = finished.get("test", {}).get("accuracy")
        done = sum(event["event"] == "round_finished" for event in events)
        table.add_row(
            run.path.name,
            str(config["mode"]),
            str(config["method.name"]),
            Path(str(config["data.name"])).name,
            f"{done}/{config['rounds']}",
            outcome(events),
            f"{accuracy:.4f}" if accuracy is not None else "",
        )
    console.print(table if table.row_count else f"no runs in {runs_parent()}")


def clean_runs(references: list[str], *, everything: bool, unfinished: bool, ask: bool) -> None:
    """Remove the named runs, all runs, or those that did not finish."""
    parent = runs_parent()
    chosen = {run.path: run for run in (find_run(parent, name) for name in references)}
    for run in list_runs(parent):
        if everything or (unfinished and outcome(run.events()) == "unfinished"):
            chosen[run.path] = run
    if not chosen:
        typer.echo("nothing to remove; name runs, or use --unfinished or --all")
        return
    for path in chosen:
        typer.echo(path)
    if ask:
        typer.confirm(f"Remove {len(chosen)} run folders?", abort=True)
    for run in chosen.values():
        remove_run(run)


def export_adapter(
    reference: str, round_: str, form: str, target: Path | None, console: Console
) -> None:
    """Export a round of a run and print how to load it."""
    from fedpeft_app.restore import restore, round_of
    from fedpeft_app.runs.export import export

    run = find_run(runs_parent(), reference)
    config = parse(run.config())
    restored = restore(run, config, round_of(run, round_))
    name = "adapter" if form == "adapter" else f"adapter-{form}"
    path = (target or run.path / name).expanduser().absolute()
    if path.exists() and not (path / "labels.json").exists():
        raise RunFolderError(f"{path} exists and is no export of fedpeft; it is not replaced.")
    snippet = export(
        restored.adapted,
        restored.checkpoint.state,
        restored.tokenizer,
        path,
        form=form,
        max_length=config.data.max_length,
        facts={
            "run": run.path.name,
            "method": config.method.name,
            "mode": config.mode,
            "exported round": restored.checkpoint.round_number,
        },
    )
    console.print(f"exported to {path}\n\n{snippet}", highlight=False, markup=False, soft_wrap=True)


def predict_texts(reference: str, texts: list[str], console: Console) -> None:
    """Print the label and its probability for each text."""
    from fedpeft_app.restore import predict, restore, round_of

    run = find_run(runs_parent(), reference)
    config = parse(run.config())
    restored = restore(run, config, round_of(run, "best"))
    for text, (label, probability) in zip(texts, predict(restored, config, texts), strict=True):
        shown = text if len(text) <= 70 else f"{text[:69]}…"
        console.print(f"{label}\t{probability:.3f}\t{shown}", highlight=False, markup=False)
