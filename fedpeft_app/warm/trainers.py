"""The processes of a worker: Ray actors, one a slot, each with the code of the run it serves."""

import logging
import math
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedpeft_app.errors import LaunchError
from fedpeft_app.mirrors import home
from fedpeft_app.node.shared_home import SHARED_MARK
from fedpeft_app.warm.code import Code
from fedpeft_app.warm.door import FAILED, REFUSED
from fedpeft_app.warm.trainer import Trainer, other_python

_START_S = 180.0  # of a process, with its imports
_POLL_S = 0.2  # how soon it is seen that whoever asked is gone
_STORE_BYTES = 256 * 2**20  # Ray's store for what is handed over; memory is used as it fills
_NAMESPACE = "fedpeft"
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # without a share of a GPU, none is seen
    "RAY_ENABLE_AUTO_CONNECT": "0",  # after the end, no new cluster by accident
    "RAY_worker_niceness": "0",  # Ray's 15 would let everything else on the machine go first
}
_log = logging.getLogger(__name__)

Reply = tuple[dict[str, Any], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a worker may use in all.

    Attributes:
        cpus: CPU cores; 0 = all.
        gpus: GPUs; below 0 = all.
        ray_address: The Ray cluster to join, with all that it has; empty = one of our own.
    """

    cpus: int = 0
    gpus: int = -1
    ray_address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What each process of a worker may use.

    Attributes:
        slots: Processes, from 1.
        cpus: CPU cores of each.
        gpus: GPUs of each, fractions allowed.
        memory: Bytes of memory after which one is ended, once it has answered; 0 = no limit.
        idle_s: Seconds without a message after which one is ended; 0 = never.
    """

    slots: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0
    idle_s: float = 0.0

    def shared_out(self, machines: Sequence[tuple[float, float]]) -> "Limits":
        """Share machines out among processes.

        Args:
            machines: CPU cores and GPUs of each.

        Returns:
            One process for each GPU, or for each machine where there is none, if `slots` is 0;
            each with as much as all of them can have.

        Raises:
            LaunchError: If there is no room for so many.
        """
        all_cpus, all_gpus = map(sum, zip(*machines, strict=True))
        slots = self.slots or int(all_gpus) or len(machines)
        gpus = 0.0
        if all_gpus:  # whole ones for a process, or several processes to one
            gpus = all_gpus // slots if slots <= all_gpus else 1 / math.ceil(slots / all_gpus)
        quarters = range(int(4 * all_cpus / slots), 0, -1)
        for cpus in (all_cpus / slots, *(quarter / 4 for quarter in quarters)):
            if cpus and sum(_room(machine, cpus, gpus) for machine in machines) >= slots:
                return replace(self, slots=slots, cpus=cpus, gpus=gpus)
        raise LaunchError(
            f"Expected room for {slots} processes, got machines with {list(machines)} (CPU cores, "
            f"GPUs). Start fewer --trainers."
        )


def _room(machine: tuple[float, float], cpus: float, gpus: float) -> int:
    """Say how many processes fit on a machine."""
    by_cpus = int(machine[0] / cpus + 1e-9)
    return min(by_cpus, int(machine[1] / gpus + 1e-9)) if gpus else by_cpus


@dataclass(slots=True)
class _Slot:
    """A place for one process: what runs there, and what it said last."""

    number: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    actor: Any = None
    code: str = ""  # its digest
    used: float = field(default_factory=time.monotonic)
    facts: dict[str, Any] = field(default_factory=dict)


def start_ray(machine: Machine, scratch: Path) -> list[tuple[float, float]]:
    """Start a Ray cluster on this machine that ends with this process, or join one.

    One of our own needs a token, drawn anew, of everyone who connects: Ray 2.55 listens on all
    interfaces, also where it is told to use the loopback.

    Args:
        machine: What to use.
        scratch: Folder for Ray's own files.

    Returns:
        CPU cores and GPUs of each machine.
    """
    os.environ.update(_ENVIRONMENT)
    if not machine.ray_address:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR}  # but what processes log is ours
    if machine.ray_address:
        ray.init(address=machine.ray_address, namespace=_NAMESPACE, **quiet)
    else:
        ray.init(
            address="local",  # else it joins whatever cluster it finds on this machine
            namespace=_NAMESPACE,
            num_cpus=machine.cpus or None,
            num_gpus=machine.gpus if machine.gpus >= 0 else None,
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            _temp_dir=str(scratch),
            **quiet,
        )
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(one.get("CPU", 0.0), one.get("GPU", 0.0)) for one in resources]


@dataclass(slots=True, kw_only=True)
class Trainers:
    """All processes of a worker.

    Attributes:
        limits: What they may use.
        mark: A path that all machines see on which they may run; None = they run here.
    """

    limits: Limits
    mark: Path | None = None
    _slots: list[_Slot] = field(init=False)
    _nodes: dict[str, int] = field(default_factory=dict)
    _seating: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Begin with empty places."""
        self._slots = [_Slot(number) for number in range(self.limits.slots)]

    def answer(
        self, header: Mapping[str, Any], body: bytes, waiting: Callable[[], bool]
    ) -> Reply | None:
        """Let a process answer a message; a node has always the same one.

        A process that dies is replaced, and asked once more.

        Args:
            header: What `door.Door.ask` sends.
            body: What the message carries.
            waiting: Says whether whoever asked still waits. Work that nobody waits for is ended,
                with its process.

        Returns:
            What it says; None if nobody waits for it any more.
        """
        code = Code.from_json(header["code"])
        if code.python != sys.prefix:
            return {"status": REFUSED, "reason": other_python(code)}, b""
        slot = self._slots[self._seat(str(sorted(header["node_config"].items())))]
        while not slot.lock.acquire(timeout=_POLL_S):
            if not waiting():
                return None
        try:
            return self._answered(slot, code, header, body, waiting)
        finally:
            slot.lock.release()

    def _answered(
        self,
        slot: _Slot,
        code: Code,
        header: Mapping[str, Any],
        body: bytes,
        waiting: Callable[[], bool],
    ) -> Reply | None:
        """Let the process there answer; if it dies, another."""
        from ray.exceptions import RayError

        problem = ""
        for _ in range(2):
            if self._over.is_set() or not waiting():
                return None
            try:
                self._require(slot, code)
                return self._asked(slot, header, body, waiting)
            except RayError as error:
                problem = type(error).__name__
                _log.warning("Process %d of the worker ended: %s", slot.number, error)
                self._end(slot)
        reason = f"Two processes of this node's worker ended, one after the other ({problem})"
        return {"status": FAILED, "reason": f"{reason}; its log says why."}, b""

    def close(self) -> None:
        """Begin nothing any more."""
        self._over.set()

    def tidy(self) -> None:
        """End processes that have had nothing to do for too long."""
        for slot in self._slots:
            idle = 0 < self.limits.idle_s <= time.monotonic() - slot.used
            if idle and slot.actor is not None and slot.lock.acquire(blocking=False):
                try:
                    _log.info("Process %d is ended: nothing to do.", slot.number)
                    self._end(slot)
                finally:
                    slot.lock.release()

    def status(self) -> list[dict[str, Any]]:
        """Say what each process said last of itself, and what it does."""
        return [
            {
                **slot.facts,
                "slot": slot.number,
                "warm": slot.actor is not None,
                "busy": slot.lock.locked(),
                "idle_s": time.monotonic() - slot.used,
            }
            for slot in self._slots
        ]

    def _seat(self, node: str) -> int:
        """Give the place of a node: the one it had, or the one that serves fewest."""
        with self._seating:
            if node not in self._nodes:
                served = list(self._nodes.values())
                self._nodes[node] = min(range(len(self._slots)), key=served.count)
            return self._nodes[node]

    def _require(self, slot: _Slot, code: Code) -> None:
        """See that a process with this code runs there; never two kinds of code in one."""
        if slot.actor is not None and slot.code != code.digest:
            _log.info("Process %d makes room for other code.", slot.number)
            self._end(slot)
        if slot.actor is None:
            import ray

            slot.actor, slot.code = self._started(slot, code), code.digest
            ray.get(slot.actor.facts.remote(), timeout=_START_S)  # where it finds no room, say so

    def _started(self, slot: _Slot, code: Code) -> Any:
        """Start a process."""
        import ray

        inherited = os.environ.get("PYTHONPATH", "")
        variables = {
            "PYTHONPATH": os.pathsep.join(filter(None, [code.root, inherited])),
            "FEDPEFT_HOME": str(home()),
            **({SHARED_MARK: str(self.mark)} if self.mark else {}),
        }
        return (
            ray.remote(Trainer)
            .options(
                name=f"trainer-{os.getpid()}-{slot.number}-{secrets.token_hex(4)}",
                num_cpus=self.limits.cpus,
                num_gpus=self.limits.gpus,
                runtime_env={"env_vars": variables},
            )
            .remote()
        )

    def _asked(
        self, slot: _Slot, header: Mapping[str, Any], body: bytes, waiting: Callable[[], bool]
    ) -> Reply | None:
        """Ask the process there, and wait for it as long as somebody waits for us."""
        import ray

        reference = slot.actor.answer.remote(dict(header), body)
        while not ray.wait([reference], timeout=_POLL_S)[0]:
            if not waiting():
                _log.warning("Nobody waits for process %d any more; it is ended.", slot.number)
                self._end(slot)
                return None
        told, content = ray.get(reference)
        slot.used = time.monotonic()
        slot.facts = told.pop("facts", {})
        if 0 < self.limits.memory < slot.facts.get("memory", 0):
            _log.warning("Process %d is ended: it holds more than it may.", slot.number)
            self._end(slot)
        return told, content

    def _end(self, slot: _Slot) -> None:
        """End the process there."""
        import ray

        if slot.actor is not None:
            ray.kill(slot.actor)
        slot.actor, slot.code = None, ""
