"""The server's side of a run, from roll call to export, for every mode."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.assembly import (
    adapted_model,
    agreement,
    codecs,
    fit_settings,
)
from fedpeft_app.config import RunConfig, flatten
from fedpeft_app.config.schema import options
from fedpeft_app.data.encoded import example_set
from fedpeft_app.data.splits import Splits
from fedpeft_app.data_plan import criterion, make_task
from fedpeft_app.errors import AdapterMismatchError, BudgetSpentError, FedPeftError
from fedpeft_app.facts import run_facts
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.methods.method import as_saved
from fedpeft_app.node.memory import forget
from fedpeft_app.observe.journal import Journal
from fedpeft_app.observe.lines import describe
from fedpeft_app.privacy_report import NUMBERS, protected
from fedpeft_app.recorder import Examiner, Recorder, Secrecy, secrecy
from fedpeft_app.run_data import bound_task, find_model, open_data, processor, server_splits
from fedpeft_app.runs.checkpoint import Checkpoint
from fedpeft_app.runs.directory import RunFolder, create_run, runs_parent
from fedpeft_app.runs.export import export
from fedpeft_app.runs.initial import load_adapter
from fedpeft_app.session import Session, run_alone
from fedpeft_app.strategies.broadcast import is_exact
from fedpeft_app.strategies.catalogue import make_strategy
from fedpeft_app.strategies.composition import Composition
from fedpeft_app.strategies.ranks import rank_objection
from fedpeft_app.strategies.roll_call import (
    Presence,
    Roster,
    call_roll,
    make_roster,
    wait_for_nodes,
)
from fedpeft_app.strategies.rounds import RoundPlan, run_rounds
from fedpeft_app.strategies.strategy import Strategy
from fedpeft_app.traffic import Expected, expected_traffic, summary
from fedpeft_app.wire.ledger import Ledger

_flower_log = logging.getLogger("flwr").getChild("fedpeft")  # has Flower's handlers

_ASIDE = "secret.jsonl"  # in a run's folder; not to be passed on with it
_BYTES_PER_MIB = 2**20
_NODES_TIMEOUT_S = 300.0  # nodes may still be connecting when the run starts


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
    folder = create_run(runs_parent(config.output.dir), config.output.name, run_id, flatten(config))
    journal = Journal(folder.journal, _log_line)
    session: Session | None = None
    try:
        session = _open_session(grid, config, folder, journal)
        if config.mode == "local":
            chosen, nodes = run_alone(grid, session)
            sent = summary(session.ledger, None, 1)
            _finish(session, chosen, "best node on validation data", sent, nodes=nodes)
        else:
            _run_together(grid, session)
    except Exception as error:
        if session is not None:
            _state_privacy(session)
        problem = str(error) if isinstance(error, FedPeftError) else repr(error)
        journal.note("run_failed", problem=problem, folder=str(folder.path))
        raise
    finally:
        journal.close()
    return folder


def _open_session(grid: Grid, config: RunConfig, folder: RunFolder, journal: Journal) -> Session:
    """Call the roll, load what the server needs, and note who takes part."""
    started = time.monotonic()
    rule = criterion(config, make_task(config))  # `flwr run` starts runs that nothing looked at
    strategy = make_strategy(
        config.strategy.name, options(config.strategy.options), seed=config.seed
    )
    located = find_model(config.model.name, config.model.revision)
    ledger = Ledger(backbone_bytes=located.weight_bytes, full_parameters=0)
    adapted, roster = _call_roll(grid, config, strategy, ledger)
    ledger.full_parameters = adapted.backbone.parameters
    journal.note(
        "run_started",
        run=folder.path.name,
        folder=str(folder.path),
        mode=config.mode,
        method=config.method.name,
        model=config.model.name,
        backbone_bytes=located.weight_bytes,
        trainable=trained_spec(adapted.spec).size,
        parameters=adapted.backbone.parameters,
        precision=fit_settings(config).precision,
        head=config.method.head,
        personal=adapted.personal.spec.size,
        personal_steps=config.evaluate.personal_steps,
    )
    journal.note(
        "roll_call",
        examples={str(member.partition): member.examples for member in roster.members},
        counted=config.privacy.counts_told,
        refused=dict(roster.refused),
        bytes=ledger.total(kind="roll-call"),
        labels=list(roster.labels),
    )
    strategy, report = protected(config, strategy, len(roster.members), folder.path)
    return Session(
        config=config,
        folder=folder,
        journal=journal,
        ledger=ledger,
        roster=roster,
        adapted=adapted,
        examiner=_examiner(config, adapted, roster.labels, journal),
        criterion=rule,
        strategy=strategy,
        report=report,
        initial=_initial_state(config, adapted, roster.labels),
        started=started,
    )


def _call_roll(
    grid: Grid, config: RunConfig, strategy: Strategy, ledger: Ledger
) -> tuple[AdaptedModel, Roster]:
    """Find out who is there, and keep those who hold what the server holds."""
    minimum = 1 if config.mode == "central" else config.strategy.min_nodes
    nodes = wait_for_nodes(grid, minimum, _NODES_TIMEOUT_S)
    answers = call_roll(grid, nodes, ledger=ledger, timeout_s=config.strategy.round_timeout)
    labels = _labels(config, answers)
    adapted = adapted_model(config, labels)
    exact = is_exact(codecs(config)[1])
    roster = make_roster(
        answers,
        expected=agreement(config, adapted),
        minimum=minimum,
        labels=labels,
        objection=lambda member: rank_objection(
            strategy,
            adapted.spec,
            member,
            highest=config.method.rank,
            exact_downlink=exact,
        ),
    )
    if config.mode == "central":
        roster = replace(roster, members=roster.members[:1])
    return adapted, roster


def _labels(config: RunConfig, answers: list[tuple[int, Presence | str]]) -> tuple[str, ...]:
    """Take the label names from the server's data, or from the first node that answered."""
    if config.evaluate.server:
        return open_data(config, config.data.name).label_names
    present = [answer for _, answer in answers if isinstance(answer, Presence)]
    return present[0].labels if present else ("", "")


def _examiner(
    config: RunConfig, adapted: AdaptedModel, labels: tuple[str, ...], journal: Journal
) -> Examiner:
    """Make the server's examiner, without examples where the server holds none."""
    nothing = example_set([])
    held = config.evaluate.server
    splits = (
        server_splits(config) if held else Splits(train=nothing, validation=nothing, test=nothing)
    )
    return Examiner(
        adapted=adapted,
        task=bound_task(config, labels),
        splits=splits,
        batch_size=config.evaluate.batch_size,
        journal=journal,
    )


def _initial_state(
    config: RunConfig, adapted: AdaptedModel, labels: tuple[str, ...]
) -> AdapterState:
    """Start fresh, or from an existing adapter folder."""
    if not config.method.init_from:
        return adapted.initial
    try:
        return load_adapter(
            Path(config.method.init_from),
            adapted.spec,
            labels,
            drawn={name: value.numpy(force=True) for name, value in adapted.drawn.items()},
            personal=[tensor.name for tensor in adapted.personal.spec.tensors],
        )
    except AdapterMismatchError as error:
        if adapted.adaptation.restate is as_saved:
            raise
        raise AdapterMismatchError(
            f"{error} Mind that {config.method.name} is exported as another method "
            f"(docs/methods.md), from which it cannot go on."
        ) from error


def _run_together(grid: Grid, session: Session) -> None:
    """Federated training, and its central baseline: one node that holds everything."""
    config, expected = session.config, _expected(session)
    with secrecy(session.folder.path / _ASIDE, expected) as kept:
        recorder = _recorder(session, kept)
        try:
            run_rounds(
                grid,
                session.strategy if config.mode == "federated" else Composition(),
                session.roster.members,
                session.initial,
                _plan(session),
                ledger=session.ledger,
                watcher=recorder,
            )
        except BudgetSpentError as error:
            if recorder.last is None:  # there is nothing that could be exported
                raise
            session.journal.note("privacy_spent", rounds=config.rounds, problem=str(error))
        else:
            if recorder.last and recorder.last.round_number < config.rounds:
                _note_bytes_spent(session, recorder.last.round_number)
    forget(session.folder.path.name, personal=bool(session.adapted.personal.parameters))
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
        keep_all=config.output.keep == "all",
        report=session.report,
        secrecy=kept,
    )


def _expected(session: Session) -> Expected | None:
    """Say what stands for traffic that would tell who was drawn; None where it may be told."""
    config = session.config
    if config.privacy.mode != "user":
        return None
    uplink, downlink = codecs(config)
    clients = config.strategy.fraction_train * len(session.roster.members)
    return expected_traffic(session.adapted.spec, uplink=uplink, downlink=downlink, clients=clients)


def _note_bytes_spent(session: Session, round_number: int) -> None:
    """Say that a run ended before its last round because it has sent enough."""
    session.journal.note(
        "budget_spent",
        round=round_number,
        rounds=session.config.rounds,
        up=session.ledger.total("up", kind="train"),
        budget=session.config.budget.uplink_mib,
    )


def _plan(session: Session) -> RoundPlan:
    """Collect how rounds go."""
    config = session.config
    together = config.mode == "federated"
    users = config.privacy.mode == "user"  # the strategy draws the cohort, in secret
    personal = bool(session.adapted.personal.parameters)
    uplink, downlink = codecs(config)
    return RoundPlan(
        rounds=config.rounds,
        seed=config.seed,
        fraction_train=config.strategy.fraction_train if together and not users else 1.0,
        fraction_evaluate=config.strategy.fraction_evaluate,
        min_replies=config.strategy.min_replies if together and not users else 1,
        timeout_s=config.strategy.round_timeout,
        experiment=session.folder.path.name,
        keeps=personal
        or config.privacy.mode == "sample"
        or not (is_exact(uplink) and is_exact(downlink)),
        personal=personal,
        cohort=config.strategy.cohort if together else "uniform",
        dropout=config.strategy.dropout if together else 0.0,
        over_selection=config.strategy.over_selection if together else 1.0,
        downlink=downlink,
        feedback=config.wire.feedback,
        drawn=not config.method.init_from,
        uplink_budget=math.ceil(config.budget.uplink_mib * _BYTES_PER_MIB) if together else 0,
        numbers=NUMBERS[config.privacy.mode],
        chance=users,
    )


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
    rows = session.report.statement() if session.report else {}
    if rows:
        session.journal.note("privacy_statement", rows=rows, final=True)
    return rows


def _log_line(event: Mapping[str, Any]) -> None:
    """Say on Flower's log what the journal says, for runs without a live view."""
    if line := describe(event):
        _flower_log.info(line)
