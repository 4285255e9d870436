"""Asks a Ray cluster what it is, in a process of its own: Ray may wait for minutes, or abort.

Run as `python -c`, so that what it asks machines to do travels with the question: they need Ray
for it and nothing of fedpeft. Prints one line of JSON.
"""

import importlib.metadata
import json
import os
import platform
import signal
import socket
import sys
import tempfile
from typing import Any

_REACH_S = 3.0  # for the port of a cluster to open
JOIN_S = 30  # for Ray to join; it would go on trying for minutes
_ASK_S = 90.0  # for every machine to start a process and answer
PACKAGES = ("ray", "torch", "transformers", "peft", "flwr", "numpy")


def probe(address: str, mark: str) -> dict[str, Any]:
    """Join a cluster and ask all of its machines.

    Args:
        address: "host:port", or "auto" for the cluster that runs on this machine.
        mark: A folder in the launcher's home.

    Returns:
        The cluster's address, and its machines.

    Raises:
        OSError: If nothing answers there.
        RuntimeError: If Ray cannot join; it says why.
    """
    found = _resolved(address)
    with socket.create_connection(_parsed(found), _REACH_S):
        pass
    import ray

    signal.alarm(JOIN_S)  # ends this process, also where Ray waits in C++
    ray.init(found, logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    signal.alarm(0)
    free = ray._private.state.available_resources_per_node()
    machines = [node for node in ray.nodes() if node["Alive"]]
    answers = _answers([node["NodeID"] for node in machines], mark)
    return {
        "address": found,
        "machines": [
            {
                "name": node["NodeManagerAddress"],
                "cpus": node["Resources"].get("CPU", 0.0),
                "gpus": node["Resources"].get("GPU", 0.0),
                "free_cpus": free.get(node["NodeID"], {}).get("CPU", 0.0),
                "free_gpus": free.get(node["NodeID"], {}).get("GPU", 0.0),
                **answers.get(node["NodeID"], {"sees_home": None, "versions": {}}),
            }
            for node in machines
        ],
    }


def versions() -> dict[str, str]:
    """Name what must be the same on all machines, with its version; missing packages are "none"."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def can_write(folder: str) -> bool:
    """Say whether a folder is there and takes a file; one on a read-only mount is only there."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"0")
    except OSError:
        return False
    return True


def _resolved(address: str) -> str:
    """Give the host and port of a cluster; Ray knows where the one of this machine is."""
    from ray._private.services import canonicalize_bootstrap_address

    found = canonicalize_bootstrap_address(address)
    if found is None:
        raise ConnectionError("there is none")
    return str(found)


def _parsed(address: str) -> tuple[str, int]:
    """Split "host:port"."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _answers(nodes: list[str], mark: str) -> dict[str, dict[str, Any]]:
    """Ask every machine whether it sees a path, and which versions it has."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def answer() -> dict[str, Any]:
        return {"sees_home": can_write(mark), "versions": versions()}

    ask = ray.remote(num_cpus=0, max_retries=0)(answer)
    asked = {
        ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        ).remote(): node
        for node in nodes
    }
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ASK_S)
    return {asked[reference]: ray.get(reference) for reference in ready}


def main() -> None:
    """Print what the cluster of the first argument is, or what is wrong."""
    try:
        told = probe(*sys.argv[1:3])
    except Exception as error:  # noqa: BLE001  Ray raises of every kind
        told = {"problem": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    os._exit(0)  # Ray's own leaving takes a second, and may hang where the cluster is gone


if __name__ == "__main__":
    main()
