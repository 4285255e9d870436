"""Rounds of NVFlare's simulator with clients that do nothing: prints when each began, as JSON.

Its own recipe of FedAvg over NumPy arrays, all else as it comes: a process for every client. With
fewer it starts a process for every task, which takes seconds.

    python nvflare_rounds.py CLIENTS ROUNDS VALUES WORKSPACE
"""

import json
import re
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
from nvflare.app_common.np.recipes import NumpyFedAvgRecipe
from nvflare.recipe import SimEnv

STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}")
BEGINS = re.compile(r"\s*Round \d+ started")


def main() -> None:
    clients, rounds, values = map(int, sys.argv[1:4])
    workspace = Path(sys.argv[4])
    recipe = NumpyFedAvgRecipe(
        name="rounds",
        model=np.zeros(values, dtype=np.float32),
        min_clients=clients,
        num_rounds=rounds,
        train_script=str(Path(__file__).with_name("nvflare_client.py")),
    )
    recipe.execute(SimEnv(num_clients=clients, workspace_root=str(workspace)))
    log = workspace / "rounds" / "server" / "log.txt"
    print(json.dumps({"began": beginnings(log.read_text(encoding="utf-8"))}))


def beginnings(log: str) -> list[float]:
    """Find when rounds began; a round's line stands below the one with the time."""
    began, stamp = [], 0.0
    for line in log.splitlines():
        if found := STAMP.match(line):
            stamp = datetime.fromisoformat(found[0].replace(",", ".")).timestamp()
        if BEGINS.match(line):
            began.append(stamp)
    return began


if __name__ == "__main__":
    main()
