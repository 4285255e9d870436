"""A Ray cluster of two nodes on this machine, which nobody else's `ray.init()` finds."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Not with `ray start`, for only `ray stop` ends that, and it ends every Ray on the machine.
_SCRIPT = """
import sys
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
cluster.add_node(**node)
cluster.wait_for_nodes()
print("up at", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextlib.contextmanager
def two_nodes(folder: Path) -> Iterator[str]:
    """Start two nodes of one CPU each, and give their address.

    Args:
        folder: For Ray's files, with a short path: sockets lie there. Ray notes the address of
            the newest cluster in it; in its usual place, simulations on the whole machine that
            do not say otherwise would join.
    """
    environment = {**os.environ, "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as process:
        try:
            lines = iter(process.stdout.readline, "") if process.stdout else iter(())
            yield next(line.split()[-1] for line in lines if line.startswith("up at"))
        finally:
            if process.stdin:
                process.stdin.close()
            process.wait(60)
