"""Whether the runs of a study can start, known before the first of them does."""

from collections.abc import Callable, Sequence

from fedpeft_app.cli.preflight import is_looked_at, preflight_faults
from fedpeft_app.config import parse
from fedpeft_app.errors import ConfigError
from fedpeft_app.studies.plan import Cell, folded


def require_startable(cells: Sequence[Cell], tell: Callable[[str], None]) -> None:
    """Look at every configuration once, as `fedpeft run` does before it starts Flower.

    Args:
        cells: The runs. Of those that differ only in what that look does not see, or in the
            seed, the first is looked at.
        tell: Told what happens.

    Raises:
        ConfigError: With every fault, and the cells that have it.
    """
    alike: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        private = cell.config["privacy.mode"] != "none"
        seen = tuple(
            value for key, value in cell.config.items() if is_looked_at(key, private=private)
        )
        alike.setdefault((cell.nodes, *seen), []).append(cell)
    if not alike:
        return
    tell(f"checking {len(alike)} configuration{'s' * (len(alike) > 1)}: model, data and method")
    found = []
    for same in alike.values():
        faults = preflight_faults(parse(same[0].config), same[0].nodes)
        found += [(cell.name, faults) for cell in same]
    if faults := folded(found, of=len(cells)):
        raise ConfigError(faults, where="the study's runs")
