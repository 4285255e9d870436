"""What can be found out about a run before anything starts, without loading torch."""

from fedpeft_app.backbone.locate import LocatedModel, locate
from fedpeft_app.config import RunConfig
from fedpeft_app.data.read import Columns, read
from fedpeft_app.data.sources import find_source
from fedpeft_app.errors import ConfigError, Fault, FedPeftError
from fedpeft_app.names import REGISTRIES


def preflight(config: RunConfig) -> LocatedModel:
    """Find the model and read the data of a run, downloading what is missing.

    Args:
        config: A checked configuration.

    Returns:
        The located model.

    Raises:
        ConfigError: If a plug-in named by a path cannot be imported.
        FedPeftError: If the model has no weights, a file lacks a column, a download is
            corrupt, …; every problem found is in the message.
    """
    problems: list[FedPeftError] = []
    faults = _import_faults(config)
    if faults:
        problems.append(ConfigError(faults))
    located = None
    try:
        located = locate(config.model.name, config.model.revision)
    except FedPeftError as error:
        problems.append(error)
    try:
        _read_data(config)
    except FedPeftError as error:
        problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems or located is None:
        raise FedPeftError("\n".join(str(problem) for problem in problems))
    return located


def _read_data(config: RunConfig) -> None:
    """Read a run's data once, so that what is wrong with it is known now."""
    data = config.data
    names = tuple(name.strip() for name in data.labels.split(",") if name.strip())
    group = data.partition_column if data.partitioner == "natural" else ""
    read(
        find_source(data.name),
        Columns(text=data.text_column, label=data.label_column, group=group, labels=names),
    )


def _import_faults(config: RunConfig) -> list[Fault]:
    """Import plug-ins that are named by a path, so that typing errors surface now."""
    names = {
        "task": config.task,
        "method.name": config.method.name,
        "data.partitioner": config.data.partitioner,
        "strategy.name": config.strategy.name,
    }
    faults = []
    for key, name in names.items():
        if ":" in name:
            try:
                REGISTRIES[key].get(name)
            except FedPeftError as error:
                faults.append(Fault(key=key, value=name, problem=str(error)))
    return faults
