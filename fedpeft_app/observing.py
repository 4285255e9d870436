"""Who looks on: names and options in the configuration → observers."""

from typing import Any

from fedpeft_app.config import RunConfig, flatten
from fedpeft_app.config.arguments import typed
from fedpeft_app.config.readings import options
from fedpeft_app.errors import ConfigError, Fault, UnknownNameError
from fedpeft_app.observe.observers.catalogue import OBSERVERS, listed
from fedpeft_app.observe.observers.observer import Observer, Watched
from fedpeft_app.registry import near_miss
from fedpeft_app.resume import Reopened
from fedpeft_app.runs.directory import RunFolder

_UNTOLD = ("observe.options", "privacy.unsafe-seed")  # may open a server; takes the noise off
_METHODS = ("begin", "tell", "end")


def make_observers(config: RunConfig) -> dict[str, Observer]:
    """Make those who look on; they connect to nothing yet.

    Args:
        config: The run's configuration.

    Returns:
        Name, as it was given → observer.

    Raises:
        ConfigError: With everything that is wrong: a name, an option, a library that is missing.
    """
    names, given = listed(config.observe.to), options(config.observe.options)
    faults = [
        _fault(f"no observer '{one}' in observe.to.{near_miss(one, names)}", given)
        for one in given
        if one not in names
    ]
    made: dict[str, Observer] = {}
    for name in names:
        try:
            made[name] = _made(name, given.get(name, {}))
        except ConfigError as error:
            faults += error.faults
        except UnknownNameError as error:
            faults.append(Fault(key="observe.to", value=name, problem=str(error)))
        except (TypeError, ValueError) as error:
            faults.append(_fault(f"{name}: {error}", given.get(name)))
    if faults:
        raise ConfigError(faults)
    return made


def watched(config: RunConfig, folder: RunFolder, reopened: Reopened | None) -> Watched:
    """Say what observers may know of a run, before it begins or goes on.

    Args:
        config: Its configuration.
        folder: Its folder.
        reopened: Where it goes on; None = it begins.
    """
    told = {key: value for key, value in flatten(config).items() if key not in _UNTOLD}
    number = reopened.round_number if reopened else 0
    return Watched(folder=folder.path, config=told, round_number=number)


def _made(name: str, arguments: Any) -> Observer:
    """Make one of them."""
    if not isinstance(arguments, dict):
        raise ValueError(f"expected an object of options, got {arguments!r}")  # noqa: TRY004
    factory = OBSERVERS.get(name)
    made: Observer = factory(**typed(factory, arguments))
    if lacking := [one for one in _METHODS if not callable(getattr(made, one, None))]:
        problem = f"makes a {type(made).__name__}, which has no method {', '.join(lacking)}."
        raise ConfigError([Fault(key="observe.to", value=name, problem=problem)])
    return made


def _fault(problem: str, value: object) -> Fault:
    return Fault(key="observe.options", value=value, problem=problem)
