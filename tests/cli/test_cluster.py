"""What of a Ray cluster is refused before a simulation joins it."""

import json
import signal
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fedpeft_app.cli import cluster as looked_at
from fedpeft_app.cli.cluster import Cluster, Machine, find_cluster, require_usable
from fedpeft_app.cli.cluster_probe import can_write, versions
from fedpeft_app.errors import ConfigError, LaunchError
from fedpeft_app.node.shared_home import SHARED_MARK

HEAD = Machine(
    name="10.0.0.1",
    cpus=4.0,
    gpus=0.0,
    free_cpus=4.0,
    free_gpus=0.0,
    sees_home=True,
    versions=versions(),
)
GPUS = replace(HEAD, name="10.0.0.2", gpus=2.0, free_gpus=2.0)


def cluster(*machines: Machine) -> Cluster:
    return Cluster(address="10.0.0.1:6379", machines=machines)


@pytest.mark.parametrize(
    ("cpus", "gpus", "room"), [(1, 0.0, 4), (3, 0.0, 1), (1, 0.5, 4), (2, 1.0, 2)]
)
def test_room_is_whole_clients_by_what_is_scarcer(cpus: int, gpus: float, room: int) -> None:
    assert GPUS.actors(cpus, gpus) == room
    assert HEAD.actors(cpus, gpus) == (0 if gpus else room)


def test_what_suits_is_taken() -> None:
    require_usable(cluster(HEAD, GPUS), 1, 0.0)
    require_usable(cluster(HEAD, GPUS), 1, 0.5)


@pytest.mark.parametrize(
    ("cpus", "gpus", "told"),
    [
        (5, 0.0, r"--client-cpus = 5: .*10\.0\.0\.1: 4 and 0; 10\.0\.0\.2: 4 and 2"),
        (5, 0.5, r"--client-gpus = 0\.5: a client of 5 CPU cores and 0\.5 GPUs fits on no machine"),
    ],
)
def test_a_client_that_fits_nowhere_is_refused(cpus: int, gpus: float, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        require_usable(cluster(HEAD, GPUS), cpus, gpus)


def test_room_that_others_hold_is_refused() -> None:
    busy = replace(GPUS, free_gpus=1.0)
    with pytest.raises(ConfigError, match="room for 4 clients .* other jobs leave it for 2"):
        require_usable(cluster(HEAD, busy), 1, 0.5)


def test_another_version_is_named_with_its_machine() -> None:
    other = replace(GPUS, versions={**versions(), "torch": "1.0"})
    with pytest.raises(LaunchError, match=r"got torch 1\.0 \(here .*\) on 10\.0\.0\.2\."):
        require_usable(cluster(HEAD, other), 1, 0.0)


def test_a_home_that_is_not_shared_is_refused() -> None:
    with pytest.raises(LaunchError, match=r"but 10\.0\.0\.2 does not see .* Set FEDPEFT_HOME"):
        require_usable(cluster(HEAD, replace(GPUS, sees_home=False)), 1, 0.0)


def test_a_machine_that_does_not_answer_is_refused() -> None:
    silent = replace(GPUS, sees_home=None, versions={})
    with pytest.raises(LaunchError, match=r"but 10\.0\.0\.2 did not"):
        require_usable(cluster(HEAD, silent), 1, 0.0)


def test_machines_on_which_no_client_fits_may_be_as_they_are() -> None:
    odd = replace(HEAD, sees_home=False, versions={"torch": "1.0"})
    require_usable(cluster(odd, GPUS), 1, 1.0)


def test_clients_are_told_where_the_shared_home_is(own_home: Path) -> None:
    mark = own_home / "flower-1-2-3"
    told = cluster(HEAD).environment(mark)
    assert told["RAY_ADDRESS"] == "10.0.0.1:6379"
    of_actors = json.loads(told["RAY_JOB_CONFIG_JSON_ENV_VAR"])["runtime_env"]["env_vars"]
    assert of_actors["FEDPEFT_HOME"] == str(own_home)
    assert of_actors[SHARED_MARK] == str(mark)
    assert "FLWR_HOME" not in of_actors  # by which a run finds what is left of it, to end it


def test_ray_client_is_refused() -> None:
    with pytest.raises(ConfigError, match="the launcher must be a machine of the cluster"):
        find_cluster("ray://10.0.0.1:10001", Path("/"))


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:1"])
def test_where_nobody_answers_the_command_fails_in_seconds(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(LaunchError, match=f"cluster at --ray-address '{address}'.*ray start"):
        find_cluster(address, Path("/"))
    assert time.monotonic() - started < 30


_STAMP = "[2026-01-02 03:04:05,678 W 29262 29262] gcs_client.cc:205: "
_TOKEN = "Failed to get cluster ID: InvalidAuthToken: Authentication token is missing"


@pytest.mark.parametrize(
    ("status", "out", "err", "told"),
    [
        (
            *(0, '{"problem": "ConnectionError: Failed to connect"}', f"{_STAMP}{_TOKEN}\n\n"),
            rf"got: ConnectionError: Failed to connect \({_TOKEN}\)\. Start one",
        ),
        (0, '{"problem": "ConnectionError: there is none"}', "", "got: ConnectionError: there"),
        (-signal.SIGALRM, "", "", r"got: Ray could not join it within 30 s\. Start"),
        (
            *(-signal.SIGABRT, "", f"{_STAMP}{_TOKEN}\n*** StackTrace ***\n    @ 0x7f ray::core()"),
            rf"got: Ray ended while it joined, with status -6 \({_TOKEN}\)\. Start one",
        ),
        (1, "", "Traceback:\n  at x\nImportError: no ray\n", r"status 1 \(ImportError: no ray\)"),
    ],
)
def test_what_ray_said_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, status: int, out: str, err: str, told: str
) -> None:
    def probed(command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, status, out, err)

    monkeypatch.setattr(looked_at.subprocess, "run", probed)
    with pytest.raises(LaunchError, match=told):
        find_cluster("auto", Path("/"))


def test_a_folder_that_is_only_there_is_not_shared(tmp_path: Path) -> None:
    assert can_write(str(tmp_path))
    assert not list(tmp_path.iterdir())
    assert not can_write(str(tmp_path / "gone"))
    assert not can_write("/proc")  # takes no file, not even root's


@pytest.mark.slow
def test_a_port_of_something_else_fails_within_a_minute() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        started = time.monotonic()
        with pytest.raises(LaunchError, match="Expected a Ray cluster"):
            find_cluster(f"127.0.0.1:{other.getsockname()[1]}", Path("/"))
    assert time.monotonic() - started < 60
