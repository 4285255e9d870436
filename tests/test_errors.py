"""The error tree: one root, every branch drawn in the module's own picture."""

import inspect

import pytest

from fedpeft_app import errors
from fedpeft_app.errors import ConfigError, Fault, FedPeftError

TREE = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, FedPeftError)
]


@pytest.mark.parametrize("error", TREE, ids=lambda error: error.__name__)
def test_the_picture_shows_every_error(error: type[FedPeftError]) -> None:
    assert error.__name__ in (errors.__doc__ or "")


LEAVES = [error for error in TREE if error is not FedPeftError]


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.__name__)
def test_every_error_hangs_directly_on_the_root(error: type[FedPeftError]) -> None:
    assert error.__bases__ == (FedPeftError,)


def test_the_picture_shows_nothing_else() -> None:
    drawn = {word for word in (errors.__doc__ or "").split() if word.endswith("Error")}
    assert drawn == {error.__name__ for error in TREE}


def test_one_fault_is_worded_in_the_singular() -> None:
    error = ConfigError([Fault(key="rounds", value=-1, problem="must be at least 1.")])
    assert str(error) == "1 fault in the run configuration:\n  rounds = -1: must be at least 1."


def test_every_fault_has_its_line() -> None:
    faults = [
        Fault(key="rounds", value=-1, problem="must be at least 1."),
        Fault(key="task", value="", problem="must not be empty."),
    ]
    error = ConfigError(iter(faults))  # type: ignore[arg-type]  # a generator must not be lost
    assert error.faults == tuple(faults)
    assert str(error).splitlines() == [
        "2 faults in the run configuration:",
        "  rounds = -1: must be at least 1.",
        "  task = '': must not be empty.",
    ]
