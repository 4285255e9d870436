"""An installed package, a user's own file, and typing errors, as a user meets them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import read_events, short_run

FEDPEFT = str(Path(sys.executable).with_name("fedpeft"))
TESTS = Path(__file__).parents[1]
SOURCE = TESTS / "plugin_example"
OFFLINE = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
UNTRAINED = {"train.learning-rate": 1e-12, "train.head-learning-rate": 1e-12, "rounds": 1}
FROM_PACKAGE = {
    "rounds": 8,  # one bit per value learns, but slowly
    "strategy.name": "geomed",
    "strategy.options": '{"passes": 4}',
    "strategy.cohort": "largest",
    "method.name": "last-biases",
    "data.partitioner": "dealt",
    "wire.uplink": "sign",
    "observe.to": "milestones",
}
PARTS = {"folded_by": "geometric-median", "optimizer": {"name": "lion", "lr": 0.05}}
RUNS: Mapping[str, Mapping[str, Any]] = {
    "untrained": UNTRAINED,
    "package": FROM_PACKAGE,
    "parts": {"strategy.name": "fedprox", "strategy.options": json.dumps(PARTS)},
    "task": {"task": "tags"},
    "untrained task": {"task": "tags", **UNTRAINED},
    "own file": {
        "strategy.name": "my_rules:Halfway",
        "strategy.options": '{"share": 0.9}',
        "strategy.cohort": "my_rules:first",
    },
}
OWN_FILE = '''
import numpy as np
from fedpeft_app.adapters.algebra import shifted
from fedpeft_app.strategies.strategy import Assignment


class Halfway:
    """Go a share of the way to the mean of all deltas; no class of fedpeft's is behind it."""

    def __init__(self, share=0.5):
        self.share = share

    def prepare(self, spec, members):
        pass

    def configure(self, round_number, state, cohort):
        return {member.node_id: Assignment(state=state) for member in cohort}

    def aggregate(self, round_number, state, replies):
        mean = np.mean([reply.delta.vector for reply in replies], axis=0)
        return shifted(state, self.share * mean)


def first(members, count, generator_of, round_number):
    return members[:count]
'''
TYPING_ERRORS = {  # settings → what exists, and what is nearest to what was written
    ("strategy.name", "geomde"): ("fedavg", "flora, geomed", "Did you mean 'geomed'?"),
    ("strategy.name", "my_rules:Halfwy"): ("'my_rules' has: Halfway, first.", "mean 'Halfway'?"),
    ("strategy.name", "my_rulez:Halfway"): ("No module named 'my_rulez'", "mean 'my_rules'?"),
    ("strategy.name", "fedpeft_example.strategy:geomed"): ("aggregators, c", "mean 'strategies'?"),
    ("strategy.name", "flwr.serverapp.strategy:FedAdm"): ("FedAdagrad, FedAdam", "mean 'FedAdam'?"),
    ("strategy.options", '{"folded_by": "geometric-medain"}'): (
        "strategy.options",
        "unknown aggregator 'geometric-medain'. Known: mean, ",
        "multi-krum, geometric-median",
        "mean 'geometric-median'?",
    ),
    ("strategy.options", '{"optimizer": "loin"}'): ("adagrad, lion", "mean 'lion'?"),
    ("strategy.cohort", "largset"): ("uniform, round-robin", "largest", "mean 'largest'?"),
    ("strategy.cohort", "my_rules:frist"): ("has: Halfway, first.", "mean 'first'?"),
    ("wire.uplink", "topk(0.1)+sing"): ("float32", "int4, sign, zstd", "mean 'sign'?"),
    ("method.name", "last-bias"): ("full, head", "last-biases", "mean 'last-biases'?"),
    ("task", "tgas"): ("text-classification", "tags", "mean 'tags'?"),
    ("observe.to", "tensorboard,milestnes"): ("mlflow, wandb", "mean 'milestones'?"),
    ("data.partitioner", "delt"): ("iid, dirichlet", "dealt", "mean 'dealt'?"),
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example package, installed from a wheel."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", *OFFLINE, "--no-build-isolation", "-w", str(folder), str(SOURCE)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("fedpeft_example-*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", *OFFLINE, "--target", str(target), str(wheel)], check=True)
    return target


@pytest.fixture(scope="module")
def environment(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a process that has the package."""
    paths = os.pathsep.join(map(str, (installed, TESTS)))
    home = tmp_path_factory.mktemp("home")
    return {**os.environ, "PYTHONPATH": paths, "FEDPEFT_HOME": str(home)}


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a user's file."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "my_rules.py").write_text(OWN_FILE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def outcomes(
    environment: dict[str, str], own_folder: Path, tiny_model: Path, tiny_data: Path
) -> dict[str, Any]:
    """What came of all runs and all typing errors, in one process, for starting it takes long."""
    quick = {**short_run(tiny_model, tiny_data), "rounds": 4}
    wanted = {name: {**quick, **changes} for name, changes in RUNS.items()}
    for key, value in TYPING_ERRORS:
        base = {"strategy.name": "fedprox"} if key == "strategy.options" else {}
        wanted[f"{key}={value}"] = {**quick, **base, key: value}
    paths = os.pathsep.join((environment["PYTHONPATH"], str(own_folder)))  # as `fedpeft` adds it
    done = subprocess.run(
        [sys.executable, str(TESTS / "integration" / "plugged_runs.py")],
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        check=False,
        cwd=own_folder,
        env={**environment, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["package", "parts", "own file"])
def test_a_run_with_plug_ins_beats_the_initial_accuracy(
    outcomes: dict[str, Any], name: str
) -> None:
    assert isinstance(outcomes[name], float), outcomes[name]
    assert outcomes[name] > outcomes["untrained"] + 0.1


def test_a_task_of_a_package_is_learnt(outcomes: dict[str, Any]) -> None:
    assert outcomes["task"] > outcomes["untrained task"] + 0.1


@pytest.mark.parametrize(("key", "value"), TYPING_ERRORS)
def test_a_typing_error_lists_what_exists_before_anything_starts(
    outcomes: dict[str, Any], key: str, value: str
) -> None:
    refused = outcomes[f"{key}={value}"]
    assert not refused["started"]
    for part in (f"{key} = ", *TYPING_ERRORS[key, value]):
        assert part in refused["error"]


def test_contracts_hold_what_a_package_adds_to_their_laws(environment: dict[str, str]) -> None:
    names = ("sign", "geometric-median", "lion")
    suites = [f"tests/contracts/test_{kind}_contract.py" for kind in ("codec", "aggregator")]
    chosen = ["-k", " or ".join(names), "-v", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *chosen, *suites],
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS.parent,
        env=environment,
    )
    assert done.returncode == 0, done.stdout
    for name in names:
        assert f"{name}] PASSED" in done.stdout


@pytest.mark.slow
@pytest.mark.xdist_group("flower")
def test_flower_and_ray_find_a_package_and_a_file_of_the_working_folder(
    environment: dict[str, str], own_folder: Path, tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    own = {"strategy.cohort": "my_rules:first", "output.dir": str(tmp_path / "runs")}
    settings = {**tiny_settings, **FROM_PACKAGE, **own}
    command = [FEDPEFT, "run", "--nodes", "4", *(f"{key}={settings[key]}" for key in settings)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=own_folder, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (journal,) = (tmp_path / "runs").glob("*/journal.jsonl")
    events = read_events(journal)
    assert events[-1]["test"]["accuracy"] > 0.6  # 0.47 untrained
    assert (journal.parent / "milestones.txt").read_text().startswith("round_finished 1: ")
    cohorts = [event["cohort"] for event in events if event["event"] == "round_started"]
    assert cohorts == settings["rounds"] * [[0, 1]]
