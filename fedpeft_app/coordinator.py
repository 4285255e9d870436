"""The server's side of a run, from roll call to export, for every mode."""

import contextlib
import logging
import time
import traceback
from collections.abc import Mapping
from typing import Any

from flwr.serverapp import Grid

from fedpeft_app.assembly import codecs, fit_settings
from fedpeft_app.config import RunConfig, flatten
from fedpeft_app.errors import BudgetSpentError, FedPeftError, RunFolderError
from fedpeft_app.facts import run_facts
from fedpeft_app.node.memory import forget
from fedpeft_app.observe.lines import describe
from fedpeft_app.observe.observers.audience import Audience
from fedpeft_app.observe.observers.observer import Observer
from fedpeft_app.observing import make_observers, watched
from fedpeft_app.opening import open_door, open_session
from fedpeft_app.recorder import Recorder, Secrecy, secrecy
from fedpeft_app.resume import made, reopen, require_made, take_up
from fedpeft_app.round_plan import asked, round_plan
from fedpeft_app.run_data import processor
from fedpeft_app.runs.checkpoint import Checkpoint
from fedpeft_app.runs.directory import RunFolder, create_run, runs_parent
from fedpeft_app.runs.export import export
from fedpeft_app.runs.lock import writing
from fedpeft_app.runs.retention import retention
from fedpeft_app.session import Session, run_alone
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.loop import nobody_new
from fedpeft_app.strategies.rounds import Since, run_rounds
from fedpeft_app.traffic import Expected, expected_traffic, summary

_flower_log = logging.getLogger("flwr").getChild("fedpeft")  # has Flower's handlers


def coordinate(grid: Grid, config: RunConfig, run_id: int) -> RunFolder:
    """Run one federation.

    Args:
        grid: Flower's connection.
        config: The checked configuration.
        run_id: Flower's id of the run.

    Returns:
        The run's folder, with the exported adapter in it.

    Raises:
        FedPeftError: Whatever went wrong; it is journalled first.
    """
    if config.resume:
        folder, config = take_up(config)
        observers = make_observers(config)
    else:
        observers = make_observers(config)  # what is wrong with them leaves no folder
        parent = runs_parent(config.output.dir)
        folder = create_run(parent, config.output.name, run_id, flatten(config))
    with writing(folder):
        _coordinate(grid, config, folder, run_id, observers)
    return folder


def _coordinate(
    grid: Grid,
    config: RunConfig,
    folder: RunFolder,
    run_id: int,
    observers: Mapping[str, Observer],
) -> None:
    """Run one federation in a folder, or go on with it."""
    reopened = reopen(folder, config) if config.resume else None
    versions = require_made(reopened.checkpoint, config) if reopened else {}
    audience = Audience(folder.journal, watched(config, folder, reopened), observers, _log_line)
    journal = audience.journal
    session: Session | None = None
    if reopened:
        journal.note(
            "run_resumed",
            run_id=str(run_id),
            round=reopened.round_number,
            rounds=config.rounds,
            changed=dict(reopened.changed),
            problems=list(reopened.problems),
            versions=versions,
        )
    try:
        session = open_session(grid, config, folder, journal, reopened)
        if config.mode == "local":
            chosen, nodes = run_alone(grid, session)
            sent = summary(session.ledger, None, 1)
            _finish(session, chosen, "best node on validation data", sent, nodes=nodes)
        else:
            _run_together(grid, session)
    except Exception as error:
        with contextlib.suppress(RunFolderError):  # a full disk is what is to be told of
            if session is not None:
                _state_privacy(session)
            journal.note("run_failed", folder=str(folder.path), **_told(error))
        raise
    finally:
        audience.close()


def _told(error: Exception) -> dict[str, str]:
    """Say what went wrong, and where if nobody foresaw it."""
    if isinstance(error, FedPeftError):
        return {"problem": str(error)}
    where = "".join(traceback.format_exception(error))
    return {"problem": f"unexpected {error!r}; the journal has its traceback", "traceback": where}


def _run_together(grid: Grid, session: Session) -> None:
    """Federated training, and its central baseline: one node that holds everything."""
    config, expected = session.config, _expected(session)
    with secrecy(session.folder.secret, expected) as kept:
        recorder = _recorder(session, kept)
        if session.reopened:
            recorder.go_on(session.reopened.checkpoint, session.reopened.asked)
        try:
            if not recorder.out_of_patience:  # else a run goes on that had ended for that
                run_rounds(
                    grid,
                    session.strategy if config.mode == "federated" else Composition(),
                    session.roster.members,
                    session.initial,
                    round_plan(
                        config,
                        experiment=session.folder.path.name,
                        personal=bool(session.adapted.personal.parameters),
                    ),
                    ledger=session.ledger,
                    watcher=recorder,
                    since=_since(session),
                    renew=open_door(grid, session) if config.mode == "federated" else nobody_new,
                )
        except BudgetSpentError as error:
            if recorder.last is None:  # there is nothing that could be exported
                raise
            session.journal.note("privacy_spent", rounds=config.rounds, problem=str(error))
    forget(session.folder.path.name)
    chosen, last = recorder.best or recorder.last, recorder.last
    if chosen is None or last is None:
        raise FedPeftError("The run ended without a single round.")
    measured = {
        key: value
        for key, value in chosen.metrics.items()
        if key.startswith("clients") or key == "untrained"
    }
    why = "best on validation data" if recorder.best else "last"
    _finish(session, chosen, why, summary(session.ledger, expected, last.round_number), **measured)


def _since(session: Session) -> Since | None:
    """Say after which round the rounds go on."""
    checkpoint = session.reopened.checkpoint if session.reopened else None
    if checkpoint is None:
        return None
    progress = checkpoint.require_progress().part("rounds")
    return Since(round_number=checkpoint.round_number, snapshot=progress)


def _recorder(session: Session, kept: Secrecy | None) -> Recorder:
    """Make what watches the rounds."""
    config = session.config
    return Recorder(
        folder=session.folder,
        journal=session.journal,
        ledger=session.ledger,
        examiner=session.examiner,
        rounds=config.rounds,
        every=config.evaluate.every,
        precision=fit_settings(config).precision,
        criterion=session.criterion,
        test_rounds=config.evaluate.test == "rounds",
        keep=retention(config.output.keep),
        patience=config.budget.patience,
        report=session.report,
        secrecy=kept,
        made=made(config),
    )


def _expected(session: Session) -> Expected | None:
    """Say what stands for traffic that would tell who was drawn; None where it may be told."""
    config = session.config
    if config.privacy.mode != "user":
        return None
    uplink, downlink = codecs(config)
    clients = asked(config, len(session.roster.members))
    return expected_traffic(session.adapted.spec, uplink=uplink, downlink=downlink, clients=clients)


def _finish(
    session: Session, chosen: Checkpoint, why: str, traffic: Mapping[str, Any], **found: Any
) -> None:
    """Export the chosen state, judge it exactly, and close the journal with a summary."""
    config, ledger = session.config, session.ledger
    exact = chosen.metrics.get("precision") == "fp32"
    test = chosen.metrics.get("test") if exact else None
    if not test and config.evaluate.every:
        test = session.examiner.examine(chosen.state, "test", "fp32")
    test = dict(test or {})
    facts = run_facts(
        config,
        session.folder.path.name,
        exported=f"{chosen.round_number} ({why})",
        nodes=len(session.roster.members),
        traffic=traffic,
        test=test,
        privacy=_state_privacy(session),
    )
    snippet = export(
        session.adapted,
        chosen.state,
        processor(config),
        session.folder.adapter,
        form="adapter",
        max_length=config.data.max_length,
        usage=session.examiner.task.usage,
        facts=facts,
    )
    session.journal.note(
        "run_finished",
        run=session.folder.path.name,
        folder=str(session.folder.path),
        adapter=str(session.folder.adapter),
        snippet=snippet,
        round=chosen.round_number,
        chosen=why,
        test=test,
        seconds=round(time.monotonic() - session.started, 2),
        mode=config.mode,
        metric=session.criterion.metric,
        full_bytes_per_message=ledger.full_message_bytes,
        backbone_bytes=ledger.backbone_bytes,
        **traffic,
        **found,
    )


def _state_privacy(session: Session) -> dict[str, str]:
    """Say what is guaranteed of privacy when a run ends, however it does."""
    report = session.report
    if report is None or not (rows := report.statement()):
        return {}
    told = {"epsilon": report.epsilon(), "nodes": report.each()}
    session.journal.note("privacy_statement", rows=rows, final=True, **told)
    return rows


def _log_line(event: Mapping[str, Any]) -> None:
    """Say on Flower's log what the journal says, for runs without a live view."""
    if line := describe(event):
        _flower_log.info(line)
