"""The processes of a worker: Ray actors, one a slot, each with the code of the run it serves."""

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedpeft_app.mirrors import home
from fedpeft_app.warm.code import Code
from fedpeft_app.warm.door import DONE, FAILED
from fedpeft_app.warm.trainer import Trainer

_POLL_S = 0.2  # how soon it is seen that whoever asked is gone
_STORE_BYTES = 256 * 2**20  # Ray's store for what is handed over; memory is used as it fills
_NAMESPACE = "fedpeft"
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
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

    def shared_out(self, cpus: float, gpus: float) -> "Limits":
        """Share a machine out among processes.

        Args:
            cpus: CPU cores that there are.
            gpus: GPUs that there are.

        Returns:
            One process for each GPU, or one where there is none, if `slots` is 0; each with its
            part of everything.
        """
        slots = self.slots or round(gpus) or 1
        return replace(self, slots=slots, cpus=cpus / slots, gpus=gpus / slots)


@dataclass(slots=True)
class _Slot:
    """A place for one process: what runs there, and what it said last."""

    number: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    actor: Any = None
    code: Code | None = None
    used: float = field(default_factory=time.monotonic)
    facts: dict[str, Any] = field(default_factory=dict)


def start_ray(machine: Machine, scratch: Path) -> tuple[float, float]:
    """Start a Ray cluster on this machine that ends with this process, or join one.

    One of our own needs a token, drawn anew, of everyone who connects: Ray 2.55 listens on all
    interfaces, also where it is told to use the loopback.

    Args:
        machine: What to use.
        scratch: Folder for Ray's own files.

    Returns:
        CPU cores and GPUs that there are.
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
    found = ray.cluster_resources()
    return found.get("CPU", 1.0), found.get("GPU", 0.0)


@dataclass(slots=True, kw_only=True)
class Trainers:
    """All processes of a worker.

    Attributes:
        limits: What they may use.
        far: Whether they may run on other machines, to which their code must be sent.
    """

    limits: Limits
    far: bool
    _slots: list[_Slot] = field(init=False)
    _nodes: dict[str, int] = field(default_factory=dict)
    _seating: threading.Lock = field(default_factory=threading.Lock)

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
        from ray.exceptions import RayError

        slot = self._slots[self._seat(str(sorted(header["node_config"].items())))]
        problem = ""
        with slot.lock:
            for _ in range(2):
                self._require(slot, Code.from_json(header["code"]))
                try:
                    return self._asked(slot, header, body, waiting)
                except RayError as error:
                    problem = str(error).strip().partition("\n")[0]
                    _log.warning("Process %d of the worker ended: %s", slot.number, error)
                    self._end(slot)
        reason = f"Two processes of this node's worker ended, one after the other: {problem}"
        return {"status": FAILED, "reason": reason}, b""

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
        if slot.actor is not None and slot.code != code:
            _log.info("Process %d makes room for other code.", slot.number)
            self._end(slot)
        if slot.actor is None:
            slot.actor, slot.code = self._started(slot, code), code

    def _started(self, slot: _Slot, code: Code) -> Any:
        """Start a process."""
        import ray

        sent = {"working_dir": code.root} if self.far else {}
        here = {} if self.far else {"PYTHONPATH": code.root}
        variables = {**here, "FEDPEFT_HOME": str(home())}
        return (
            ray.remote(Trainer)
            .options(
                name=f"trainer-{os.getpid()}-{slot.number}-{secrets.token_hex(4)}",
                num_cpus=self.limits.cpus,
                num_gpus=self.limits.gpus,
                runtime_env={"env_vars": variables, **sent},
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
        slot.facts = {**told.pop("facts", {}), "done": told["status"] == DONE}
        if 0 < self.limits.memory < slot.facts.get("memory", 0):
            _log.warning("Process %d is ended: it holds more than it may.", slot.number)
            self._end(slot)
        return told, content

    def _end(self, slot: _Slot) -> None:
        """End the process there."""
        import ray

        if slot.actor is not None:
            ray.kill(slot.actor)
        slot.actor, slot.code = None, None
