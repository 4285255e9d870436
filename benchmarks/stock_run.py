"""Runs of the stock Flower app (`stock_app`), on a SuperLink of their own as fedpeft's are."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpeft_app.cli.launch import Simulation
from fedpeft_app.cli.superlink import executable, own_superlink

APP = Path(__file__).parent / "stock_app"


@dataclass(frozen=True, slots=True)
class StockRun:
    """What a run took.

    Attributes:
        seconds: From the start of the SuperLink to the end of the run.
        rounds: What the app noted of each: when it "began" and its "seconds".
    """

    seconds: float
    rounds: list[dict[str, float]]


def run_stock(settings: Mapping[str, Any], simulation: Simulation) -> StockRun:
    """Run the app.

    Args:
        settings: Its settings, "rounds" among them; "times" is set here.
        simulation: Nodes and resources.

    Raises:
        RuntimeError: If it does not come to the end of its rounds.
    """
    with tempfile.TemporaryDirectory() as parent:
        times = Path(parent) / "times.jsonl"
        said = {**settings, "times": str(times)}
        told = " ".join(f"{key}={json.dumps(value)}" for key, value in said.items())
        began = time.monotonic()
        with own_superlink(Path(parent), {**os.environ, "RAY_ADDRESS": "local"}) as superlink:
            superlink.wait_until_up()
            app = shutil.copytree(APP, Path(parent) / "stock")
            command = [executable("flwr"), "run", str(app), superlink.connection, "-c", told]
            command += ["--federation-config", simulation.federation_config(), "--stream"]
            done = subprocess.run(
                command, env=superlink.environment, capture_output=True, text=True, check=False
            )
            seconds = time.monotonic() - began
        rows = times.read_text(encoding="utf-8").splitlines() if times.exists() else []
    if len(rows) < settings["rounds"]:
        raise RuntimeError(f"The stock app failed:\n{done.stdout}{done.stderr}")
    return StockRun(seconds, [json.loads(row) for row in rows])
