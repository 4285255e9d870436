"""Runs in one process that are killed, and go on."""

from collections.abc import Iterable
from typing import Any

import pytest
from conftest import LocalGrid
from flwr.app import Message

from fedpeft_app.config import parse
from fedpeft_app.coordinator import coordinate
from fedpeft_app.runs.checkpoint import load_checkpoint
from fedpeft_app.runs.directory import RunFolder, list_runs, runs_parent

NODES, ROUNDS = 4, 4
SETTINGS = {"rounds": ROUNDS, "strategy.fraction-train": 0.5, "strategy.min-replies": 1}
LOSSY = {"wire.uplink": "topk(0.2)+int8", "wire.downlink": "int8"}
CASES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedadam": {"strategy.name": "fedadam"},
    "scaffold": {"strategy.name": "scaffold"},
    "flora": {"strategy.name": "flora", "method.name": "lora-residual"},
    "flower": {"strategy.name": "flwr.serverapp.strategy:FedAdam"},
    "lossy": LOSSY,
    "personal": {
        "method.head": "personal",
        "strategy.fraction-evaluate": 1.0,
        "evaluate.server": False,
    },
    "dropout": {"strategy.dropout": 0.5},
    "central": {"mode": "central"},
}


class KilledError(BaseException):
    """Ends a run on the spot: nothing catches it, as nothing catches a SIGKILL."""


class Dying(LocalGrid):
    """A grid under which the server dies once it has sent so many messages."""

    def __init__(self, nodes: int, run_config: dict[str, Any], messages: int) -> None:
        super().__init__(nodes, run_config)
        self._left = messages

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            if self._left == 0:
                raise KilledError
            self._left -= 1
            ids += super().push_messages([message])
        return ids


def run(settings: dict[str, Any], grid: LocalGrid | None = None) -> RunFolder:
    nodes = 1 if settings.get("mode") == "central" else NODES
    return coordinate(grid or LocalGrid(nodes, settings), parse(settings), run_id=1)


def killed(settings: dict[str, Any], messages: int) -> RunFolder:
    """Start a run, and kill it after so many messages."""
    nodes = 1 if settings.get("mode") == "central" else NODES
    with pytest.raises(KilledError):
        run(settings, Dying(nodes, settings, messages))
    return next(iter(list_runs(runs_parent())))


def resumed(settings: dict[str, Any], folder: RunFolder, **more: Any) -> RunFolder:
    return run({**settings, **more, "resume": folder.path.name})


def bits(folder: RunFolder, round_number: int = ROUNDS) -> bytes:
    return load_checkpoint(folder, round_number).state.vector.tobytes()


def finished(folder: RunFolder) -> list[dict[str, Any]]:
    return [event for event in folder.events() if event["event"] == "round_finished"]
