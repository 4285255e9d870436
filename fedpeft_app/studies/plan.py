"""All runs of a study, every one checked before the first is started."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedpeft_app.config import RunConfig, defaults, flatten
from fedpeft_app.config.flat import Scalar
from fedpeft_app.data_plan import make_task
from fedpeft_app.errors import ConfigError, Fault
from fedpeft_app.studies.grid import Entry, expand, grid_faults
from fedpeft_app.studies.metrics import choice_faults, table_faults, with_metrics
from fedpeft_app.studies.read import read_study
from fedpeft_app.studies.study import NODES, USUAL_NODES, Settings, Study
from fedpeft_app.studies.tuning import Trial, trials, tuning_faults

Check = Callable[[Settings], RunConfig]
"""Settings → the full configuration; raises ConfigError with every fault."""

_ID_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run.

    Attributes:
        study: The study's name.
        name: What a person reads: row, column and seed.
        config: The full flat configuration.
        nodes: Simulated nodes.
    """

    study: str
    name: str
    config: Mapping[str, Scalar]
    nodes: int

    @property
    def id(self) -> str:
        """Name the cell by what was asked for; a key that a later version adds changes nothing."""
        telling = differing(self.config, defaults())
        text = json.dumps({"nodes": self.nodes, **telling}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]

    @property
    def run_name(self) -> str:
        """Name the cell's runs, `output.name`, so that they are found again."""
        return f"{self.study}-{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A study whose every configuration was found sound.

    Attributes:
        study: What the file says, its metrics settled.
        entries: The fields of its table.
        check: Completes settings.
    """

    study: Study
    entries: tuple[Entry, ...]
    check: Check

    def cell(self, entry: Entry, seed: int, tuned: Settings) -> Cell:
        """Give a run of an entry.

        Args:
            entry: The entry.
            seed: Its seed.
            tuned: What tuning chose for it.
        """
        return self._cell(entry.name, {**entry.settings, **tuned}, seed)

    def trial_cells(self, trial: Trial) -> tuple[Cell, ...]:
        """Give the runs of a trial, one per tuning seed.

        Args:
            trial: The trial.
        """
        seeds = self.study.tuning.seeds if self.study.tuning else ()
        return tuple(self._cell(trial.name, trial.settings, seed) for seed in seeds)

    def tuning_cells(self, entries: Sequence[Entry]) -> tuple[Cell, ...]:
        """Give all runs of tuning that some entries wait for.

        Args:
            entries: Entries of the study.
        """
        tried = trials(self.study, entries)
        return tuple(cell for trial in tried for cell in self.trial_cells(trial))

    def _cell(self, name: str, settings: Settings, seed: int) -> Cell:
        """Complete settings."""
        config, nodes = complete({**settings, "seed": seed}, self.check)
        return Cell(
            study=self.study.name,
            name=f"{name}, seed {seed}",
            config=flatten(config),
            nodes=nodes,
        )


def complete(settings: Settings, check: Check) -> tuple[RunConfig, int]:
    """Complete what a study sets.

    Args:
        settings: Keys of the configuration, and `NODES`.
        check: Completes those of the configuration.

    Returns:
        The configuration, and how many nodes there are.
    """
    nodes = int(settings.get(NODES, USUAL_NODES))
    return check({key: value for key, value in settings.items() if key != NODES}), nodes


def load_plan(path: Path, check: Check) -> Plan:
    """Read a study and check all of it.

    Args:
        path: The study file.
        check: Completes settings.

    Returns:
        The plan.

    Raises:
        SourceError: If the file cannot be read.
        ConfigError: With every fault: of the file, of the grid, and of each configuration,
            with the cells that have it; where these are sound, of what is to be measured.
    """
    study, faults = read_study(path)
    entries = expand(study)
    faults += [*grid_faults(study, entries), *tuning_faults(study, entries)]
    named = [(entry.name, entry.settings) for entry in entries]
    named += [(trial.name, trial.settings) for trial in trials(study, entries)]
    configs, config_faults = _configurations(named, check)
    faults += config_faults
    if entries and not config_faults:
        runs, tuning_runs = configs[: len(entries)], configs[len(entries) :]
        faults += [*table_faults(study, runs), *choice_faults(study, tuning_runs)]
        study = with_metrics(study, runs, tuning_runs)
    if faults:
        raise ConfigError(faults, where=f"the study {path}")
    return Plan(study=study, entries=entries, check=check)


def _configurations(
    named: Sequence[tuple[str, Settings]], check: Check
) -> tuple[list[RunConfig], list[Fault]]:
    """Complete the settings of cells; list each fault once, with the cells that have it."""
    configs: list[RunConfig] = []
    found: list[tuple[str, Sequence[Fault]]] = []
    for name, settings in named:
        try:
            configs.append(complete(settings, check)[0])
            make_task(configs[-1])  # which refuses wrong `task.options`
        except ConfigError as error:
            found.append((name, error.faults))
    return configs, folded(found, of=len(named))


def folded(found: Iterable[tuple[str, Sequence[Fault]]], *, of: int) -> list[Fault]:
    """List each fault once, with the cells that have it.

    Args:
        found: A cell's name and its faults.
        of: How many cells there are.
    """
    cells: dict[tuple[str, str, str], tuple[Fault, dict[str, None]]] = {}
    for name, faults in found:
        for fault in faults:
            key = (fault.key, repr(fault.value), fault.problem)
            cells.setdefault(key, (fault, {}))[1][name] = None
    return [
        Fault(key=fault.key, value=fault.value, problem=_with_cells(fault.problem, list(names), of))
        for fault, names in cells.values()
    ]


def _with_cells(problem: str, names: Sequence[str], of: int) -> str:
    """Say which cells have a problem."""
    if len(names) == of:
        return f"{problem} (In every cell.)"
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{problem} (In {names[0]}{rest}.)"


def differing(config: Mapping[str, Scalar], usual: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Give the settings that are not the usual ones, but for where the run goes.

    Args:
        config: A full flat configuration.
        usual: The defaults.
    """
    return {
        key: value
        for key, value in config.items()
        if value != usual.get(key) and not key.startswith("output.")
    }
