"""Three silos as they are meant to be run: TLS, node keys, tables of their own, warm workers.

One of them is killed in the middle, and comes back.
"""

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import make_texts
from federation import BINARIES, Federation, events, wait_for
from peft import AutoPeftModelForSequenceClassification
from thin_processes import ThinProcesses

from fedpeft_app.runs.directory import list_runs, runs_parent

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("flower"), pytest.mark.timeout(1500)]
SILOS = ("hospital-a", "hospital-b", "hospital-c")
ROUNDS = 5
_log = logging.getLogger(__name__)
BAR = 0.8  # three topics: chance is 0.33
MOST_BYTES = 150e6
SETTINGS = {
    "rounds": ROUNDS,
    "data.labels": "crude,grain,money",
    "data.min-examples": 2,
    "evaluate.server": False,
    "strategy.fraction-train": 1.0,
    "strategy.fraction-evaluate": 1.0,
    "strategy.min-nodes": 2,
    "strategy.min-replies": 2,
    "strategy.round-timeout": 60.0,
    "strategy.quarantine-after": 0,
    "data.node-validation-fraction": 0.2,
    "data.node-test-fraction": 0.2,
}


def own_table(path: Path, seed: int) -> None:
    """Write what only one silo has; no two have the same, or as much."""
    texts, labels = make_texts(100 + 40 * seed, seed=seed)
    rows = "".join(f"{text},{label}\n" for text, label in zip(texts, labels, strict=True))
    path.write_text(f"text,label\n{rows}", encoding="utf-8")


def worker(home: Path, *command: str) -> None:
    """Do something with the worker of a silo."""
    environment = {**os.environ, "FEDPEFT_HOME": str(home)}
    subprocess.run(
        [str(BINARIES / "fedpeft"), "worker", *command], env=environment, check=True, timeout=180
    )


def start_silo(federation: Federation, folder: Path, silo: str) -> None:
    """Start a silo's SuperNode."""
    table = folder / silo / "private.csv"
    federation.start_node(silo, f'data-path="{table}"', f'name="{silo}"', home=folder / silo)


@pytest.fixture
def federation(tmp_path: Path, own_home: Path) -> Iterator[Federation]:
    """A federation of three silos, each with a home, a table, a worker and keys of its own."""
    folder = tmp_path / "flower"
    folder.mkdir()
    made = Federation(folder, own_home, secure=True)
    started = []
    try:
        made.start_superlink()
        for seed, silo in enumerate(SILOS):
            (tmp_path / silo).mkdir()
            own_table(tmp_path / silo / "private.csv", seed)
            worker(tmp_path / silo, "start", "--cpus", "1")
            started.append(silo)
            start_silo(made, tmp_path, silo)
        wait_for(lambda: list(made.nodes().values()).count("online") == len(SILOS), "the silos")
        yield made
    finally:
        made.end()
        for silo in started:
            worker(tmp_path / silo, "stop")


@pytest.mark.filterwarnings("ignore:.*is_gradient_check:FutureWarning")  # peft 0.21, stock
def test_silos_train_together_though_one_dies_and_comes_back(
    federation: Federation,
    tiny_settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    settings = {**tiny_settings, **SETTINGS}
    del settings["data.name"]
    with ThinProcesses() as thin:
        run = federation.submit(tmp_path / "run.log", settings)
        try:
            wait_for(lambda: run.poll() is not None or len(events("round_started")) >= 3, "round 3")
            assert run.poll() is None, (tmp_path / "run.log").read_text(encoding="utf-8")
            federation.kill("hospital-b")
            wait_for(lambda: len(events("round_finished")) >= 3, "round 3 without it")
            start_silo(federation, tmp_path, "hospital-b")
            ended = run.wait()
        finally:
            run.kill()
    assert ended == 0, (tmp_path / "run.log").read_text(encoding="utf-8")
    (called,) = events("roll_call")
    assert called["names"] == dict(zip("012", SILOS, strict=True))
    rounds = events("round_finished")
    assert [event["round"] for event in rounds] == list(range(1, ROUNDS + 1))
    assert [event["ok"] for event in rounds[:3]] == [3, 3, 2]
    assert rounds[-1]["ok"] == 3  # it is back, as itself
    loads = {
        (node, told["process"]): told["backbone-loads"]
        for event in rounds
        for node, told in event["nodes"].items()
    }
    assert sorted(loads.values()) == [1, 1, 1]  # also where the SuperNode died
    assert rounds[-1]["clients_test"]["mean"] >= BAR
    assert not thin.heavy
    assert len(thin.peaks) >= 3 * ROUNDS
    _log.info("%d ClientApps, at most %d bytes", len(thin.peaks), max(thin.peaks.values()))
    assert max(thin.peaks.values()) <= MOST_BYTES
    (folder,) = list_runs(runs_parent())
    model = AutoPeftModelForSequenceClassification.from_pretrained(folder.adapter, num_labels=3)
    assert sum("lora_" in name for name, _ in model.named_parameters())
