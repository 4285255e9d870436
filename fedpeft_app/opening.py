"""The beginning of a run: who is there, and what the server works with."""

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from fedpeft_app.adapters import AdapterState
from fedpeft_app.adapters.algebra import require_same_spec
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.assembly import adapted_model, agreement, codecs, fit_settings
from fedpeft_app.config import RunConfig
from fedpeft_app.config.readings import options
from fedpeft_app.data.encoded import example_set
from fedpeft_app.data.splits import Splits
from fedpeft_app.data_plan import criterion, make_task
from fedpeft_app.environment import environment
from fedpeft_app.errors import AdapterMismatchError
from fedpeft_app.examiner import Examiner
from fedpeft_app.methods.adapted import AdaptedModel
from fedpeft_app.methods.method import as_saved
from fedpeft_app.observe.journal import Journal
from fedpeft_app.privacy_report import protected
from fedpeft_app.resume import Reopened
from fedpeft_app.run_data import bound_task, find_model, open_data, server_splits
from fedpeft_app.runs.directory import RunFolder
from fedpeft_app.runs.initial import load_adapter
from fedpeft_app.session import Session
from fedpeft_app.strategies.broadcast import is_exact
from fedpeft_app.strategies.catalogue import make_strategy
from fedpeft_app.strategies.joining import Door
from fedpeft_app.strategies.numbering import Answer, numbered
from fedpeft_app.strategies.ranks import rank_objection
from fedpeft_app.strategies.roll_call import (
    Presence,
    Roster,
    call_roll,
    make_roster,
    wait_for_nodes,
)
from fedpeft_app.strategies.silos import Silos
from fedpeft_app.strategies.strategy import Member, Strategy
from fedpeft_app.wire.ledger import Ledger

_TOO_LATE = "user-level privacy is calibrated for the nodes of the roll call, of which it was none"
_NODES_TIMEOUT_S = 300.0  # nodes may still be connecting when the run starts


def open_session(
    grid: Grid,
    config: RunConfig,
    folder: RunFolder,
    journal: Journal,
    reopened: Reopened | None = None,
) -> Session:
    """Call the roll, load what the server needs, and note who takes part.

    Args:
        grid: Flower's connection.
        config: The checked configuration.
        folder: The run's folder.
        journal: Its journal.
        reopened: Where the run goes on; None = it begins.

    Raises:
        FedPeftError: If the run cannot begin, or go on.
    """
    started = time.monotonic()
    rule = criterion(config, make_task(config))  # `flwr run` starts runs that nothing looked at
    strategy = make_strategy(
        config.strategy.name, options(config.strategy.options), seed=config.seed
    )
    located = find_model(config.model.name, config.model.revision)
    ledger = Ledger(backbone_bytes=located.weight_bytes, full_parameters=0)
    silos = reopened.silos if reopened else Silos()
    adapted, roster = _call_roll(grid, config, strategy, ledger, silos)
    ledger.full_parameters = adapted.backbone.parameters
    if reopened is None or reopened.checkpoint is None:
        _note_start(config, folder, journal, adapted, located.weight_bytes)
    journal.note(
        "roll_call",
        **_told(roster, silos),
        counted=config.privacy.counts_told,
        bytes=ledger.total(kind="roll-call"),
        labels=list(roster.labels),
    )
    strategy, report = protected(config, strategy, len(roster.members), folder.path, silos)
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
        initial=_initial_state(config, adapted, roster.labels, reopened),
        started=started,
        reopened=reopened,
        silos=silos,
    )


def _told(roster: Roster, silos: Silos) -> dict[str, Any]:
    """Say who takes part, and who does not."""
    return {
        "examples": {str(member.partition): member.examples for member in roster.members},
        "refused": dict(roster.refused),
        **({"names": {str(at): name for at, name in roster.names.items()}} if roster.names else {}),
        **silos.told(),
    }


def _note_start(
    config: RunConfig, folder: RunFolder, journal: Journal, adapted: AdaptedModel, weight_bytes: int
) -> None:
    """Say what is run."""
    journal.note(
        "run_started",
        run=folder.path.name,
        folder=str(folder.path),
        mode=config.mode,
        method=config.method.name,
        model=config.model.name,
        backbone_bytes=weight_bytes,
        trainable=trained_spec(adapted.spec).size,
        parameters=adapted.backbone.parameters,
        precision=fit_settings(config).precision,
        head=config.method.head,
        personal=adapted.personal.spec.size,
        personal_steps=config.evaluate.personal_steps,
        environment=environment(),
    )


def _call_roll(
    grid: Grid, config: RunConfig, strategy: Strategy, ledger: Ledger, silos: Silos
) -> tuple[AdaptedModel, Roster]:
    """Find out who is there, number them, and keep those who hold what the server holds."""
    minimum = 1 if config.mode == "central" else config.strategy.min_nodes
    nodes = wait_for_nodes(grid, minimum, _NODES_TIMEOUT_S)
    # A node loads the model before it says who it is.
    patience_s = max(config.strategy.round_timeout, _NODES_TIMEOUT_S)
    with _loading(config):
        told = call_roll(grid, nodes, ledger=ledger, timeout_s=patience_s)
    answers = _numbered(told, silos)
    labels = _labels(config, answers)
    adapted = adapted_model(config, labels)
    roster = _roster(config, strategy, adapted, answers, labels, silos, minimum=minimum)
    if config.mode == "central":
        roster = replace(roster, members=roster.members[:1])
    return adapted, roster


@contextlib.contextmanager
def _loading(config: RunConfig) -> Iterator[None]:
    """Load what the server needs while nodes load the same; nobody computes meanwhile.

    What goes wrong is raised where it is asked for.
    """
    if not config.evaluate.server:  # which labels there are, nodes say
        yield
        return

    def load() -> None:
        with contextlib.suppress(Exception):
            adapted_model(config, open_data(config, config.data.name).label_names)

    with ThreadPoolExecutor(1) as beside:
        beside.submit(load)
        yield


def _numbered(answers: Sequence[Answer], silos: Silos) -> list[Answer]:
    """Number nodes, and remember their numbers."""
    found, silos.numbers = numbered(answers, silos.numbers)
    return found


def _roster(
    config: RunConfig,
    strategy: Strategy,
    adapted: AdaptedModel,
    answers: Sequence[Answer],
    labels: tuple[str, ...],
    silos: Silos,
    *,
    minimum: int = 0,
    present: Sequence[Member] = (),
    only: Collection[int] | None = None,
) -> Roster:
    """Keep those who hold what the server holds; of partitions, maybe, `only` some."""
    exact = is_exact(codecs(config)[1])
    who = {node_id: one for node_id, one in answers if isinstance(one, Presence)}
    silos.begin_call(one.partition for one in present)

    def objection(member: Member) -> str:
        if only is not None and member.partition not in only:
            return _TOO_LATE
        reason = rank_objection(
            strategy, adapted.spec, member, highest=config.method.rank, exact_downlink=exact
        )
        if reason or config.privacy.mode != "sample":
            return reason
        return silos.admit(member.node_id, who[member.node_id].identity, who[member.node_id].name)

    return make_roster(
        answers,
        expected=agreement(config, adapted),
        minimum=minimum,
        labels=labels,
        objection=objection,
        present=present,
    )


def open_door(grid: Grid, session: Session) -> Door:
    """Let nodes come and go between rounds.

    Args:
        grid: Flower's connection.
        session: The run.
    """
    config, journal = session.config, session.journal
    users = {one.partition for one in session.roster.members}
    known = users if config.privacy.mode == "user" else None

    def call(node_ids: Sequence[int], present: Sequence[Member]) -> Roster:
        told = call_roll(grid, node_ids, ledger=session.ledger, timeout_s=_NODES_TIMEOUT_S)
        return _roster(
            config,
            session.strategy,
            session.adapted,
            _numbered(told, session.silos),
            session.roster.labels,
            session.silos,
            present=present,
            only=known,
        )

    def came(roster: Roster) -> None:
        journal.note("nodes_joined", **_told(roster, session.silos))

    def left(gone: Sequence[Member]) -> None:
        numbers = [one.partition for one in gone]
        session.silos.leave(numbers)
        journal.note("nodes_left", nodes=numbers)

    return Door(
        grid=grid,
        call=call,
        came=came,
        left=left,
        patience_s=min(_NODES_TIMEOUT_S, config.strategy.round_timeout),
        refused=session.roster.refused_ids,
    )


def _labels(config: RunConfig, answers: Sequence[Answer]) -> tuple[str, ...]:
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
        frozen_cache_bytes=fit_settings(config).frozen_cache_bytes,
    )


def _initial_state(
    config: RunConfig,
    adapted: AdaptedModel,
    labels: tuple[str, ...],
    reopened: Reopened | None,
) -> AdapterState:
    """Start fresh, from an existing adapter folder, or from where the run was."""
    if reopened and reopened.checkpoint:
        require_same_spec(reopened.checkpoint.state, adapted.initial)
        return reopened.checkpoint.state
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
