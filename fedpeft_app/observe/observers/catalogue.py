"""The observers that are built in."""

from fedpeft_app.errors import UnknownNameError
from fedpeft_app.registry import Registry

_HERE = "fedpeft_app.observe.observers"
OBSERVERS = Registry(
    kind="observer",
    group="fedpeft.observers",
    builtin={
        "tensorboard": f"{_HERE}.tensorboard:TensorBoard",
        "mlflow": f"{_HERE}.mlflow:MLflow",
        "wandb": f"{_HERE}.wandb:WeightsAndBiases",
    },
)


def listed(text: str) -> list[str]:
    """Read names between commas; blanks around them do not count.

    Args:
        text: The names, or nothing.
    """
    return [name for part in text.split(",") if (name := part.strip())]


def check_observers(text: str) -> None:
    """Look every name of a list up.

    Args:
        text: The names.

    Raises:
        UnknownNameError: With everything that is wrong.
    """
    problems = []
    for name in (names := listed(text)):
        try:
            OBSERVERS.target(name)
        except UnknownNameError as error:
            problems.append(str(error))
    problems += [f"'{name}' stands there twice." for name in set(names) if names.count(name) > 1]
    if problems:
        raise UnknownNameError("; ".join(problems))
