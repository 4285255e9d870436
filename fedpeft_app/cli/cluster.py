"""A Ray cluster that somebody else started, looked at before a simulation joins it."""

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedpeft_app.cli import cluster_probe
from fedpeft_app.cli.cluster_probe import versions
from fedpeft_app.cli.superlink import QUIET
from fedpeft_app.errors import ConfigError, Fault, LaunchError
from fedpeft_app.mirrors import home
from fedpeft_app.node.shared_home import SHARED_MARK

_TIMEOUT_S = 180.0  # above what the probe allows itself; a loaded machine starts Python slowly
_OPTION = "--ray-address"
_STAMP = re.compile(r"\[\d{4}-[^]]*\] (\([^)]*\) )?(\S+:\d+: )?")  # Ray's: time, process, line
_START = (
    "Start one with `ray start --head --port=6379` here and `ray start --address=HOST:6379` on "
    "the other machines; on a cluster with RAY_AUTH_MODE=token have its token in the environment "
    "here too."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One Ray node.

    Attributes:
        name: Its IP address.
        cpus: CPU cores that Ray may give away there.
        gpus: GPUs that Ray may give away there.
        free_cpus: Of those, how many are not given away.
        free_gpus: Likewise.
        sees_home: Whether it can write where the launcher does, in its home; None = it did not
            answer.
        versions: Package → version.
    """

    name: str
    cpus: float
    gpus: float
    free_cpus: float
    free_gpus: float
    sees_home: bool | None
    versions: Mapping[str, str]

    def actors(self, cpus: float, gpus: float) -> int:
        """Say how many clients of a size it has room for, if nothing else runs."""
        return _room(self.cpus, self.gpus, cpus, gpus)

    def free_actors(self, cpus: float, gpus: float) -> int:
        """Say how many it has room for now."""
        return _room(self.free_cpus, self.free_gpus, cpus, gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running Ray cluster.

    Attributes:
        address: "host:port".
        machines: Its live nodes.
    """

    address: str
    machines: tuple[Machine, ...]

    def environment(self, mark: Path) -> dict[str, str]:
        """Give the variables with which Flower's simulation joins it.

        Flower calls `ray.init()` without an address. Its actors are children of the cluster, not
        of the launcher, so what they need of our environment goes with the job.

        Args:
            mark: A path in the home that exists as long as the run.
        """
        actors = {**QUIET, "FEDPEFT_HOME": str(home()), SHARED_MARK: str(mark)}
        return {
            "RAY_ADDRESS": self.address,
            "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"env_vars": actors}}),
        }


def find_cluster(address: str, mark: Path) -> Cluster:
    """Look at a cluster.

    Args:
        address: "host:port", or "auto" for the one that runs on this machine.
        mark: A folder in the home.

    Raises:
        LaunchError: If nobody answers there, within seconds, or Ray does not let us join.
    """
    if "://" in address:
        problem = (
            "the launcher must be a machine of the cluster, and Ray Client ('ray://') is for those "
            "that are not. Run it there, with HOST:PORT of the head, or 'auto'."
        )
        raise ConfigError([Fault(key=_OPTION, value=address, problem=problem)])
    # As text: a script's own folder would come first among the modules of Ray's processes.
    source = Path(cluster_probe.__file__).read_text(encoding="utf-8")
    command = [sys.executable, "-P", "-c", source, address, str(mark)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LaunchError(_unreachable(address, "it did not answer in time")) from error
    told = _last_json(done.stdout)
    if told is None or "problem" in told:
        problem = told["problem"] if told else _end(done.returncode)
        said = _telling_line(done.stderr)
        raise LaunchError(_unreachable(address, f"{problem} ({said})" if said else problem))
    return Cluster(
        address=told["address"], machines=tuple(Machine(**row) for row in told["machines"])
    )


def require_usable(cluster: Cluster, cpus: int, gpus: float) -> None:
    """Refuse a cluster on which a run would not start, would wait, or would forget.

    Args:
        cluster: What was found.
        cpus: CPU cores of a client.
        gpus: GPUs of a client.

    Raises:
        ConfigError: If a client fits on none of its machines, or other jobs hold what it needs.
        LaunchError: If a machine on which clients would run did not answer, has other versions,
            or does not see the launcher's home.
    """
    _require_room(cluster, cpus, gpus)
    hosts = [machine for machine in cluster.machines if machine.actors(cpus, gpus)]
    ours = versions()
    for machine in hosts:
        _require_answer(machine, cluster)
        other = [
            f"{name} {machine.versions.get(name, 'none')} (here {version})"
            for name, version in ours.items()
            if machine.versions.get(name) != version
        ]
        if other:
            raise LaunchError(
                f"Expected the versions of this machine on all of the cluster at "
                f"{cluster.address}, got {', '.join(other)} on {machine.name}. Install the same "
                f"there (constraints.txt), and start Ray from that environment."
            )
        if not machine.sees_home:
            raise LaunchError(
                f"Expected {home()} to be one folder that all machines share, but {machine.name} "
                f"does not see what this one writes there, or may not write. Any machine may "
                f"train any node, and what nodes keep (what they spent of privacy, too) lies "
                f"there. Set FEDPEFT_HOME to a shared folder, at the same path everywhere."
            )


def _require_answer(machine: Machine, cluster: Cluster) -> None:
    """Refuse a machine that Ray takes for alive, and that starts nothing."""
    if machine.sees_home is None:
        raise LaunchError(
            f"Expected every machine of the cluster at {cluster.address} to start a process, but "
            f"{machine.name} did not within 90 s. Look at its Ray logs, or take it out."
        )


def _require_room(cluster: Cluster, cpus: int, gpus: float) -> None:
    """Refuse clients that fit nowhere, or for which others leave no room."""
    size = f"{cpus} CPU cores and {gpus:g} GPUs"
    room = sum(machine.actors(cpus, gpus) for machine in cluster.machines)
    if not room:
        has = "; ".join(f"{m.name}: {m.cpus:g} and {m.gpus:g}" for m in cluster.machines)
        problem = f"a client of {size} fits on no machine of the cluster ({has}). Lower one."
        key = "--client-gpus" if gpus else "--client-cpus"
        raise ConfigError([Fault(key=key, value=gpus or cpus, problem=problem)])
    free = sum(machine.free_actors(cpus, gpus) for machine in cluster.machines)
    if free < room:
        problem = (
            f"the cluster has room for {room} clients of {size}, but other jobs leave it for "
            f"{free}. A message to a client that cannot start would wait for them. Wait yourself, "
            f"or end them."
        )
        raise ConfigError([Fault(key=_OPTION, value=cluster.address, problem=problem)])


def _room(has_cpus: float, has_gpus: float, cpus: float, gpus: float) -> int:
    """Count clients as Flower does: whole ones, machine by machine."""
    by_cpu = int(has_cpus / cpus)
    return min(by_cpu, int(has_gpus / gpus)) if gpus else by_cpu


def _unreachable(address: str, problem: str) -> str:
    """Word it."""
    return f"Expected a Ray cluster at {_OPTION} '{address}', got: {problem}. {_START}"


def _end(status: int) -> str:
    """Say how the probe ended that said nothing."""
    if status == -signal.SIGALRM:
        return f"Ray could not join it within {cluster_probe.JOIN_S} s"
    return f"Ray ended while it joined, with status {status}"


def _telling_line(said: str) -> str:
    """Give the last line that Ray logged, which frames of a stack may follow; or else the last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    logged = [line[stamp.end() :].strip() for line in lines if (stamp := _STAMP.match(line))]
    return (logged or lines or [""])[-1]


def _last_json(output: str) -> dict[str, Any] | None:
    """Read the last line; Ray may have said things before."""
    with contextlib.suppress(IndexError, ValueError):
        found = json.loads(output.strip().splitlines()[-1])
        return found if isinstance(found, dict) else None
    return None
