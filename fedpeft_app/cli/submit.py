"""Runs are submitted to a SuperLink by `flwr run`, which may be started before there is one."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpeft_app.cli.settings import to_toml
from fedpeft_app.cli.superlink import executable
from fedpeft_app.config import RunConfig, flatten
from fedpeft_app.errors import LaunchError

# `flwr`, which first imports what it takes (half a second), and then waits for a line.
_WAITING = """
import sys
from flwr.cli.app import app
sys.argv[0] = "flwr"
if sys.stdin.readline():
    sys.exit(app())
"""


def flwr_run(
    config: RunConfig, app: Path, connection: str, federation_config: str = ""
) -> list[str]:
    """Write the command that submits a run.

    Args:
        config: A checked configuration.
        app: The app's folder. The run's settings are written beside it.
        connection: Name of a connection in Flower's configuration.
        federation_config: Of a simulation.

    Raises:
        LaunchError: If Flower is not installed.
    """
    settings = app.with_name("run-config.toml")
    settings.write_text(to_toml(flatten(config)), encoding="utf-8")
    command = [executable("flwr"), "run", str(app), connection]
    command += ["--run-config", str(settings), "--format", "json"]
    if federation_config:
        command += ["--federation-config", federation_config]
    return command


@contextlib.contextmanager
def waiting(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Callable[[], int]]:
    """Start a command of `flwr`, which goes no further than its imports until it is told to.

    Args:
        command: The command that submits a run.
        environment: Its variables.

    Returns:
        Lets it submit the run, and gives the run's id.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _WAITING, *command[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )

    def submit() -> int:
        output, errors = process.communicate("go\n")
        return read_id(output, errors)

    with process:
        try:
            yield submit
        finally:
            process.kill()


def read_id(output: str, errors: str) -> int:
    """Read the run's id from what `flwr run --format json` printed.

    Args:
        output: On its standard output.
        errors: On its standard error.

    Raises:
        LaunchError: If the run was not taken; says why not, in Flower's words.
    """
    with contextlib.suppress(KeyError, TypeError, ValueError):
        answer = read_answer(output)
        if answer["success"]:
            return int(answer["run-id"])
    raise LaunchError(f"Flower did not take the run:\n{output}{errors}".rstrip())


def read_answer(output: str) -> dict[str, Any]:
    """Read what a command of `flwr` answered with `--format json`, whatever it printed around it.

    Args:
        output: On its standard output.

    Returns:
        The answer; empty if there is none.
    """
    try:
        return dict(json.loads(output[output.index("{") : output.rindex("}") + 1]))
    except ValueError:
        return {}
