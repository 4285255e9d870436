"""A run goes on: the same experiment, in the same folder, after the last round that ended."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from fedpeft_app import __version__
from fedpeft_app.atomic import write_json
from fedpeft_app.config import RunConfig, defaults, flatten, parse
from fedpeft_app.errors import ConfigError, Fault
from fedpeft_app.runs.checkpoint import Checkpoint
from fedpeft_app.runs.directory import RunFolder, find_run, runs_parent
from fedpeft_app.runs.lock import writing
from fedpeft_app.runs.rewind import last_sound, put_aside, rewind
from fedpeft_app.snapshot import Snapshot
from fedpeft_app.strategies.silos import Silos

_ASKING = ("round_started", "asked_again")
# What may change: how long a run goes on, and what neither trains nor promises anything.
FREE = frozenset(
    {
        "resume",
        "rounds",
        "budget.uplink-mib",
        "budget.minutes",
        "budget.patience",
        "strategy.min-nodes",
        "strategy.round-timeout",
        "strategy.retries",
        "strategy.quarantine-after",
        "evaluate.batch-size",
        "observe.to",
        "observe.options",
        "output.keep",
        "output.dir",
        "output.name",
    }
)
# Of these, what nodes read too. They have every key from Flower, whatever the server goes on with.
_ON_NODES = frozenset({"rounds", "strategy.round-timeout", "evaluate.batch-size"})
_PACKAGES = ("torch", "transformers", "peft")  # those that the roll call compares
_LAUNCHER = "FEDPEFT_LAUNCHER"  # `fedpeft run` sets it in a simulation, and says every key


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened:
    """Where a run goes on.

    Attributes:
        checkpoint: As it stood after its last round that counts; None = there is none.
        changed: Key → value it has from now on.
        problems: What is wrong with newer checkpoints.
        asked: Partitions that were asked to train since, for nothing.
        silos: Which node was which, be it that it joined in a round that was interrupted.
    """

    checkpoint: Checkpoint | None
    changed: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    asked: tuple[int, ...] = ()
    silos: Silos = field(default_factory=Silos)

    @property
    def round_number(self) -> int:
        """The last round that counts; 0 = none does, the run begins again."""
        return self.checkpoint.round_number if self.checkpoint else 0


def find_resumed(config: RunConfig) -> RunFolder:
    """Find the run that a configuration resumes, and see that it is the same experiment.

    Args:
        config: The configuration; `resume` names the run.

    Raises:
        RunFolderError: If there is no such run.
        ConfigError: If something else than `FREE` differs; names every key.
    """
    folder = find_run(runs_parent(config.output.dir), config.resume)
    require_same_experiment(folder.config(), flatten(config))
    return folder


def take_up(config: RunConfig) -> tuple[RunFolder, RunConfig]:
    """Find the run that a configuration resumes, and what it goes on with.

    Flower hands over every key, defaults where nothing was said. So a key at its default counts
    as not said, and the run keeps what it began with; one that is `FREE` cannot be set back to
    its default like this. Nodes have their keys from Flower too: what they read must be said
    again. `fedpeft run --resume` in simulation says every key, so there all are taken as they
    are.

    Args:
        config: The configuration, as Flower handed it over; `resume` names the run.

    Returns:
        The run's folder, and the configuration to go on with.

    Raises:
        RunFolderError: If there is no such run.
        ConfigError: If something else than `FREE` differs, or nodes would go on with something
            else than the server; names every key.
    """
    if os.environ.get(_LAUNCHER):
        return find_resumed(config), config
    folder = find_run(runs_parent(config.output.dir), config.resume)
    began, now = folder.config(), flatten(config)
    unsaid = {
        key: began[key]
        for key, usual in defaults().items()
        if key in began and now[key] == usual != began[key]
    }
    resolved = {**now, **unsaid}
    if faults := [*_differing(began, resolved), *_nodes_would_differ(now, unsaid)]:
        raise ConfigError(faults)
    return folder, parse(resolved)


def _nodes_would_differ(now: Mapping[str, Any], unsaid: Mapping[str, Any]) -> list[Fault]:
    """List what nodes read that was not said; the last one says how to say it all."""
    theirs = {key: unsaid[key] for key in unsaid if key not in FREE or key in _ON_NODES}
    settings = " ".join(f"{key}={json.dumps(value)}" for key, value in theirs.items())
    wanted = (
        "Say what it goes on with: nodes have this key from Flower, where it is at its default."
    )
    problems = [f"the run began with {json.dumps(value)}. {wanted}" for value in theirs.values()]
    problems[-1:] = [f"{one} To go on as it began, add: {settings}" for one in problems[-1:]]
    return [
        Fault(key=key, value=now[key], problem=problem)
        for key, problem in zip(theirs, problems, strict=True)
    ]


def require_same_experiment(began: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with another experiment.

    Args:
        began: Key → value when the run began. A key that is missing is one of a later version,
            and may have any value.
        now: Key → value to go on with.

    Raises:
        ConfigError: With every key that differs, but may not.
    """
    if faults := _differing(began, now):
        raise ConfigError(faults)


def _differing(began: Mapping[str, Any], now: Mapping[str, Any]) -> list[Fault]:
    """List what makes it another experiment, or none that can go on."""
    faults = [
        Fault(
            key=key,
            value=value,
            problem=f"the run began with {json.dumps(began[key])}. Leave it out, or start a new "
            f"run; a run that goes on may change: {', '.join(sorted(FREE - {'resume'}))}.",
        )
        for key, value in now.items()
        if key not in FREE and key in began and began[key] != value
    ]
    if now["mode"] == "local":
        problem = "nodes train all rounds in one go, so there is none to go on from."
        faults.append(Fault(key="resume", value=now["resume"], problem=problem))
    return faults


def made(config: RunConfig) -> Snapshot:
    """Say what a checkpoint is made with: all keys but the `FREE` ones, and versions.

    Its digest protects them, as nothing protects config.json.

    Args:
        config: The run's configuration.
    """
    packages = {name: ".".join(version(name).split(".")[:2]) for name in _PACKAGES}
    return Snapshot(
        values={
            "config": {key: value for key, value in flatten(config).items() if key not in FREE},
            "versions": {"fedpeft": __version__, **packages},
        }
    )


def require_made(checkpoint: Checkpoint | None, config: RunConfig) -> dict[str, str]:
    """Refuse to go on from what another configuration made.

    Args:
        checkpoint: Where a run goes on; None = it begins again.
        config: What it goes on with.

    Returns:
        Package → "the version that made it, the one now", of those that differ. Other versions
        may give other bits, but no other experiment. Nothing for older checkpoints.

    Raises:
        ConfigError: With every key that differs. A key that is missing is of a later version.
    """
    progress = checkpoint.require_progress().values if checkpoint else {}
    then, now = progress.get("made", {}), made(config).values
    faults = [
        Fault(
            key=key,
            value=value,
            problem=f"the run's checkpoints were made with {json.dumps(then['config'][key])}, so "
            f"its config.json was changed since. Put that value back there, or start a new run.",
        )
        for key, value in now["config"].items()
        if key in then.get("config", {}) and then["config"][key] != value
    ]
    if faults:
        raise ConfigError(faults)
    before = then.get("versions", {})
    return {
        name: f"{before[name]}, now {number}"
        for name, number in now["versions"].items()
        if name in before and before[name] != number
    }


def require_resumable(config: RunConfig) -> None:
    """Refuse, before anything is started, what would fail once it runs.

    Args:
        config: The configuration; `resume` names the run.

    Raises:
        FedPeftError: If there is no such run, it is another experiment, it is still going on, or
            rounds have ended of which no sound checkpoint is left.
    """
    folder = find_resumed(config)
    with writing(folder):
        checkpoint, _ = last_sound(folder)
    require_made(checkpoint, config)


def began_with(folder: RunFolder) -> tuple[dict[str, Any], int]:
    """Give the settings of a run that is to go on, and how many nodes it had.

    Args:
        folder: The run's folder.

    Returns:
        Key → value, "resume" among them; and the nodes that answered its last roll call, 0 if it
        got as far as to none. Nodes that joined later are not counted: in a simulation none do.

    Raises:
        RunFolderError: If its folder is damaged.
    """
    events = [*put_aside(folder), *folder.events()]
    calls = [event for event in events if event["event"] == "roll_call"]
    nodes = len(calls[-1]["examples"]) + len(calls[-1]["refused"]) if calls else 0
    return {**folder.config(), "resume": str(folder.path)}, nodes


def reopen(folder: RunFolder, config: RunConfig) -> Reopened:
    """Bring a run's folder back to its last round, and write down what changes.

    Args:
        folder: The run's folder, locked.
        config: What it goes on with.

    Raises:
        RunFolderError: If no checkpoint can be gone on from, or the folder cannot be written.
    """
    checkpoint, problems = last_sound(folder)
    began, now = folder.config(), flatten(config)
    number = checkpoint.round_number if checkpoint else 0
    rewind(folder, number)
    changed = {
        key: value for key, value in now.items() if key != "resume" and began.get(key) != value
    }
    if changed:
        write_json(folder.path / "config.json", {**now, "resume": ""})
    return Reopened(
        checkpoint=checkpoint,
        changed=changed,
        problems=problems,
        asked=_asked(folder, number),
        silos=Silos.from_events([*put_aside(folder), *folder.events()]),
    )


def _asked(folder: RunFolder, round_number: int) -> tuple[int, ...]:
    """List whom attempts at later rounds asked to train, be they interrupted more than once."""
    cohorts = [
        event.get("cohort", ())
        for event in put_aside(folder)
        if event["event"] in _ASKING and event["round"] > round_number
    ]
    return tuple(sorted({node for cohort in cohorts for node in cohort}))
