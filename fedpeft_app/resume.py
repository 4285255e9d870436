"""A run goes on: the same experiment, in the same folder, after the last round that ended."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedpeft_app.atomic import write_json
from fedpeft_app.config import RunConfig, flatten
from fedpeft_app.errors import ConfigError, Fault
from fedpeft_app.runs.checkpoint import Checkpoint
from fedpeft_app.runs.directory import RunFolder, find_run, runs_parent
from fedpeft_app.runs.lock import writing
from fedpeft_app.runs.rewind import last_sound, put_aside, rewind

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
        "output.keep",
        "output.dir",
        "output.name",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened:
    """Where a run goes on.

    Attributes:
        checkpoint: As it stood after its last round that counts; None = there is none.
        changed: Key → value it has from now on.
        problems: What is wrong with newer checkpoints.
        asked: Partitions that were asked to train since, for nothing.
    """

    checkpoint: Checkpoint | None
    changed: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    asked: tuple[int, ...] = ()

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


def require_same_experiment(began: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with another experiment.

    Args:
        began: Key → value when the run began. A key that is missing is one of a later version,
            and may have any value.
        now: Key → value to go on with.

    Raises:
        ConfigError: With every key that differs, but may not.
    """
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
    if faults:
        raise ConfigError(faults)


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
        last_sound(folder)


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
    later = rewind(folder, checkpoint.round_number if checkpoint else 0)
    changed = {
        key: value for key, value in now.items() if key != "resume" and began.get(key) != value
    }
    if changed:
        write_json(folder.path / "config.json", {**now, "resume": ""})
    cohorts = (event.get("cohort", ()) for event in later if event["event"] == "round_started")
    asked = sorted({node for cohort in cohorts for node in cohort})
    return Reopened(checkpoint=checkpoint, changed=changed, problems=problems, asked=tuple(asked))
