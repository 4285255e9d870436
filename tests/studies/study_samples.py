"""Study files as text, and a runner that makes runs up instead of training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedpeft_app.config import RunConfig, parse
from fedpeft_app.names import NAME_CHECKS
from fedpeft_app.observe.journal import Journal
from fedpeft_app.runs.directory import RunFolder, create_run
from fedpeft_app.studies.conduct import Standing, conduct
from fedpeft_app.studies.plan import Cell, Plan, load_plan
from fedpeft_app.studies.record import Archive, Ending

TWO_BY_TWO = """
name = "two-by-two"
nodes = 4
seeds = [0, 1, 2]
[config]
rounds = 3
[grid]
method.name = ["full", "lora"]
data.dirichlet-alpha = [0.1, 1.0]
[table]
columns = "data.dirichlet-alpha"
baseline = "full"
"""

TUNED = """
name = "tuned"
seeds = [0, 1]
[config]
rounds = 9
[grid]
method.name = ["lora", "head"]
[tune]
seeds = [7]
config = {rounds = 2}
[[tune.search]]
when = {method.name = "lora"}
train.learning-rate = [1e-3, 1e-2]
[[cell]]
row = "lora, central"
set = {mode = "central"}
[table]
baseline = "lora"
"""


def check(settings: Mapping[str, Any]) -> RunConfig:
    """Complete settings, as the command does."""
    return parse(settings, NAME_CHECKS)


def plan_of(folder: Path, text: str) -> Plan:
    """Read and check a study."""
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return load_plan(path, check)


def journal(config: Mapping[str, Any], accuracy: float) -> list[dict[str, Any]]:
    """Make up the events of a finished run; validation is judged .1 below test."""
    judged = {
        "validation": {"accuracy": accuracy - 0.1, "loss": 1 - accuracy},
        "test": {"accuracy": accuracy, "loss": 1 - accuracy},
    }
    size = 4000 if config["method.name"] == "full" else 40
    done = {"round": config["rounds"], "train_loss": 0.5, "examples": 100, "down": 6, "up": 4}
    summary = {"round": config["rounds"], "chosen": "last", "seconds": 8.0, "down": 18, "up": 12}
    return [
        {"event": "run_started", "trainable": size // 4, "parameters": 1000},
        {"event": "round_finished", "seconds": 2.0, **done, **judged},
        {"event": "run_finished", "test": judged["test"], "bytes_per_message": size, **summary},
    ]


def write_run(folder: Path, name: str, events: list[dict[str, Any]]) -> RunFolder:
    """Make a run folder with a journal."""
    run = create_run(folder, name, len(list(folder.glob("*"))) + 1, {"mode": "federated"})
    written = Journal(run.journal)
    for event in events:
        written.note(**event)
    written.close()
    return run


@dataclass
class Pretence:
    """A runner that makes up what was measured.

    Attributes:
        runs: Where run folders go.
        accuracy: Cell → test accuracy, or an ending of another kind.
        asked: The cells that were run, in order.
    """

    runs: Path
    accuracy: Callable[[Cell], float | Ending | BaseException] = lambda cell: 0.5
    asked: list[Cell] = field(default_factory=list)

    def __call__(self, cell: Cell, archive: Archive) -> Ending:
        self.asked.append(cell)
        result = self.accuracy(cell)
        if isinstance(result, BaseException):
            raise result
        if isinstance(result, Ending):
            return result
        run = write_run(self.runs, cell.run_name, journal(cell.config, result))
        return Ending(exit_status=0, run=run, message="")

    @property
    def names(self) -> list[str]:
        return [cell.name for cell in self.asked]


def conducted(
    plan: Plan, folder: Path, runner: Pretence, *, retry_failed: bool = False, **options: Any
) -> Standing:
    """Run what is left of a study."""
    usual = {
        "wanted": lambda entry, seed: True,
        "tell": lambda text: None,
        "made_with": lambda cell: {"fedpeft": "0"},
    }
    return conduct(plan, Archive(folder), runner, retry_failed=retry_failed, **{**usual, **options})
