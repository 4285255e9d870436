"""Runs in an interpreter of their own, which has plug-ins installed.

Standard input: a JSON object, name → flat settings. Standard output, on its last line: name → the
accuracy in the end, or {"error": …, "started": whether a run folder was made}. Settings are read
and looked at as `fedpeft run` does; then the run itself is in this process.
"""

import json
import sys
from typing import Any

from conftest import LocalGrid, read_events
from flwr.supercore.task_identity import TaskIdentity

from fedpeft_app.cli.preflight import preflight
from fedpeft_app.cli.settings import check_settings
from fedpeft_app.coordinator import coordinate
from fedpeft_app.errors import FedPeftError
from fedpeft_app.runs.directory import runs_parent

NODES = 4
FIRST = 1_000_000_001  # run ids; folders of runs in the same second differ by them


def outcome(settings: dict[str, Any], run_id: int) -> Any:
    """Try one run."""
    before = set(runs_parent("").glob("*"))
    try:
        config = check_settings(settings)
        preflight(config, NODES)
        folder = coordinate(LocalGrid(NODES, settings), config, run_id)
    except FedPeftError as error:
        return {"error": str(error), "started": set(runs_parent("").glob("*")) != before}
    return read_events(folder.journal)[-1]["test"]["accuracy"]


def main() -> None:
    """Try all."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    wanted = json.load(sys.stdin).items()
    came = {name: outcome(settings, FIRST + n) for n, (name, settings) in enumerate(wanted)}
    sys.stdout.write(f"\n{json.dumps(came)}\n")


if __name__ == "__main__":
    main()
