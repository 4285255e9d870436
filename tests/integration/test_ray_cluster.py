"""Simulations on a Ray cluster of two nodes, with real processes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import short_run
from journals import processes
from ray_cluster import two_nodes
from rich.console import Console

from fedpeft_app.cli.cluster import find_cluster, require_usable
from fedpeft_app.cli.launch import Simulation, run_simulation
from fedpeft_app.config import parse
from fedpeft_app.errors import ConfigError, LaunchError
from fedpeft_app.runs.checkpoint import load_checkpoint
from fedpeft_app.runs.directory import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("flower")]
FEDPEFT = str(Path(sys.executable).with_name("fedpeft"))
# A lossy uplink with feedback: nodes keep something, and go on from it wherever they run next.
SETTINGS = {"strategy.fraction-train": 1.0, "rounds": 3, "wire.uplink": "int8"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with (
        tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder,
        two_nodes(Path(folder)) as address,
    ):
        yield address


def run(settings: dict[str, Any], address: str, **changes: Any) -> RunFolder:
    """Run four nodes, on a cluster or on a Ray of its own."""
    simulation = Simulation(nodes=4, client_cpus=1, client_gpus=0.0, actors=0, ray_address=address)
    config = parse({**settings, **SETTINGS, **changes})
    return run_simulation(config, simulation, Console(quiet=True))


def is_idle(address: str) -> bool:
    """Say whether a cluster is up, and no client runs on it."""
    machines = find_cluster(address, Path("/")).machines
    return [machine.free_cpus for machine in machines] == [1.0, 1.0]


def within(seconds: float, address: str, *, idle: bool) -> bool:
    """Wait until a cluster is idle, or is not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_idle(address) == idle:
            return True
        time.sleep(0.5)
    return False


def test_a_cluster_of_two_gives_the_bits_of_one_machine(
    cluster: str, tiny_settings: dict[str, Any], own_home: Path
) -> None:
    apart = run(tiny_settings, cluster, **{"output.name": "apart"})
    assert within(10, cluster, idle=True)
    alone = run(tiny_settings, "", **{"output.name": "alone"})
    ends = [load_checkpoint(folder, 3).state.vector.tobytes() for folder in (apart, alone)]
    assert ends[0] == ends[1]
    # Each Ray node has one CPU and each client takes one: two processes are on two nodes.
    assert len(processes(apart)) == 2


def test_a_run_of_its_own_leaves_a_cluster_on_this_machine_alone(
    cluster: str, tiny_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster)  # as Ray's own file of the newest cluster would
    simulation = Simulation(nodes=4, client_cpus=1, client_gpus=0.0, actors=1)
    folder = run_simulation(parse({**tiny_settings, **SETTINGS}), simulation, Console(quiet=True))
    assert len(processes(folder)) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_command_ends_its_clients_and_not_the_cluster(
    cluster: str, tiny_model: Path, tiny_data: Path, own_home: Path, number: signal.Signals
) -> None:
    settings = {**short_run(tiny_model, tiny_data), "rounds": 100000, "evaluate.every": 0}
    command = [FEDPEFT, "run", *(f"{key}={value}" for key, value in settings.items())]
    command += ["--nodes", "4", "--ray-address", cluster]
    assert within(20, cluster, idle=True)
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)
    ) as process:
        assert within(60, cluster, idle=False)
        process.send_signal(number)
        process.wait(60)
    assert within(30, cluster, idle=True)


def test_a_cluster_that_is_held_by_others_is_refused(
    cluster: str, own_home: Path, tmp_path: Path
) -> None:
    assert within(20, cluster, idle=True)
    holding = (
        "import ray, sys; ray.init(sys.argv[1])\n"
        "class Idle: pass\n"
        "actor = ray.remote(num_cpus=1)(Idle).remote(); ray.get(actor.__ray_ready__.remote())\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", holding, cluster],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert within(60, cluster, idle=False)
        with pytest.raises(ConfigError, match="other jobs leave it for 1"):
            require_usable(find_cluster(cluster, tmp_path), 1, 0.0)
        process.kill()
    assert within(20, cluster, idle=True)


def test_a_home_that_is_not_there_on_the_machines_is_refused(cluster: str, own_home: Path) -> None:
    assert within(20, cluster, idle=True)
    found = find_cluster(cluster, own_home / "flower-1-2-3")  # which nobody made
    with pytest.raises(LaunchError, match="to be one folder that all machines share"):
        require_usable(found, 1, 0.0)


def test_a_cluster_that_wants_a_token_refuses_those_without(tmp_path: Path) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder,
    ):
        for name, value in token.items():
            patch.setenv(name, value)
        with two_nodes(Path(folder)) as address:
            require_usable(find_cluster(address, tmp_path), 1, 0.0)
            patch.setenv("RAY_AUTH_TOKEN", "b" * 64)
            started = time.monotonic()
            with pytest.raises(LaunchError, match=r"Expected a Ray cluster .*InvalidAuthToken"):
                find_cluster(address, tmp_path)
            assert time.monotonic() - started < 60
