"""Runs on a GPU: `make test-gpu`.

Written on a machine without one: nobody has run these tests yet. What of the GPU path a CPU can
test is in tests/training/test_capacity.py (which has one more for a GPU), test_corrections.py and
test_fit.py (loss scaling), and tests/cli/test_shares.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import short_run
from journals import processes
from rich.console import Console

from fedpeft_app.cli.launch import Simulation, run_simulation
from fedpeft_app.config import parse
from fedpeft_app.runs.checkpoint import load_checkpoint
from fedpeft_app.runs.directory import RunFolder

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("flower")]
SHARED_CACHE = Path(os.environ.get("FEDPEFT_TEST_CACHE", Path.home() / ".fedpeft")) / "cache"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FEDPEFT = str(Path(sys.executable).with_name("fedpeft"))


def run(settings: dict[str, Any], share: float, **changes: Any) -> RunFolder:
    """Run four nodes, each with a share of a GPU."""
    simulation = Simulation(nodes=4, client_cpus=1, client_gpus=share, actors=0)
    everyone = {"strategy.fraction-train": 1.0, "data.min-examples": 1}
    config = parse({**settings, **everyone, **changes})
    return run_simulation(config, simulation, Console(quiet=True))


def test_the_demo_learns(own_home: Path) -> None:
    SHARED_CACHE.mkdir(parents=True, exist_ok=True)
    own_home.mkdir(parents=True)
    (own_home / "cache").symlink_to(SHARED_CACHE)
    settings = ["rounds=4", "data.max-examples=1500", "evaluate.every=4"]
    settings += ["strategy.fraction-train=1.0"]
    subprocess.run([FEDPEFT, "run", *settings, "--client-gpus", "0.4"], check=True)
    (folder,) = (own_home / "runs").iterdir()
    finished = RunFolder(path=folder).events()[-1]
    assert finished["test"]["accuracy"] > 0.7


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_several_clients_share_a_gpu(tiny_settings: dict[str, Any], precision: str) -> None:
    folder = run(tiny_settings, 0.25, **{"train.precision": precision})
    assert folder.events()[-1]["event"] == "run_finished"
    assert len(processes(folder)) > 1


def test_a_gpu_trains_what_a_cpu_trains(tiny_settings: dict[str, Any]) -> None:
    ends = [
        load_checkpoint(run(tiny_settings, share, **{"output.name": name}), 2).state.vector
        for share, name in ((0.0, "cpu"), (0.25, "gpu"))
    ]
    assert ends[1] == pytest.approx(ends[0], rel=1e-3, abs=1e-4)


def test_a_causal_model_of_four_bits_trains(
    tiny_llama: Path, tiny_data: Path, tmp_path: Path
) -> None:
    answers = tmp_path / "answers.jsonl"
    rows = ['{"prompt": "name the topic", "response": "topic"}'] * 40
    answers.write_text("\n".join(rows), encoding="utf-8")
    causal = {
        "task": "causal-lm",
        "data.name": str(answers),
        "model.quantization": "nf4",
        "model.dtype": "bfloat16",
        "train.gradient-checkpointing": True,
        "train.precision": "auto",
    }
    folder = run({**short_run(tiny_llama, tiny_data), **causal}, 0.4)
    assert folder.events()[-1]["event"] == "run_finished"


@pytest.mark.parametrize(("precision", "apart"), [("fp32", 1e-3), ("bf16", 0.2)])
def test_several_clients_in_one_step_learn_what_each_learns_alone(
    tmp_path: Path, precision: str, apart: float
) -> None:
    """The prototype of docs/decisions/many-clients.md; its ratios are what a GPU would decide."""
    script = [sys.executable, str(BENCHMARKS / "many_clients.py"), "--device", "cuda"]
    script += ["--clients", "4", "16", "--batch", "4", "--precision", precision]
    subprocess.run([*script, "--out", str(tmp_path / "out.json")], check=True)
    told = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert max(told["measured"]["apart"]) < apart
